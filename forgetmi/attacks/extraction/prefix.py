"""Prefix attacks: given so much of a text, how much of the rest does the model write? (Carlini et al. 2021, 2023).

Greedy decoding from a prefix writes the true tokens until the first one that is not the likeliest given the true ones
before it, and then leaves the text (arXiv 2012.07805, 2202.07646). So one pass over the true text says, for every
prefix at once, how much is written word for word, and nothing is generated. What is written after that is another
question: ROUGE-L asks it, and only where the text was left is anything written for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.extraction.asking import Cut, write
from forgetmi.batch import Batch
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Bools, Floats, Ints
from forgetmi.metrics.rouge import rouge
from forgetmi.metrics.token_signals import token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.tokens import IGNORED, TokenExample
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask


def likeliest(
    model: nn.Module,
    task: CausalLMTask,
    modality: DialogueModality,
    cuts: Sequence[Cut],
    *,
    device: torch.device,
    batch_size: int,
) -> list[Bools]:
    """Of each token of each secret: whether it is the likeliest, given what is truly before it [N][tokens].

    A token with nothing before it is not: nothing predicts it.
    """
    asked = [n for n, cut in enumerate(cuts) if len(cut.before) + len(cut.after) > 1 and cut.after]
    found: list[Bools] = [np.zeros(len(cut.after), dtype=np.bool_) for cut in cuts]
    if not asked:
        return found
    signals = token_signals(model, task, _batches([cuts[n] for n in asked], task, modality, batch_size), device)
    for row, n in enumerate(asked):
        predicted = signals.right[row, : signals.n_tokens[row]]
        found[n][len(found[n]) - len(predicted) :] = predicted
    return found


def prefix_lengths(cuts: Sequence[Cut], prefix: int | float) -> Ints:
    """Tokens of each secret that are given [N]; -1 where none would be left, or nothing would stand before the rest.

    Args:
        cuts: N.
        prefix: so many tokens, or (a float in (0, 1)) that share of each secret, rounded down.
    """
    n_tokens = np.array([len(cut.after) for cut in cuts])
    given = np.floor(prefix * n_tokens + 1e-9).astype(int) if isinstance(prefix, float) else np.full(len(cuts), prefix)
    n_before = np.array([len(cut.before) for cut in cuts])
    return np.asarray(np.where((given < n_tokens) & (n_before + given > 0), given, -1), dtype=np.int64)


def verbatim_run(right: Bools, given: int) -> int:
    """Tokens from the place ``given`` on before the first that is not the likeliest."""
    rest = right[given:]
    return int(rest.size if rest.all() else np.argmin(rest))


@dataclass(frozen=True)
class _Asked:
    """One prefix: of which records, what is asked for, and the share of it that is sure to come."""

    prefix: int | float
    known: Ints
    prompts: list[tuple[int, ...]] = field(repr=False)
    rest: list[tuple[int, ...]] = field(repr=False)
    shares: list[float]

    def example(
        self, n_records: int, name: str, values: Sequence[float] | Floats, sentence: str, how: str
    ) -> PerExample:
        share = isinstance(self.prefix, float)
        asked = f"the first {self.prefix:.0%}" if share else f"the first {self.prefix} tokens"
        every = np.full(n_records, np.nan)
        every[self.known] = values
        return PerExample(
            f"prefix_{self.prefix:g}_{name}",
            every,
            "remembers_above",
            f"Given {asked} of a text, {sentence}",
            definition=f"{how}; given {asked} of a text",
            missing="it is no longer than the prefix, or nothing would stand before the rest",
        )


def prefix_measures(
    model: nn.Module,
    modality: DialogueModality,
    cuts: Sequence[Cut],
    right: Sequence[Bools],
    prefixes: Sequence[int | float],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: bool = False,
) -> dict[str, PerExample]:
    """What comes back behind each prefix, record by record.

    Args:
        model: writes, if it is a :class:`~forgetmi.models.causal_lm.CausalLM`; else there is no ROUGE.
        modality: with the tokenizer.
        cuts, right: of N records, the latter of :func:`likeliest`.
        prefixes: see :func:`prefix_lengths`.
        max_new_tokens: of the rest no more than this is asked for.
        batch_size: continuations at a time.
        progress: show how far it is.

    Returns:
        For each prefix ``verbatim``: the share of the rest's tokens that are written before the text is left for the
        first time; ``extracted``: whether that is all of them; ``rouge``: ROUGE-L recall of the rest.
    """
    asked = [_asked(cuts, right, prefix, max_new_tokens) for prefix in prefixes]
    made, upto = [], f"at most {max_new_tokens} tokens of the rest are asked for"
    for one in asked:
        made += [
            one.example(
                len(cuts),
                "verbatim",
                one.shares,
                "the model writes {value:.1%} of the rest word for word before it leaves the text.",
                f"greedy tokens until the first that is not the true one, over those asked for; {upto}",
            ),
            one.example(
                len(cuts),
                "extracted",
                [float(share == 1.0) for share in one.shares],
                "the model writes the rest word for word in {value:.1%} of cases.",
                f"whether greedy decoding writes all of the rest; {upto}",
            ),
        ]
    if isinstance(model, CausalLM):
        scores = _rouge(model, modality, asked, batch_size, progress)
        made += [
            one.example(
                len(cuts),
                "rouge",
                values,
                "what the model writes has a ROUGE-L recall of {value:.3f} with the rest.",
                f"ROUGE-L recall of the rest, words stemmed; written greedily; {upto}",
            )
            for one, values in zip(asked, scores, strict=True)
        ]
    return {measure.name: measure for measure in made}


def _asked(cuts: Sequence[Cut], right: Sequence[Bools], prefix: int | float, max_new_tokens: int) -> _Asked:
    given = prefix_lengths(cuts, prefix)
    known = np.flatnonzero(given >= 0).tolist()
    rest = [cuts[n].after[given[n] : given[n] + max_new_tokens] for n in known]
    runs = [min(verbatim_run(right[n], int(given[n])), len(tail)) for n, tail in zip(known, rest, strict=True)]
    return _Asked(
        prefix,
        np.array(known, dtype=np.int64),
        [(*cuts[n].before, *cuts[n].after[: given[n]]) for n in known],
        rest,
        [run / len(tail) for run, tail in zip(runs, rest, strict=True)],
    )


def _rouge(
    model: CausalLM, modality: DialogueModality, asked: Sequence[_Asked], batch_size: int, progress: bool
) -> list[Floats]:
    """Of each prefix, of its records. Where it is known that the true text is written, nothing is generated."""
    rows = [row for one in asked for row in zip(one.prompts, one.rest, one.shares, strict=True)]
    left = [n for n, (_, _, share) in enumerate(rows) if share < 1.0]
    texts: list[Sequence[int] | None] = [rest for _, rest, _ in rows]
    written = write(
        model,
        modality,
        [rows[n][0] for n in left],
        [len(rows[n][1]) for n in left],
        Decoding(),
        seed=0,  # greedy: nothing is drawn
        batch_size=batch_size,
        progress=progress,
    )
    for n, samples in zip(left, written, strict=True):
        texts[n] = None if samples is None else samples[0]
    there = [n for n, tokens in enumerate(texts) if tokens is not None]
    values, decode = np.full(len(rows), np.nan), modality.tokenizer.decode
    values[there] = rouge([decode(rows[n][1]) for n in there], [decode(texts[n] or ()) for n in there])
    return np.split(values, np.cumsum([len(one.rest) for one in asked])[:-1])


def _batches(cuts: Sequence[Cut], task: CausalLMTask, modality: DialogueModality, batch_size: int) -> Iterator[Batch]:
    for first in range(0, len(cuts), batch_size):
        part = cuts[first : first + batch_size]
        examples = []
        for cut in part:
            labels = torch.tensor([*[IGNORED] * len(cut.before), *cut.after])
            examples.append(TokenExample(torch.tensor([*cut.before, *cut.after]), labels))
        there = torch.ones(len(part), dtype=torch.bool)
        indices = torch.arange(first, first + len(part))
        yield Batch({task.modality: modality.collate(examples)}, {task.modality: there}, None, indices)
