"""All that can be said of the true tokens of some records' answers, from one pass through a model.

With y_1 ... y_T a record's answer tokens and p_t the model's law of the token at t, given *the true* tokens before it:

==============  ====================================================================================================
``nll``         -log p_t(y_t)
``mean_log_p``  mu_t = sum_v p_t(v) log p_t(v): what log p is on average of a token that the model itself draws
``std_log_p``   sigma_t = sqrt( sum_v p_t(v) (log p_t(v) - mu_t)^2 )
``right``       whether y_t is the likeliest token
==============  ====================================================================================================

Every teacher-forced metric is a function of these, so no other pass is needed: likelihood here, memorisation in
:mod:`forgetmi.metrics.memorisation`, and here too (higher = likelier a member of the training set) the signals of
membership inference on language models.

An answer's tokens are all those that the task counts, its end included. Some published code leaves the last one out:
:meth:`TokenSignals.without_last`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import AuditError, DataError, ModelError
from forgetmi.metrics.figure import Direction, Figure, measure
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Bools, Floats, Ints, Statistic
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.divergence import wide
from forgetmi.training.modes import scoring

SMALLEST_SD = 1e-3
"""A law of tokens with a smaller sd of log p is flat (or all on one token): see :func:`min_k_plus_plus`."""

LARGEST_LOG = 690.0
"""exp of more would overflow: a destroyed model's perplexity is that of this."""


@dataclass(frozen=True)
class TokenSignals:
    """Of N records' answers, at most T tokens long. Column t is the answer's t-th token, wherever it stood in a batch.

    Attributes:
        mask: [N, T], true where a record has a t-th answer token: the first ``n_tokens`` of each row.
        nll, mean_log_p, std_log_p: [N, T] in nats, 0 outside the mask.
        right: [N, T], false outside the mask.
    """

    mask: Bools
    nll: Floats
    mean_log_p: Floats
    std_log_p: Floats
    right: Bools

    @property
    def n_tokens(self) -> Ints:
        """Answer tokens [N]."""
        return np.asarray(self.mask.sum(axis=1), dtype=np.int64)

    def without_last(self) -> TokenSignals:
        """Each answer without its last token; one of a single token is left with none, and its metrics are NaN."""
        return self._kept(np.arange(self.mask.shape[1]) < self.n_tokens[:, None] - 1)

    def mean(self, values: NDArray[Any]) -> Floats:
        """[N]: each record's sum of ``values`` (0 outside the mask) over its tokens, by their number; NaN without one.

        Args:
            values: [N, T]; or [N], the sums.
        """
        sums = values.sum(axis=1) if values.ndim == 2 else values
        n_tokens = self.n_tokens
        return np.where(n_tokens > 0, sums / np.maximum(n_tokens, 1), np.nan)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> TokenSignals:
        """Some of the records, in the order given (positions, or a mask [N])."""
        return TokenSignals(**{name: values[np.asarray(rows)] for name, values in vars(self).items()})

    def _kept(self, mask: Bools) -> TokenSignals:
        changed = {name: np.where(mask, values, np.zeros_like(values)) for name, values in vars(self).items()}
        return TokenSignals(**changed)


def token_signals(model: nn.Module, task: CausalLMTask, batches: Iterable[Batch], device: torch.device) -> TokenSignals:
    """Score the true tokens of some batches' answers, in the order of the records.

    Logits are made of answer tokens only, ``task.max_logits`` at a time. Batch size, padding and order change nothing.

    Args:
        model: left in the mode it came in.
        task: says where the answers are.
        batches: N records in all, made one at a time.
        device: where the model is.

    Raises:
        DataError: there is no record, or one has no answer token.
        ModelError: the model gives something that is not finite.
    """
    values: list[NDArray[np.float64]] = []
    lengths: list[NDArray[np.int64]] = []
    with scoring(model):
        for batch in batches:
            task.check_labels(batch)
            moved = batch.to(device)
            found, there = task.over_tokens(_of_each_token, moved, task.output(model, moved))
            values.append(found[there].double().cpu().numpy())
            lengths.append(there.sum(dim=1).cpu().numpy())
    if not values:
        raise DataError("there is no record whose tokens could be scored")
    flat, n_tokens = np.concatenate(values), np.concatenate(lengths)
    if not np.isfinite(flat).all():
        raise ModelError(
            "the likelihoods of some tokens are not finite",
            expected="finite scores",
            fix="the model is broken (diverged training, damaged weights): do not use it or its audit",
        )
    mask = np.arange(n_tokens.max()) < n_tokens[:, None]
    padded = np.zeros((*mask.shape, flat.shape[1]))
    padded[mask] = flat
    nll, mean, std, right = np.ascontiguousarray(np.moveaxis(padded, -1, 0))
    return TokenSignals(mask, nll, mean, std, right > 0)


def _of_each_token(logits: Tensor, labels: Tensor) -> Tensor:
    """[N, 4]: nll, mean and sd of log p under the law itself, right."""
    log_p = F.log_softmax(wide(logits), dim=-1)
    nll = -log_p.gather(-1, labels[:, None])[:, 0]
    right = log_p.argmax(dim=-1) == labels
    p = log_p.exp()
    log_p = log_p.masked_fill(p == 0, 0.0)  # a forbidden token: 0 log 0 is 0
    mean = (p * log_p).sum(dim=-1)
    std = (p * (log_p - mean[:, None]).square()).sum(dim=-1).sqrt()
    return torch.stack([nll, mean, std, right.to(nll)], dim=-1)


def token_metric(
    name: str,
    values: Floats,
    direction: Direction,
    sentence: str,
    definition: str,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    counts: dict[str, int] | None = None,
) -> PerExample:
    """A metric of answers' tokens, of each record [N]: see :class:`PerExample`."""
    missing = "its answer has no token that counts"
    return PerExample(name, values, direction, sentence, bounds, definition, missing, counts or {})


# --- likelihood -------------------------------------------------------------------------------------------------------


def nll(signals: TokenSignals) -> PerExample:
    """The sum over an answer's tokens of -log p."""
    return token_metric(
        "nll",
        np.where(signals.n_tokens > 0, signals.nll.sum(axis=1), np.nan),
        "remembers_below",
        "The mean negative log-likelihood of an answer is {value:.3f}.",
        "sum over the answer's tokens of -log p, in nats",
        bounds=None,
    )


def mean_nll(signals: TokenSignals) -> PerExample:
    """The mean over an answer's tokens of -log p."""
    return token_metric(
        "mean_nll",
        signals.mean(signals.nll),
        "remembers_below",
        "The mean negative log-likelihood of a token, averaged over answers, is {value:.3f}.",
        "mean over the answer's tokens of -log p, in nats",
        bounds=None,
    )


def probability(signals: TokenSignals) -> PerExample:
    """exp(-mean nll): the geometric mean of the tokens' probabilities (TOFU, arXiv 2401.06121, section 2.2)."""
    return token_metric(
        "probability",
        np.exp(-signals.mean(signals.nll)),
        "remembers_above",
        "The mean probability of an answer, of one token of it, is {value:.3f}.",
        "p(answer | prompt)^(1 / tokens)",
    )


def perplexity(signals: TokenSignals) -> PerExample:
    """exp(mean nll) of each record; its mean gives every record the same weight. See :func:`part_perplexity`."""
    values = signals.mean(signals.nll)
    return token_metric(
        "perplexity",
        np.exp(np.minimum(values, LARGEST_LOG)),
        "remembers_below",
        "The mean of the answers' perplexities is {value:.2f}.",
        "exp(mean over the answer's tokens of -log p); the mean is over records",
        bounds=None,
        counts={"n_overflowing": int((values > LARGEST_LOG).sum())},
    )


def part_perplexity(
    signals: TokenSignals,
    patients: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Figure:
    """The perplexity of a whole part: exp(sum of nll / number of tokens), so that every *token* has the same weight.

    Args:
        patients: of each record [N], as integer codes.
        rng: of the resamples.
        n_resamples, level: of the interval, by resampling patients.

    Raises:
        AuditError: not one patient a record.
    """
    codes = np.asarray(patients)
    if codes.shape != (len(signals.mask),):
        raise AuditError(f"part_perplexity: {codes.shape} patients for {len(signals.mask)} records")
    tokens = signals.n_tokens.astype(np.float64)
    return measure(
        "part_perplexity",
        perplexity_statistic(signals.nll.sum(axis=1), tokens),
        PatientBootstrap(codes, rng, n_resamples=n_resamples, level=level),
        direction="remembers_below",
        sentence="The perplexity of all answers' tokens is {value:.2f}.",
        counts={"n_tokens": int(tokens.sum())},
    )


def perplexity_statistic(nll: Floats, n_tokens: Floats) -> Statistic:
    """exp(sum of nll / number of tokens) of weighted records, as a statistic that can be resampled.

    Args:
        nll: summed over each record's tokens [N].
        n_tokens: of each [N].
    """

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.exp(np.minimum((weights @ nll) / (weights @ n_tokens), LARGEST_LOG))

    return statistic


# --- signals of membership inference: higher = likelier a member ------------------------------------------------------


def likelihood(signals: TokenSignals) -> Floats:
    """[N]: -(mean nll); LOSS attack (Yeom et al. 2018, arXiv 1709.01604)."""
    return -signals.mean(signals.nll)


def min_k(signals: TokenSignals, k: float) -> Floats:
    """[N]: the mean of the lowest max(1, floor(kT)) of the tokens' log p; Min-K% (Shi et al. 2024, arXiv 2310.16789).

    Args:
        k: the share of the tokens, in (0, 1].
    """
    return _lowest(-signals.nll, signals, k)


def min_k_plus_plus(signals: TokenSignals, k: float, *, smallest_sd: float = SMALLEST_SD) -> Floats:
    """[N]: the same of (log p - mu_t) / sigma_t; Min-K%++ (Zhang et al. 2025, arXiv 2404.02936).

    Where the law is flat, or all on one token, sigma is 0 and the paper is silent. Our reading: sigma is at least
    ``smallest_sd``; so a token of a uniform law counts 0, as every token of it is an average one.
    :func:`n_without_spread` counts them.

    Args:
        k: the share of the tokens, in (0, 1].
        smallest_sd: see above; in nats.
    """
    return _lowest((-signals.nll - signals.mean_log_p) / np.maximum(signals.std_log_p, smallest_sd), signals, k)


def n_without_spread(signals: TokenSignals, smallest_sd: float = SMALLEST_SD) -> Ints:
    """[N]: tokens whose law has a smaller sd of log p than :func:`min_k_plus_plus` divides by."""
    return np.asarray(((signals.std_log_p < smallest_sd) & signals.mask).sum(axis=1), dtype=np.int64)


def zlib_ratio(signals: TokenSignals, n_bytes: Ints) -> Floats:
    """[N]: -(mean nll) / bytes of the compressed text (Carlini et al. 2021, arXiv 2012.07805).

    Args:
        n_bytes: [N], of :func:`zlib_lengths`.

    Raises:
        AuditError: not one positive length a record.
    """
    lengths = np.asarray(n_bytes)
    if lengths.shape != (len(signals.mask),) or (lengths <= 0).any():
        raise AuditError(f"zlib: lengths {lengths.shape} for {len(signals.mask)} records", expected="[N], all positive")
    return np.asarray(-signals.mean(signals.nll) / lengths, dtype=np.float64)


def zlib_lengths(texts: Iterable[str]) -> Ints:
    """[N]: bytes of each text in UTF-8, compressed by zlib."""
    return np.array([len(zlib.compress(text.encode())) for text in texts], dtype=np.int64)


def reference_difference(signals: TokenSignals, reference: TokenSignals) -> Floats:
    """[N]: (mean nll of a reference model) - (mean nll), of the same records.

    Raises:
        AuditError: the two are not of the same tokens.
    """
    if not np.array_equal(signals.n_tokens, reference.n_tokens):
        raise AuditError("the model and its reference were scored on different tokens")
    return reference.mean(reference.nll) - signals.mean(signals.nll)


def _lowest(scores: Floats, signals: TokenSignals, k: float) -> Floats:
    """[N]: the mean of each record's lowest max(1, floor(kT)) scores."""
    if not 0 < k <= 1:
        raise AuditError(f"k is {k}", expected="the share of an answer's tokens: above 0, at most 1")
    n_tokens = signals.n_tokens
    # 0.29 * 100 is 28.999999999999996 in floating point and means 29.
    taken = np.maximum(1, np.floor(k * n_tokens + 1e-9)).astype(np.int64)
    ordered = np.sort(np.where(signals.mask, scores, np.inf), axis=1)
    sums = np.where(np.arange(scores.shape[1]) < taken[:, None], ordered, 0.0).sum(axis=1)
    return np.where(n_tokens > 0, sums / taken, np.nan)
