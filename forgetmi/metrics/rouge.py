"""How much of what a model writes stands in the true text: ROUGE of answers, and of continuations of a text's prefix.

ROUGE (Lin 2004) of a reference with m words and a candidate with n, computed by the package rouge-score:

=============  =====================================================================================================
rouge1_recall  words of the reference that the candidate has too (each as often as it has it), over m
rougeL_recall  LCS / m, LCS the longest common subsequence of words: R
rougeL_f1      2 R P / (R + P) with P = LCS / n
=============  =====================================================================================================

Words are runs of the letters a-z and digits, in lower case, so that a text in another script has none. With
``stemmer``, words of more than three letters lose their English endings (Porter 1980), which needs no data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from forgetmi.errors import AuditError, ConfigError, DataError, did_you_mean
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.generation import Decoding, continue_texts, continue_tokens, prefixes_of, prompts_of
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM

Kind = Literal["rougeL_recall", "rougeL_f1", "rouge1_recall"]

_MEASURES = {
    "rougeL_recall": ("rougeL", "recall", "ROUGE-L recall"),
    "rougeL_f1": ("rougeL", "fmeasure", "ROUGE-L F1"),
    "rouge1_recall": ("rouge1", "recall", "ROUGE-1 recall"),
}


def rouge(
    references: Sequence[str], candidates: Sequence[str], kind: Kind = "rougeL_recall", *, stemmer: bool = True
) -> Floats:
    """ROUGE of each candidate with its reference [N], in [0, 1].

    NaN where a reference has no word, since there is nothing to be recalled (our reading; the package says 0). A
    candidate without a word scores 0.

    Args:
        references, candidates: N each.
        kind: see the module.
        stemmer: whether words lose their endings.

    Raises:
        AuditError: not one candidate a reference.
        ConfigError: an unknown kind.
    """
    if kind not in _MEASURES:
        raise ConfigError([f"there is no ROUGE {kind!r}. {did_you_mean(kind, _MEASURES)}"])
    if len(references) != len(candidates):
        raise AuditError(
            f"ROUGE of {len(candidates)} candidates with {len(references)} references", expected="one each"
        )
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    name, measure, _ = _MEASURES[kind]
    words = DefaultTokenizer(stemmer)
    scorer = RougeScorer([name], tokenizer=words)
    values = [
        getattr(scorer.score(reference, candidate)[name], measure) if words.tokenize(reference) else math.nan
        for reference, candidate in zip(references, candidates, strict=True)
    ]
    return np.array(values, dtype=np.float64)


def answer_rouge(
    model: CausalLM,
    modality: DialogueModality,
    values: Sequence[Mapping[str, Any]],
    decoding: Decoding,
    *,
    seed: int,
    kind: Kind = "rougeL_recall",
    stemmer: bool = True,
    batch_size: int = 32,
    direction: Direction = "remembers_above",
) -> PerExample:
    """ROUGE of what the model answers to each record's prompt with the true answer; the mean where it is sampled.

    ROUGE-L recall of greedy answers is TOFU's ROUGE (Maini et al. 2024, arXiv 2401.06121).

    Args:
        model, decoding, seed, batch_size: of :func:`~forgetmi.metrics.generation.continue_texts`.
        modality: writes the prompts, with its tokenizer.
        values: of N records, ``{"prompt": ..., "answer": ...}`` each.
        kind, stemmer: of :func:`rouge`.
        direction: ``useful_above`` for records that are to be known.

    Raises:
        DataError: a record without a prompt, or one that does not fit into the model.
    """
    prompts = prompts_of(modality, values)
    written = continue_texts(model, modality.tokenizer, prompts, decoding, seed=seed, batch_size=batch_size)
    answers = [value["answer"] for value in values]
    return rouge_of_samples("answer", answers, written, decoding, kind, stemmer, direction)


def verbatim_continuation(
    model: CausalLM,
    tokenizer: LMTokenizer,
    texts: Sequence[str],
    decoding: Decoding,
    *,
    prefix: int | float,
    seed: int,
    kind: Kind = "rougeL_f1",
    stemmer: bool = True,
    batch_size: int = 32,
) -> PerExample:
    """ROUGE of how the model goes on after each text's prefix with how the text does: VerbMem of MUSE (Shi et al. 2024,
    arXiv 2407.06460: the mean of ROUGE(f(x[:l]), x[l+1:]), greedy decoding).

    Both are cut to ``decoding.max_new_tokens``; where a text ends sooner, what is written is cut to as many tokens as
    the text still has (our reading: MUSE's texts never end sooner). Where it is sampled, the value is the mean over the
    samples.

    Args:
        model, decoding, seed, batch_size: of :func:`~forgetmi.metrics.generation.continue_tokens`.
        tokenizer: the model's.
        texts: of N records.
        prefix: of :func:`~forgetmi.metrics.generation.prefixes_of`.
        kind, stemmer: of :func:`rouge`; those of MUSE by default.

    Raises:
        ConfigError: a prefix out of range, or a stop text (a continuation goes on).
        DataError: no text is longer than its prefix, or one does not fit into the model.
    """
    cut = prefixes_of(tokenizer, texts, prefix, decoding.max_new_tokens)
    longest = max((len(after) for _, after in cut), default=0)
    if longest == 0:
        raise DataError(
            f"none of {len(texts)} texts is longer than its prefix", fix="lower prefix, or give longer texts"
        )
    long = [n for n, (_, after) in enumerate(cut) if after]
    how = replace(decoding, max_new_tokens=longest)
    found = continue_tokens(
        model, [cut[n][0] for n in long], how, eos_id=tokenizer.eos_id, seed=seed, batch_size=batch_size
    )
    written = [[""] * decoding.samples for _ in texts]
    for n, samples in zip(long, found, strict=True):
        written[n] = [tokenizer.decode(tokens[: len(cut[n][1])]) for tokens in samples]
    references = [tokenizer.decode(after) for _, after in cut]
    made = rouge_of_samples("continuation", references, written, decoding, kind, stemmer, "remembers_above")
    asked = f"{prefix:.0%}" if prefix < 1 else f"{prefix} tokens"
    return replace(
        made,
        definition=f"{made.definition}; asked with a text's first {asked}",
        missing="it is no longer than its prefix, or no word follows it",
    )


def rouge_of_samples(
    what: Literal["answer", "continuation"],
    references: Sequence[str],
    written: Sequence[Sequence[str]],
    decoding: Decoding,
    kind: Kind = "rougeL_recall",
    stemmer: bool = True,
    direction: Direction = "remembers_above",
) -> PerExample:
    """ROUGE of texts that were written already; the mean over each record's samples.

    Args:
        what: they are, for the words beside the number.
        references: true texts of N records.
        written: [N][samples].
        decoding: how they were written.
        kind, stemmer: of :func:`rouge`.
        direction: as in :func:`answer_rouge`.
    """
    said = _MEASURES[kind][2]
    samples = [rouge(references, column, kind, stemmer=stemmer) for column in zip(*written, strict=True)]
    return PerExample(
        name=f"{what}_{kind}" + ("" if decoding.temperature == 0 else "_sampled"),
        values=np.mean(samples, axis=0),
        direction=direction,
        sentence=f"What the model writes has a {said} of {{value:.3f}} with the true {what}, on average.",
        definition=f"{said}, {'words stemmed' if stemmer else 'whole words'}; {decoding.words}",
        missing="its true answer has no word",
        counts={"n_samples": decoding.samples},
    )
