"""MUSE (Shi et al., ICLR 2025, arXiv 2407.06460): six sides of unlearning documents.

=====================  ===============================================================================================
verbmem (C1)           mean ROUGE-L F1 of how the model goes on after a document's beginning with how the document
                       does, over at most 128 tokens
knowmem forget (C2)    mean ROUGE-L F1 of answers to questions about forgotten documents: few-shot, 32 tokens, cut
                       before the first blank line or the next question
privleak (C3)          how far a membership attack's AUC lies from a retrained model's, in percent of that:
                       :func:`privleak`
knowmem retain (C4)    as C2, about documents that are to be kept
scalability (C5)       the four above over forget sets that grow: :mod:`~forgetmi.metrics.muse_tables`
sustainability (C6)    the four above after one request, two, ...: the same module
=====================  ===============================================================================================

ROUGE is of whole words here (no stemmer), as published. *Our readings.* A prompt ends with "Answer:": published code
has a space behind it, which most tokenizers make a token of its own, and no answer ever followed such a token;
``trailing_space`` does the same. The true continuation is cut to as many tokens as are written, where published code
counts the token that begins a text among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from forgetmi.errors import AuditError, DataError
from forgetmi.metrics.choice_scoring import score_values
from forgetmi.metrics.figure import Direction, Figure, measure
from forgetmi.metrics.generation import Decoding, continue_texts
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Bools, Floats, auc, auc_statistic
from forgetmi.metrics.rouge import rouge
from forgetmi.metrics.token_signals import min_k
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM
from forgetmi.records import RecordDataset

VERBMEM = Decoding(max_new_tokens=128)
KNOWMEM = Decoding(max_new_tokens=32, stop=("\n\n", "\nQuestion", "Question:"))
MIN_K = 0.4
Divisor = Literal["retrained", "unlearned"]


@dataclass(frozen=True)
class MuseResult:
    """What MUSE says of one model; ``None`` where the data were not given.

    Attributes:
        verbmem, knowmem_forget, knowmem_retain: values of each question.
        scores: of the membership attack, forget documents first [N]: higher, likelier a member.
        member: which of them are forget documents [N]; the others are held out.
    """

    verbmem: PerExample | None = None
    knowmem_forget: PerExample | None = None
    knowmem_retain: PerExample | None = None
    scores: Floats | None = None
    member: Bools | None = None

    @property
    def auc(self) -> float | None:
        """The attack's AUC: 1 where every forget document is likelier than every one held out."""
        return None if self.scores is None or self.member is None else auc(self.scores, self.member)

    def privleak(
        self, retrained: MuseResult, rng: np.random.Generator, *, n_resamples: int = 1000, level: float = 0.95
    ) -> Figure:
        """PrivLeak with its interval: documents are resampled, the same ones for both models.

        Raises:
            AuditError: one of the two was not attacked, or on other documents; or see :func:`privleak`.
        """
        ours, theirs, member = self.scores, retrained.scores, self.member
        if ours is None or theirs is None or member is None:
            raise AuditError(
                "PrivLeak needs the attack's scores of this model and of a retrained one",
                fix="evaluate both with part privleak; there is no default for a reference that is missing",
            )
        if retrained.member is None or not np.array_equal(member, retrained.member):
            raise AuditError("the two models were attacked on other documents", expected="the same, in the same order")
        privleak(auc(ours, member), auc(theirs, member))  # refuses what cannot be divided by
        of_ours, of_theirs = auc_statistic(ours, member), auc_statistic(theirs, member)

        def statistic(weights: Floats) -> Floats:
            reference = 1.0 - of_theirs(weights)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray((1.0 - of_ours(weights) - reference) / reference * 100.0, dtype=np.float64)

        bootstrap = PatientBootstrap(np.arange(member.size), rng, strata=member, n_resamples=n_resamples, level=level)
        return measure(
            "privleak",
            statistic,
            bootstrap,
            direction="remembers_below",
            sentence="PrivLeak {value:.1f} %: 0 as a retrained model, -100 where the attack finds every document.",
        )


def privleak(auc_unlearned: float, auc_retrained: float | None, *, divisor: Divisor = "retrained") -> float:
    """(A_u - A_r) / A_r * 100, with A = 1 - AUC; MUSE, equation of section 3.1.

    MUSE counts documents that were *held out* as what the attack looks for, so that its AUC, A, is 1 - AUC of the AUC
    that is meant everywhere else here. Below 0 the model still remembers, above 0 it over-forgets.

    Args:
        auc_unlearned, auc_retrained: of an attack on forget against held-out documents (MUSE: Min-40%), 1 where every
            forget document is likelier.
        divisor: ``retrained`` as MUSE; ``unlearned`` as the text of Zhang et al. 2025 (arXiv 2410.16454) has it, whose
            code divides by the retrained model's too.

    Raises:
        AuditError: an AUC is missing or no AUC, or the divisor is 0. (Published code takes 0.5 for a missing
            reference.)
    """
    for whose, value in (("unlearned", auc_unlearned), ("retrained", auc_retrained)):
        if value is None or not 0.0 <= value <= 1.0:
            raise AuditError(
                f"PrivLeak: the {whose} model's AUC is {value}",
                expected="a number from 0 to 1",
                fix="attack that model too; there is no default for a reference that is missing",
            )
    assert auc_retrained is not None
    ours, reference = 1.0 - auc_unlearned, 1.0 - auc_retrained
    under = reference if divisor == "retrained" else ours
    if under == 0.0:
        raise AuditError(
            f"PrivLeak divides by 1 - AUC of the {divisor} model, which is 0: the attack finds every forget document",
            fix="compare the two AUCs themselves",
        )
    return (ours - reference) / under * 100.0


def rel_diff(value: float, reference: float | None) -> float:
    """(value - reference) / reference * 100, of any figure.

    Raises:
        AuditError: a number is missing, or the reference is 0.
    """
    if reference is None or not np.isfinite([value, reference]).all() or reference == 0.0:
        raise AuditError(
            f"a relative difference of {value} to {reference}",
            expected="two numbers, the reference not 0",
            fix="measure the reference; there is no default for one that is missing",
        )
    return (value - reference) / reference * 100.0


def verbmem(
    model: CausalLM,
    tokenizer: LMTokenizer,
    values: Sequence[Mapping[str, str]],
    decoding: Decoding = VERBMEM,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> PerExample:
    """How the model goes on after each prompt, against how the document does.

    Args:
        model: left in the mode it came in.
        tokenizer: the model's.
        values: ``prompt`` and ``answer`` (how it goes on) of N documents.
        decoding: greedy as MUSE, or sampled (a value is then the mean over samples).
        seed: of samples.
        batch_size: speed and memory only.
    """
    written = continue_texts(
        model, tokenizer, [value["prompt"] for value in values], decoding, seed=seed, batch_size=batch_size
    )
    cut = [tokenizer.encode(value["answer"], special=False)[0][: decoding.max_new_tokens] for value in values]
    return _mean_rouge(
        "verbmem",
        [tokenizer.decode(ids) for ids in cut],
        written,
        decoding,
        "remembers_above",
        "What the model writes after a document's beginning has ROUGE-L {value:.3f} with the document.",
    )


def knowmem(
    model: CausalLM,
    tokenizer: LMTokenizer,
    values: Sequence[Mapping[str, str]],
    examples: Sequence[Mapping[str, str]] = (),
    decoding: Decoding = KNOWMEM,
    *,
    of: Literal["forget", "retain"],
    trailing_space: bool = False,
    seed: int = 0,
    batch_size: int = 32,
) -> PerExample:
    """What the model answers to questions, against the true answers.

    Args:
        model: left in the mode it came in.
        tokenizer: the model's.
        values: ``prompt`` and ``answer`` of N questions.
        examples: questions with answers that stand before each; they should be none of ``values``.
        decoding: see the module's text.
        of: whose questions: it says which direction is good.
        trailing_space: see the module's text.
        seed: of samples.
        batch_size: speed and memory only.
    """
    before = "".join(f"Question: {example['prompt']}\nAnswer: {example['answer']}\n\n" for example in examples)
    end = " " if trailing_space else ""
    written = continue_texts(
        model,
        tokenizer,
        [f"{before}Question: {value['prompt']}\nAnswer:{end}" for value in values],
        decoding,
        seed=seed,
        batch_size=batch_size,
    )
    return _mean_rouge(
        f"knowmem_{of}",
        [value["answer"] for value in values],
        written,
        decoding,
        "remembers_above" if of == "forget" else "useful_above",
        f"Answers about {of} documents have ROUGE-L {{value:.3f}} with the true ones.",
    )


def evaluate_muse(
    model: CausalLM,
    tokenizer: LMTokenizer,
    parts: Mapping[str, RecordDataset],
    *,
    continuation: Decoding = VERBMEM,
    answers: Decoding = KNOWMEM,
    k: float = MIN_K,
    trailing_space: bool = False,
    seed: int = 0,
    batch_size: int = 32,
) -> MuseResult:
    """Evaluate a model on MUSE's parts, or on one's own of the same form.

    Args:
        model: left in the mode it came in.
        tokenizer: the model's.
        parts: ``verbmem``, ``knowmem``, ``privleak``, each as :class:`~forgetmi.data_adapters.muse.Muse` reads it; what
            is not given is not evaluated.
        continuation, answers: how is written.
        k: of the Min-K% attack.
        trailing_space: see the module's text.
        seed, batch_size: see :func:`verbmem`.

    Raises:
        DataError: an unknown part, or one that lacks forget or held-out documents.
        ModelError: the model's outputs are not numbers.
    """
    if unknown := [name for name in parts if name not in ("verbmem", "knowmem", "privleak")]:
        raise DataError(f"MUSE has no part {', '.join(unknown)}", expected="verbmem, knowmem, privleak")
    how: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    found: dict[str, Any] = {}
    if "verbmem" in parts:
        questions = _values(parts["verbmem"], "dialogue")["forget"]
        found["verbmem"] = verbmem(model, tokenizer, questions, continuation, **how)
    if "knowmem" in parts:
        sets = _values(parts["knowmem"], "dialogue")
        for of in ("forget", "retain"):
            if f"{of}_qa" in sets:
                shots = sets.get(f"{of}_qa_icl", [])
                found[f"knowmem_{of}"] = knowmem(
                    model, tokenizer, sets[f"{of}_qa"], shots, answers, of=of, trailing_space=trailing_space, **how
                )
    if "privleak" in parts:
        sets = _values(parts["privleak"], "text")
        if not {"forget", "holdout"} <= sets.keys():
            raise DataError("PrivLeak needs forget and holdout documents", expected="source_split forget and holdout")
        texts = [*sets["forget"], *sets["holdout"]]
        # The token that ends a text is none of the document's.
        signals = score_values(model, DialogueModality(tokenizer), texts, batch_size).without_last()
        found["scores"] = min_k(signals, k)
        found["member"] = np.arange(len(texts)) < len(sets["forget"])
    return MuseResult(**found)


def _values(dataset: RecordDataset, modality: str) -> dict[str, list[Any]]:
    """Values of each file, by its name."""
    found: dict[str, list[Any]] = {}
    for record in dataset:
        found.setdefault(record.attributes["source_split"], []).append(record.value(modality))
    return found


def _mean_rouge(
    name: str,
    references: Sequence[str],
    written: Sequence[Sequence[str]],
    decoding: Decoding,
    direction: Direction,
    sentence: str,
) -> PerExample:
    samples = [rouge(references, column, "rougeL_f1", stemmer=False) for column in zip(*written, strict=True)]
    return PerExample(
        name,
        np.mean(samples, axis=0),
        direction,
        sentence,
        definition=f"ROUGE-L F1 of whole words; {decoding.words}",
        missing="its true text has no word",
    )
