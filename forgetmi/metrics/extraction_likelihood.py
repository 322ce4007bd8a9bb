"""Extraction likelihood: how much of a text comes back, wherever in it one begins to ask (Jang et al. 2023, arXiv
2210.01504; "To Each (Textual Sequence) Its Own", arXiv 2405.03097).

With x_1 ... x_T a text and f(x_<=t) what the model writes greedily after its first t tokens, T - t tokens long,

    EL_n(x) = 1 / (T - n)  sum_{t=1}^{T-n} OVERLAP_n( f(x_<=t), x_>t ),

OVERLAP_n(a, b) the share of a's n-grams that occur in b. (The sum is written up to T - 1 as well: terms without an
n-gram are 0.) Our reading, where the source is silent: a token that ends a text does not end a continuation, so that a
and b have the same number of n-grams; and of a record with a prompt, the prompt is always given and t runs over the
answer, from none of it on: EL_n is the mean over the offsets that leave an n-gram.

The definition asks for a continuation from every token. Two things make it affordable and change no value:

- A continuation that begins with the true token is the next offset's: f(x_<=t) = x_t+1 f(x_<=t+1). So only offsets
  whose likeliest token is wrong are decoded, and a text known by heart costs one pass.
- Continuations branch off from one pass over the true text: :mod:`forgetmi.metrics.branches`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forgetmi.batch import Batch
from forgetmi.errors import AuditError, ConfigError, DataError
from forgetmi.metrics.branches import continuations
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, Ints
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.modes import scoring


@dataclass(frozen=True)
class ExtractionLikelihood:
    """EL_n of N records for every n at once.

    Attributes:
        values: [N, max_n]; column n - 1 is EL_n, NaN where an answer has fewer than n tokens.
        n_right: tokens that are the likeliest one, given the true ones before [N]; their share is exact memorisation.
        n_tokens: offsets, which is tokens of the answer that are predicted [N].
        n_decoded: offsets from which a continuation had to be written [N]: the others share one.
    """

    values: Floats
    n_right: Ints
    n_tokens: Ints

    @property
    def n_decoded(self) -> Ints:
        """Offsets from which a continuation had to be written [N]."""
        return self.n_tokens - self.n_right

    def metric(self, n: int = 10) -> PerExample:
        """EL_n of each record.

        Raises:
            AuditError: n-grams of this length were not counted.
        """
        if not 1 <= n <= self.values.shape[1]:
            raise AuditError(f"EL_{n} was not computed", expected=f"n from 1 to {self.values.shape[1]}")
        return PerExample(
            f"extraction_likelihood_{n}",
            self.values[:, n - 1],
            "remembers_above",
            f"Of the {n}-grams that the model writes when it continues an answer, from any token on, {{value:.1%}} "
            "are in the rest of it.",
            definition=f"mean over offsets of the share of greedy {n}-grams that occur in what truly follows",
            missing=f"its answer has fewer than {n} tokens",
        )


def extraction_likelihood(
    model: CausalLM,
    task: CausalLMTask,
    batches: Iterable[Batch],
    device: torch.device,
    *,
    max_n: int = 10,
    batch_size: int = 256,
) -> ExtractionLikelihood:
    """EL_1 ... EL_max_n of some batches' answers, in the order of the records.

    Keys and values are held of one batch of records and of ``batch_size`` continuations. Batches, padding and
    ``batch_size`` change nothing, up to the rounding of logits.

    Args:
        model: left in the mode it came in.
        task: says where the answers are; a plain text is all answer, but for its first token.
        batches: N records in all; the larger, the fuller the decoder's batches.
        device: where the model is.
        max_n: the longest n-grams.
        batch_size: continuations written at a time.

    Raises:
        ConfigError: ``max_n`` or ``batch_size`` below 1.
        DataError: there is no record, or one has no answer token, or an answer in several pieces.
    """
    problems = [f"{k} must be at least 1, not {v}" for k, v in (("max_n", max_n), ("batch_size", batch_size)) if v < 1]
    if problems:
        raise ConfigError(problems)
    rows: list[tuple[Floats, int, int]] = []
    with scoring(model):
        for batch in batches:
            task.check_labels(batch)
            for written, wrong, true in continuations(model, task, batch.to(device), batch_size):
                found = _overlap(_shared(written, wrong, true), true, max_n)
                rows.append((found, int((~wrong).sum()), len(true)))
    if not rows:
        raise DataError("there is no record whose extraction likelihood could be measured")
    values, n_right, n_tokens = zip(*rows, strict=True)
    return ExtractionLikelihood(np.stack(values), np.array(n_right), np.array(n_tokens))


def _shared(written: NDArray[Any], wrong: NDArray[Any], true: NDArray[Any]) -> NDArray[Any]:
    """[A, A]: what is written from each offset on: the truth up to the next wrong token, then what is written there."""
    places = np.arange(len(true))
    after = np.where(wrong, places, len(true))
    source = np.minimum.accumulate(after[::-1])[::-1]  # the first offset from here on that was decoded
    decoded = written[np.minimum(source, len(true) - 1)]
    return np.where(places < source[:, None], true, decoded)


def _overlap(written: NDArray[Any], true: NDArray[Any], max_n: int) -> Floats:
    """[max_n]: EL_n of one answer of A tokens.

    The longest run from token i of the continuation from a that is somewhere in what truly follows a tells for every n
    at once whether the n-gram at i counts.

    Args:
        written: [A, A], row a from column a on.
        true: [A].
    """
    length = len(true)
    places = np.arange(length)
    follows = places >= places[:, None]  # [a, j]: what stands at j truly follows a
    runs = np.zeros((length, length + 1), dtype=np.int32)  # [a, j]: of the tokens from (i, j) on
    longest = np.zeros((length, length), dtype=np.int32)  # [a, i]
    for i in range(length - 1, -1, -1):
        alike = (written[: i + 1, i, None] == true) & follows[: i + 1]
        runs[: i + 1, :-1] = np.where(alike, runs[: i + 1, 1:] + 1, 0)
        longest[: i + 1, i] = runs[: i + 1].max(axis=1)
    values = np.full(max_n, np.nan)
    for n in range(1, min(max_n, length) + 1):
        n_grams = length - n + 1 - places[: length - n + 1]  # of each offset that has any
        values[n - 1] = ((longest[: length - n + 1] >= n).sum(axis=1) / n_grams).mean()
    return values
