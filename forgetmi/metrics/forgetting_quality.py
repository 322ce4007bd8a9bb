"""Forgetting quality of the NeurIPS 2023 machine unlearning challenge (Triantafillou et al. 2024), and its ceiling.

Of each forget record, the scaled logit phi is known under M unlearned and under N retrained models. The better the two
laws can be told apart, the larger the record's epsilon, over simple decision rules:

    epsilon = max over rules of max(ln(1 - delta - FPR) - ln FNR, ln(1 - delta - FNR) - ln FPR), at least 0

where rules with exactly one of FPR, FNR equal to 0 are dropped, and both equal to 0 gives the cap of 50. A record gets
2^-k points for epsilon in [k/2, (k+1)/2), none from ceil(ln(M - 1)) on; the score is the mean.

**Models that were retrained and nothing else score about 0.2, not 1**: the maximum over many rules is taken on few
models. So a score is only given together with its ceiling, the score of retrained models against other retrained
models, with as many models on each side. The challenge multiplied its score by ratios of accuracies; utility is
reported apart here.

Rules, as published: one threshold on a grid of 100 a unit of phi from the smallest to the largest value, at or above it
the side with the larger median; and an interval that holds the side with the smaller range, its right end within 2 of
that side's maximum, its width within 2 of that side's range, both in steps of about 0.01. Where one range is below 1 %
of the other, epsilon is 50. Our reading: a grid has at least two thresholds; a record without any rule left has epsilon
0, and such records are counted; with M and N unequal, the smaller number limits the points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.errors import AuditError
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, Interval, mean_interval
from forgetmi.metrics.roc import Bools, Floats, Ints

DELTA = 1e-5  # of the challenge
MIN_RETRAINED = 16  # halves of 8: with fewer, a record has hardly any points to get
_CAP, _PER_UNIT, _REACH, _PEAKY = 50.0, 100, 2.0, 0.01
_DROPPED = -1.0
_CELLS = 2_000_000  # of a block
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ForgettingQuality:
    """A score and what retraining itself would have scored.

    Attributes:
        score: of all models, 0 to 1, or ``None`` with a ``reason``.
        interval: of the score, patients resampled.
        ceiling: score of one half of the retrained models against the other, mean over random halves.
        ceiling_range: lowest and highest over the halves.
        score_at_ceiling: the score with as many models on each side as the ceiling has: compare these two.
        shortfall: ``ceiling - score_at_ceiling``, by record, patients resampled; around 0: as good as retraining.
        n_unlearned, n_retrained, n_half: models, and models on each side of the ceiling.
        n_undecided: records without any rule left.
        definition: what exactly was done.
        reason: why there is no score.
        epsilon, points: of each record [n].
    """

    score: float | None
    interval: Interval
    ceiling: float | None
    ceiling_range: tuple[float, float] | None
    score_at_ceiling: float | None
    shortfall: Interval
    n_unlearned: int
    n_retrained: int
    n_half: int
    n_undecided: int
    definition: str
    reason: str | None
    epsilon: Floats
    points: Floats

    @property
    def sentence(self) -> str:
        """What it says, in plain words."""
        if self.score is None:
            return f"No forgetting quality: {self.reason}."
        return (
            f"Forgetting quality {self.score:.3f} ({self.n_unlearned} unlearned and {self.n_retrained} retrained "
            f"models); with {self.n_half} models on each side {self.score_at_ceiling:.3f}, where retraining itself "
            f"scores {self.ceiling:.3f}."
        )

    def to_dict(self) -> Mapping[str, Any]:
        """Everything but the arrays by record, JSON-able."""
        kept = {key: value for key, value in self.__dict__.items() if key not in ("epsilon", "points")}
        return {**kept, "interval": self.interval.to_dict(), "shortfall": self.shortfall.to_dict()}


def forgetting_quality(
    unlearned: ArrayLike,
    retrained: ArrayLike,
    rng: np.random.Generator,
    *,
    patients: ArrayLike,
    delta: float = DELTA,
    splits: int = 10,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> ForgettingQuality:
    """Score of the unlearned models beside the score that retraining itself has.

    Args:
        unlearned: phi of each forget record under M unlearned models [M, n], of different seeds.
        retrained: the same under N retrained models [N, n].
        rng: draws the halves and the resamples.
        patients: [n].
        delta: of the definition.
        splits: random halves over which the ceiling is averaged.
        n_resamples, level: of the intervals.

    Returns:
        Without a score, and with the reason, where there are fewer than 16 retrained or 8 unlearned models: there would
        be no ceiling to read the score by.

    Raises:
        AuditError: shapes do not fit, a value is not finite, or delta or splits are out of range.
    """
    ours, theirs = _checked(unlearned, retrained, delta)
    names = np.asarray(patients)
    if names.shape != ours.shape[1:]:
        raise AuditError(f"{ours.shape[1]} records and patients {names.shape}")
    if splits < 1:
        raise AuditError(f"splits must be at least 1, not {splits}")
    half = min(len(ours), len(theirs) // 2)
    reason = None
    if len(theirs) < MIN_RETRAINED or len(ours) < MIN_RETRAINED // 2:
        reason = (
            f"{len(ours)} unlearned and {len(theirs)} retrained models; {MIN_RETRAINED // 2} and {MIN_RETRAINED} are "
            "needed for a score and for the score that retraining itself would have"
        )
        n_patients = int(np.unique(names).size)
        none = Interval.none(reason, n_patients=n_patients, level=level)
        empty = np.empty(0)
        return ForgettingQuality(
            None,
            none,
            None,
            None,
            None,
            none,
            len(ours),
            len(theirs),
            half,
            0,
            _definition(delta),
            reason,
            empty,
            empty,
        )
    epsilon, undecided = _epsilons(ours, theirs, delta)
    points = forgetting_points(epsilon, min(len(ours), len(theirs)))
    ceilings, halves = np.empty((splits, names.size)), np.empty((splits, names.size))
    for split in range(splits):
        order = rng.permutation(len(theirs))
        one, other = theirs[order[:half]], theirs[order[half : 2 * half]]
        drawn = ours[rng.permutation(len(ours))[:half]]
        ceilings[split] = forgetting_points(_epsilons(one, other, delta)[0], half)
        halves[split] = forgetting_points(_epsilons(drawn, other, delta)[0], half)
    of_split = ceilings.mean(axis=1)
    settings = {"n_resamples": n_resamples, "level": level}
    return ForgettingQuality(
        score=float(points.mean()),
        interval=mean_interval(points, names, rng, bounds=(0.0, 1.0), **settings),
        ceiling=float(ceilings.mean()),
        ceiling_range=(float(of_split.min()), float(of_split.max())),
        score_at_ceiling=float(halves.mean()),
        shortfall=mean_interval((ceilings - halves).mean(axis=0), names, rng, bounds=(-1.0, 1.0), **settings),
        n_unlearned=len(ours),
        n_retrained=len(theirs),
        n_half=half,
        n_undecided=int(undecided.sum()),
        definition=_definition(delta, splits),
        reason=None,
        epsilon=epsilon,
        points=points,
    )


def forgetting_epsilons(unlearned: ArrayLike, retrained: ArrayLike, *, delta: float = DELTA) -> Floats:
    """Epsilon of each record [n], 0 to 50, from phi under M unlearned [M, n] and N retrained models [N, n].

    Raises:
        AuditError: shapes do not fit, a value is not finite, or delta is not in [0, 1).
    """
    return _epsilons(*_checked(unlearned, retrained, delta), delta)[0]


def forgetting_points(epsilons: ArrayLike, n_models: int) -> Floats:
    """Points of each record: 2^-k for epsilon in [k/2, (k+1)/2), none from ceil(ln(n_models - 1)) on."""
    if n_models < 3:
        raise AuditError(f"{n_models} models a side leave no points to get", expected="at least 3")
    values = np.asarray(epsilons, dtype=np.float64)
    return np.where(values < np.ceil(np.log(n_models - 1)), 2.0 ** -np.floor(2.0 * values), 0.0)


def _definition(delta: float, splits: int | None = None) -> str:
    said = (
        f"NeurIPS 2023 forgetting quality, delta {delta:g}, single- and double-threshold rules on the published grids"
    )
    return said if splits is None else f"{said}; ceiling: retrained against retrained, mean of {splits} random halves"


def _checked(unlearned: ArrayLike, retrained: ArrayLike, delta: float) -> tuple[Floats, Floats]:
    ours, theirs = np.asarray(unlearned, dtype=np.float64), np.asarray(retrained, dtype=np.float64)
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1] or 0 in (ours.size, theirs.size):
        raise AuditError(f"unlearned {ours.shape} and retrained {theirs.shape} must be [M, n] and [N, n]")
    wrong = int((~np.isfinite(ours)).sum() + (~np.isfinite(theirs)).sum())
    if wrong:
        raise AuditError(f"{wrong} scaled logits are not finite", fix="compute them from logits")
    if not 0.0 <= delta < 1.0:
        raise AuditError(f"delta lies in [0, 1), not {delta}")
    return ours, theirs


def _epsilons(ours: Floats, theirs: Floats, delta: float) -> tuple[Floats, Bools]:
    """Epsilon [n], and whether no rule was left [n]."""
    pooled = np.concatenate([ours, theirs]).T
    order = np.argsort(pooled, axis=1, kind="stable")
    values = np.take_along_axis(pooled, order, axis=1)
    # of the first j values of a record, how many are of unlearned models, how many of retrained ones [n, M + N + 1]
    first = np.zeros((2, len(values), values.shape[1] + 1), dtype=np.int64)
    np.cumsum(order < len(ours), axis=1, out=first[0, :, 1:])
    first[1] = np.arange(values.shape[1] + 1) - first[0]
    table = _table(len(ours), len(theirs), delta)
    ranges = np.stack([np.ptp(side, axis=0) for side in (ours, theirs)])
    best = np.full(values.shape[0], _DROPPED)
    cells = values.shape[1] * (2 * int(_REACH) * _PER_UNIT + 1)
    for block in np.array_split(np.arange(len(values)), max(1, values.shape[0] * cells // _CELLS)):
        one = values[block], first[:, block], table
        peaky = (ranges[0] >= ranges[1])[block].astype(np.int64)  # 0: the unlearned models, 1: the retrained ones
        ends = np.stack([np.stack([side[:, block].min(axis=0), side[:, block].max(axis=0)]) for side in (ours, theirs)])
        low, high = ends[peaky, :, np.arange(block.size)].T
        larger = (np.median(theirs[:, block], axis=0) > np.median(ours[:, block], axis=0)).astype(np.int64)
        best[block] = np.maximum(_single(*one, larger), _double(*one, peaky, low, high))
    capped = ranges.min(axis=0) < _PEAKY * ranges.max(axis=0)
    return np.where(capped, _CAP, np.maximum(best, 0.0)), (best == _DROPPED) & ~capped


def _table(n_unlearned: int, n_retrained: int, delta: float) -> Floats:
    """Epsilon [2, M + 1, N + 1] of a rule that a unlearned and b retrained models satisfy; a dropped rule has -1.

    First for rules that stand for "unlearned" (FPR = b / N, FNR = 1 - a / M), then for those that stand for
    "retrained".
    """
    a, b = np.meshgrid(np.linspace(0, 1, n_unlearned + 1), np.linspace(0, 1, n_retrained + 1), indexing="ij")
    fpr, fnr = np.stack([b, a]), np.stack([1 - a, 1 - b])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.fmax(np.log(1 - delta - fpr) - np.log(fnr), np.log(1 - delta - fnr) - np.log(fpr))
    found = np.clip(np.fmax(found, 0.0), 0.0, _CAP)  # fmax: a rate of 1 leaves no logarithm, and proves nothing
    found[(fpr == 0) != (fnr == 0)] = _DROPPED
    found[(fpr == 0) & (fnr == 0)] = _CAP
    return found


def _single(values: Floats, first: Ints, table: Floats, positive: Ints) -> Floats:
    """Best epsilon [n] of "at or above t" for t on the grid; ``positive`` [n]: what the rule stands for."""
    low, span = values[:, :1], values[:, -1:] - values[:, :1]
    steps = np.maximum(np.ceil(span * _PER_UNIT), 2.0) - 1.0
    # the last threshold at or below each value: where it moves, a threshold tells the value from the one before
    last = np.floor((values - low) / np.where(span > 0, span, 1.0) * steps + _ROUNDING)
    told = np.append(np.zeros(low.shape, dtype=np.bool_), last[:, 1:] > last[:, :-1], axis=1)
    inside = first[:, :, -1:] - first[:, :, :-1]
    best: Floats = np.where(told, table[positive[:, None], inside[0], inside[1]], _DROPPED).max(axis=1)
    return best


def _double(values: Floats, first: Ints, table: Floats, positive: Ints, low: Floats, high: Floats) -> Floats:
    """Best epsilon [n] of "between l and r", for the side that has the smaller range, from ``low`` to ``high`` [n]."""
    width = high - low
    start, stop = low + width - _REACH, high + _REACH  # as published, not high - 2: rounding decides on one step more
    count = np.ceil((stop - start) * _PER_UNIT)[:, None]
    place = np.minimum(np.arange(int(count.max())), count - 1)
    right = start[:, None] + place * ((stop - start)[:, None] / (count - 1))
    n_left = round(2 * _REACH * _PER_UNIT)
    left = right - width[:, None] - _REACH  # the first of n_left left ends [n, r]
    last = np.floor((values[:, None] - left[:, :, None]) * ((n_left - 1) / (2 * _REACH)) + _ROUNDING)
    np.clip(last, -1, n_left - 1, out=last)
    told = np.diff(last, axis=2, prepend=-1.0) > 0
    below = (values[:, None] <= right[:, :, None]).sum(axis=2)
    rows = np.arange(len(values))[:, None]
    a, b = (np.maximum(side[rows, below][:, :, None] - side[:, None, :-1], 0) for side in first)
    best: Floats = np.where(told, table[positive[:, None, None], a, b], _DROPPED).max(axis=(1, 2))
    return best
