"""What a language model gives away: how much of an answer it has by heart, and what it writes when it is asked.

With y_1 ... y_T the answer's tokens, and the likeliest token at t given the prompt and *the true* tokens before it:

===================  ===================================================================================================
exact memorisation   share of t whose likeliest token is y_t
verbatim prefix      tokens before the first t at which it is another. Greedy decoding writes exactly these, and then
                     leaves the text: so a prefix is *extracted* where it is no longer than this, and no text need be
                     generated to know it
extraction strength  tokens behind the last t at which it is another: what greedy decoding writes once it is given the
                     rest
===================  ===================================================================================================

What is written after the first wrong token is another question; :func:`greedy_answers` asks it, and
:mod:`forgetmi.metrics.extraction_likelihood` asks it from every token on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetmi.errors import ConfigError, DataError
from forgetmi.metrics.generation import plain_decoding
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Ints
from forgetmi.metrics.token_signals import TokenSignals, token_metric
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.tokens import IGNORED
from forgetmi.training.modes import scoring


def exact_memorisation(signals: TokenSignals) -> PerExample:
    """The share of tokens that are the likeliest one, given the true ones before: g(x) of "To Each (Textual Sequence)
    Its Own" (arXiv 2405.03097), memorisation accuracy of Tirumala et al. 2022 (arXiv 2205.10770).
    """
    return token_metric(
        "exact_memorisation",
        signals.mean(signals.right),
        "remembers_above",
        "Given what is truly before it, {value:.1%} of an answer's tokens are the one that the model finds likeliest.",
        "share of t whose likeliest token is y_t",
    )


def verbatim_prefix(signals: TokenSignals) -> PerExample:
    """Tokens before the first that is not the likeliest one, as a share of the answer: what greedy decoding from the
    prompt writes word for word (Carlini et al. 2023, arXiv 2202.07646). 1: the whole answer is extracted.
    """
    return token_metric(
        "verbatim_prefix",
        signals.mean(n_verbatim(signals)),
        "remembers_above",
        "Asked the prompt, the model writes the first {value:.1%} of an answer word for word.",
        "greedy tokens until the first that is not the true one, over the answer's tokens",
    )


def n_verbatim(signals: TokenSignals) -> Ints:
    """[N]: tokens that greedy decoding from the prompt writes before it leaves the true text."""
    return np.asarray(np.cumprod(signals.right, axis=1).sum(axis=1), dtype=np.int64)


def extraction_strength(signals: TokenSignals) -> PerExample:
    """ES = 1 - s / T, where greedy decoding from the first s true tokens writes all the others and s is the least such
    number (Carlini et al. 2021; as a metric of unlearning: OpenUnlearning, arXiv 2506.12618).

    s tokens suffice just where all tokens behind them are right, so no text is generated. With no right token at the
    end s = T and ES = 0; published code gives 1/T there.
    """
    behind = np.where(signals.mask, signals.right, True)[:, ::-1]
    suffix = np.cumprod(behind, axis=1).sum(axis=1) - (~signals.mask).sum(axis=1)
    return token_metric(
        "extraction_strength",
        signals.mean(suffix),
        "remembers_above",
        "The model completes an answer by itself over its last {value:.1%}, on average.",
        "1 - s/T: greedy decoding from the first s tokens writes all the others",
    )


@dataclass(frozen=True)
class Outliers:
    """Forgotten records of which a model still knows a lot, or suspiciously little: c(D_f) of "To Each (Textual
    Sequence) Its Own", as its published analysis counts them (the paper's own symbols are not known to us).

    A mean hides them, and an attacker looks for them: a text known by heart is extracted, and one of which the model
    gets less right than of any other text was visibly unlearned.

    Attributes:
        above, below: positions of the records with g >= ``high``, and of those with g <= ``low``.
        high, low: of exact memorisation g.
        n_records: with a value of g.
        mean, std: of g over them (std: divisor n).
        held_out_mean: mean g of texts that the same model never saw, measured.
    """

    above: tuple[int, ...]
    below: tuple[int, ...]
    high: float
    low: float
    n_records: int
    mean: float
    std: float
    held_out_mean: float

    @property
    def count(self) -> int:
        """c(D_f): 0 is what is wanted."""
        return len(self.above) + len(self.below)

    @property
    def gap(self) -> float:
        """|mean g - mean g of held-out texts|: 0 is what is wanted."""
        return abs(self.mean - self.held_out_mean)

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able; records by their positions."""
        return {**asdict(self), "count": self.count, "gap": self.gap}


HIGH, LOW = 0.60, 0.15
"""Where the tails of exact memorisation begin in the published analysis, both included."""


def known_by_heart(signals: TokenSignals, high: float = HIGH) -> PerExample:
    """1 where a record's exact memorisation is at least ``high``: the upper tail of c(D_f), as a share."""
    g = exact_memorisation(signals).values
    return token_metric(
        "known_by_heart",
        np.where(np.isnan(g), np.nan, (g >= high).astype(np.float64)),
        "remembers_above",
        "Of {value:.1%} of the records the model knows most tokens by heart.",
        f"share of records whose exact memorisation is at least {high:g}",
    )


def hardly_known(signals: TokenSignals, low: float = LOW) -> PerExample:
    """1 where it is at most ``low``: the lower tail. A record that no other is like is told from others too."""
    g = exact_memorisation(signals).values
    return token_metric(
        "hardly_known",
        np.where(np.isnan(g), np.nan, (g <= low).astype(np.float64)),
        "remembers_below",
        "Of {value:.1%} of the records the model gets hardly a token right.",
        f"share of records whose exact memorisation is at most {low:g}",
    )


def memorisation_outliers(
    memorisation: PerExample, held_out: PerExample, *, high: float = HIGH, low: float = LOW
) -> Outliers:
    """Count both tails of exact memorisation, and compare its mean with that of held-out texts.

    Args:
        memorisation: g of the forgotten records: :func:`exact_memorisation`.
        held_out: g of texts that nobody trained on, by *the same* model: another model's constant (the published
            analysis has one for each size) is no measure of this one.
        high, low: where the tails begin, both included.

    Raises:
        ConfigError: not 0 <= low < high <= 1.
        DataError: one of the two has no record with a value.
    """
    if not 0 <= low < high <= 1:
        raise ConfigError([f"low and high must be in [0, 1], low below high, not {low} and {high}"])
    g, other = memorisation.values, held_out.values[held_out.known]
    known = g[memorisation.known]
    if not len(known) or not len(other):
        raise DataError("there is no record whose memorisation could be compared", expected="records and held-out ones")
    above, below = np.flatnonzero(g >= high), np.flatnonzero(g <= low)  # NaN is neither
    return Outliers(
        tuple(above.tolist()), tuple(below.tolist()), high, low, len(known), float(known.mean()), float(known.std()),
        float(other.mean()),
    )  # fmt: skip


def greedy_answers(model: CausalLM, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the model writes after each record's prompt, its likeliest token each time, beside what is true.

    Plain greedy decoding: what a model's folder says of sampling, penalties and forbidden tokens plays no part, and a
    token that ends a text does not end it here, so that every true token has one beside it.

    Args:
        model: left in the mode it came in.
        tokens: ``input_ids``, ``attention_mask`` and ``labels`` [B, T] of a batch, on the model's device; each record
            must have a token before its answer.

    Returns:
        (written [B, L], true [B, L]), L the longest answer of the batch; ``true`` is -100 behind a shorter one.

    Raises:
        DataError: a record has no answer, or nothing before it.
    """
    ids, there = tokens["input_ids"], tokens["attention_mask"].bool()
    answer = tokens["labels"] != IGNORED
    n_prompt, n_answer = (there & (answer.cumsum(dim=1) == 0)).sum(dim=1), answer.sum(dim=1)
    if bool((n_answer == 0).any()) or bool((n_prompt == 0).any()):
        raise DataError("a record to be continued has no answer, or no token before it", expected="prompt and answer")
    longest, width = int(n_answer.max()), int(n_prompt.max())
    true = ids.new_full((len(ids), longest), IGNORED)
    true[torch.arange(longest, device=ids.device) < n_answer[:, None]] = ids[answer]
    # Prompts end at one place, so that what is written begins at one: padding is on the left.
    filled = torch.arange(width, device=ids.device) >= width - n_prompt[:, None]
    prompts = torch.zeros_like(ids[:, :1]).expand(-1, width).clone()
    prompts[filled] = ids[there & (answer.cumsum(dim=1) == 0)]
    with scoring(model), plain_decoding(model.lm, longest) as settings:
        written = model.lm.generate(input_ids=prompts, attention_mask=filled.long(), generation_config=settings)
    return written[:, width:], true


def matching_share(written: Tensor, true: Tensor) -> Tensor:
    """[B]: the share of the true tokens that were written at their own place.

    Args:
        written, true: [B, L] of :func:`greedy_answers`.
    """
    counted = true != IGNORED
    return ((written == true) & counted).sum(dim=1) / counted.sum(dim=1)


def _is_likeliest(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == labels).float()
