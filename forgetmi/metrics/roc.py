"""ROC figures that are exact on ties: a vertex stands at the end of a tie block, never inside it.

Everywhere: scores [n] are oriented **higher = member**; ``member`` [n] is true for members; a record is called a member
when its score is at or above the threshold. A *statistic* is the same figure as a function of integer record weights
[r, n] -> [r], so that :mod:`forgetmi.metrics.intervals` evaluates many resamples in one go.

>>> scores, member = [9.0, 9.0, 5.0, 5.0], [True, False, True, False]
>>> auc(scores, member)
0.5
>>> tpr_at_fpr(scores, member, 0.5).value
0.5
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forgetmi.errors import AuditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]

# n * fpr is a count: 0.29 * 100 is 28.999999999999996 in floating point and means 29.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RocCurve:
    """Vertices of the ROC, from "nobody is called a member" to "everybody is".

    Attributes:
        fpr, tpr: rates [v].
        thresholds: [v]; the first one is ``inf``.
        tp, fp: counts [v].
        n_members, n_nonmembers: how many records of each kind.
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats
    tp: Ints
    fp: Ints
    n_members: int
    n_nonmembers: int

    @property
    def auc(self) -> float:
        """The area under it, ties half; in integers until the division."""
        doubled = int(((self.tp[1:] + self.tp[:-1]) * np.diff(self.fp)).sum())
        return doubled / (2 * self.n_members * self.n_nonmembers)

    def tpr_at_fpr(self, fpr: float) -> TprAtFpr:
        """As :func:`tpr_at_fpr`, for many rates on one curve."""
        if not 0.0 <= fpr <= 1.0:
            raise AuditError(f"a false positive rate lies in [0, 1], not {fpr}")
        allowed = math.floor(fpr * self.n_nonmembers + _ROUNDING)
        last = int(np.searchsorted(self.fp, allowed, side="right")) - 1
        tp = int(self.tp[last])
        # the same TPR may be had for fewer false positives
        point = int(np.searchsorted(self.tp, tp, side="left"))
        reason = None
        if allowed < 1:
            bound = 1.0 - 0.05 ** (1.0 / self.n_nonmembers)
            reason = (
                f"not measurable: {self.n_nonmembers} non-members resolve a false positive rate of "
                f"{1 / self.n_nonmembers:.3g}, not {fpr:g}; none observed means at most {bound:.2g} (95 %)"
            )
        return TprAtFpr(
            target_fpr=fpr,
            value=None if reason else tp / self.n_members,
            tp=tp,
            fp=int(self.fp[point]),
            n_members=self.n_members,
            n_nonmembers=self.n_nonmembers,
            threshold=None if point == 0 else float(self.thresholds[point]),
            reason=reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Counts and thresholds (``None`` for the infinite first one): every rate can be recomputed from them."""
        return {
            "tp": self.tp.tolist(),
            "fp": self.fp.tolist(),
            "thresholds": [None, *self.thresholds[1:].tolist()],
            "n_members": self.n_members,
            "n_nonmembers": self.n_nonmembers,
        }


@dataclass(frozen=True)
class TprAtFpr:
    """The largest true positive rate whose realised false positive rate does not exceed a target.

    Attributes:
        target_fpr: the target.
        value: tp / n_members, or ``None`` where the target is finer than 1 / n_nonmembers: not measurable.
        tp, fp: the counts at that operating point. They are given also where ``value`` is ``None``: "k of n members
            with no false positive among n_nonmembers" is a true sentence; "TPR at FPR 0.1 %" would not be.
        n_members, n_nonmembers: how many records of each kind.
        threshold: call a record a member at or above it; ``None`` when nobody is called a member.
        reason: why ``value`` is ``None``.
    """

    target_fpr: float
    value: float | None
    tp: int
    fp: int
    n_members: int
    n_nonmembers: int
    threshold: float | None
    reason: str | None = None

    @property
    def observed(self) -> float:
        """The share tp / n_members at the operating point, measurable target or not."""
        return self.tp / self.n_members

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return dict(self.__dict__)


def check_scores(scores: ArrayLike, member: ArrayLike) -> tuple[Floats, Bools]:
    """Scores and membership as arrays [n].

    Raises:
        AuditError: shapes differ, ``member`` is not boolean, a score is not finite, or a class is empty.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if values.ndim != 1 or values.shape != truth.shape:
        raise AuditError(f"scores {values.shape} and membership {truth.shape} must be two vectors of one length")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise AuditError("membership must be true or false for each record")
        truth = truth.astype(np.bool_)
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise AuditError(
            f"{wrong} of {values.size} scores are not finite",
            fix="compute signals from logits, which do not round a probability to 0",
        )
    if truth.all() or not truth.any():
        raise AuditError(f"an attack needs members and non-members; {int(truth.sum())} of {truth.size} are members")
    return values, truth


def roc_curve(scores: ArrayLike, member: ArrayLike) -> RocCurve:
    """All vertices of the ROC, one a distinct score, in O(n log n).

    Raises:
        AuditError: as :func:`check_scores`.
    """
    values, truth = check_scores(scores, member)
    order = np.argsort(-values)  # a tie block is one vertex: the order inside it does not matter, and stable is slower
    ranked = values[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    tp = np.append(0, np.cumsum(truth[order])[ends]).astype(np.int64)
    fp = np.append(0, ends + 1 - tp[1:]).astype(np.int64)
    n_members, n_nonmembers = int(truth.sum()), int((~truth).sum())
    thresholds = np.append(np.inf, ranked[ends])
    return RocCurve(fp / n_nonmembers, tp / n_members, thresholds, tp, fp, n_members, n_nonmembers)


def auc_statistic(scores: ArrayLike, member: ArrayLike) -> Statistic:
    """Weights [r, n] to weighted AUC [r]: pairs won plus half of the pairs tied, over all pairs. Sorts once.

    A row whose members or non-members all have weight zero gives NaN.
    """
    values, truth = check_scores(scores, member)
    members, others = np.flatnonzero(truth), np.flatnonzero(~truth)
    members, others = members[np.argsort(values[members])], others[np.argsort(values[others])]
    below = np.searchsorted(values[others], values[members], side="left")
    up_to = np.searchsorted(values[others], values[members], side="right")

    def statistic(weights: Floats) -> Floats:
        passed = _cumulative(weights.take(others, axis=1))
        gained = weights.take(members, axis=1)
        # wins are counted twice (below + below) and ties once (up_to - below): integers until the division
        passing = passed.take(below, axis=1)
        passing += passed.take(up_to, axis=1)
        doubled = np.einsum("rm,rm->r", passing, gained)
        return _divide(doubled, 2.0 * gained.sum(axis=1) * passed[:, -1])

    return statistic


def auc(scores: ArrayLike, member: ArrayLike) -> float:
    """Probability that a random member scores above a random non-member, ties counted half (Mann-Whitney).

    Raises:
        AuditError: as :func:`check_scores`.
    """
    return evaluate(auc_statistic(scores, member), np.size(np.asarray(scores)))


def tpr_at_fpr_statistic(scores: ArrayLike, member: ArrayLike, fpr: float) -> Statistic:
    """Weights [r, n] to the largest weighted TPR whose weighted FPR is at most ``fpr`` [r]; the threshold is free."""
    values, truth = check_scores(scores, member)
    members, others = np.flatnonzero(truth), np.flatnonzero(~truth)
    members = members[np.argsort(-values[members], kind="stable")]
    others = others[np.argsort(-values[others], kind="stable")]
    # how many members stand strictly above each non-member; above "no non-member is left", all of them do
    above = np.append(np.searchsorted(-values[members], -values[others], side="left"), members.size)

    def statistic(weights: Floats) -> Floats:
        false_positives = _cumulative(weights.take(others, axis=1))
        budget = fpr * false_positives[:, -1:] + _ROUNDING
        # the first non-member that breaks the budget: the threshold must lie above its score, ties and all
        breaker = (false_positives[:, 1:] <= budget).sum(axis=1)
        true_positives = _cumulative(weights.take(members, axis=1))
        reached = np.take_along_axis(true_positives, above[breaker][:, None], axis=1)[:, 0]
        return _divide(reached, true_positives[:, -1])

    return statistic


def tpr_at_fpr(scores: ArrayLike, member: ArrayLike, fpr: float) -> TprAtFpr:
    """The largest TPR whose realised FPR is at most ``fpr``, without interpolation.

    With n non-members the FPR moves in steps of 1/n: a target below that is not measurable (``value`` is ``None``),
    and no false positive at all only bounds the FPR by 1 - 0.05 ** (1/n), with 95 % confidence.

    Raises:
        AuditError: ``fpr`` is not in [0, 1], or as :func:`check_scores`.
    """
    return roc_curve(scores, member).tpr_at_fpr(fpr)


def balanced_accuracy(scores: ArrayLike, member: ArrayLike, threshold: float) -> float:
    """(TPR + TNR) / 2 at a threshold that was chosen elsewhere."""
    values, truth = check_scores(scores, member)
    called = values >= threshold
    return float((called[truth].mean() + (~called[~truth]).mean()) / 2.0)


def balanced_accuracy_statistic(called: ArrayLike, member: ArrayLike) -> Statistic:
    """Weights [r, n] to (TPR + TNR) / 2 [r] of decisions ``called`` [n] that are already made."""
    decided, truth = np.asarray(called, dtype=np.bool_), np.asarray(member, dtype=np.bool_)
    columns = np.stack([truth & decided, truth, ~truth & ~decided, ~truth], axis=1).astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        tp, positive, tn, negative = (weights @ columns).T
        return (_divide(tp, positive) + _divide(tn, negative)) / 2.0

    return statistic


def best_balanced_accuracy(scores: ArrayLike, member: ArrayLike) -> tuple[float, float]:
    """(balanced accuracy, threshold) at the threshold that is best *for these very records*.

    Optimistic: the threshold has seen what it is scored on, so it is above 1/2 when nothing leaks. Fit with it, or use
    it as an upper bound; never report it as an attack's accuracy. Of equal thresholds the highest is taken.
    """
    curve = roc_curve(scores, member)
    accuracy = (curve.tpr + 1.0 - curve.fpr) / 2.0
    best = int(np.argmax(accuracy))
    return float(accuracy[best]), float(curve.thresholds[best])


def mean_statistic(values: ArrayLike) -> Statistic:
    """Weights [r, n] to the weighted mean of ``values`` [n]."""
    column = np.asarray(values, dtype=np.float64)

    def statistic(weights: Floats) -> Floats:
        return _divide(weights @ column, weights.sum(axis=1))

    return statistic


def evaluate(statistic: Statistic, n: int) -> float:
    """A statistic of the sample itself: every one of its ``n`` records has weight one."""
    return float(statistic(np.ones((1, n)))[0])


def _cumulative(weights: Floats) -> Floats:
    """[r, n] -> [r, n + 1]: column k is the weight of the first k."""
    total = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is zero: a resample without a class. The bootstrap counts those."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
