"""DeLong's variance of an AUC, with the patient as its unit, in O(n log n).

DeLong, DeLong and Clarke-Pearson (1988): the variance of the Mann-Whitney statistic is that of its *placement values*,
the share of non-members below each member, and of members above each non-member, ties counted half. Sun and Xu (2014):
placement values are differences of midranks, so that sorting is all the work. Obuchowski (1997): where records of one
patient resemble each other, placement values are summed within patients first, and patients are what varies. It also
serves where a patient has records in both classes (utility), which no attack has.

The interval stands on the logit scale, so that it keeps inside (0, 1) and leans towards 1/2, with a quantile of
Student's t and Welch's degrees of freedom, for the two classes' shares of the variance are each estimated from patients
(our reading: the papers give variances and leave the interval open).
An AUC of exactly 0 or 1 has variance zero; its interval is the exact binomial one of :mod:`forgetmi.metrics.intervals`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.intervals import LEVEL, Interval, unvarying_interval
from forgetmi.metrics.roc import Bools, Floats, Ints, check_scores

_NOTHING = 1e-24  # a variance below this is rounding


def placements(scores: ArrayLike, member: ArrayLike) -> tuple[Floats, Floats]:
    """Placement values of members [P] (share of non-members below) and of non-members [N] (share of members above).

    The mean of either is the AUC. With midranks R among all records and r within the class, they are (R - r) / N and
    1 - (R - r) / P.

    Raises:
        AuditError: as :func:`forgetmi.metrics.roc.check_scores`.
    """
    values, truth = check_scores(scores, member)
    ranks = stats.rankdata(values)
    below = (ranks[truth] - stats.rankdata(values[truth])) / int((~truth).sum())
    above = 1.0 - (ranks[~truth] - stats.rankdata(values[~truth])) / int(truth.sum())
    return below, above


def auc_variance(scores: ArrayLike, member: ArrayLike, patients: ArrayLike | None = None) -> tuple[float, float, float]:
    """(AUC, its variance, Welch's degrees of freedom).

    Obuchowski's S10 / P + S01 / N + 2 S11 / (P N): the last is 0 where no patient has records of both classes.

    Args:
        scores: [n], higher = member.
        member: [n].
        patients: [n]: Obuchowski's clustered form. ``None``: records are independent, DeLong's own.

    Raises:
        AuditError: a class has fewer than two patients, lengths differ, or scores are not finite.
    """
    values, truth = check_scores(scores, member)
    codes = _codes(patients, truth)
    n_patients = int(codes.max()) + 1
    held = np.unique(codes[truth]).size, np.unique(codes[~truth]).size
    if min(held) < 2:
        raise AuditError(f"a variance needs two patients of each class, not {held[0]} and {held[1]}")
    pair = placements(values, truth)
    auc = float(pair[0].mean())
    # sums within patients of placement values about the AUC, over the class's records [patients]
    sums = [
        np.bincount(codes[part], placed - auc, n_patients) / int(part.sum())
        for part, placed in zip((truth, ~truth), pair, strict=True)
    ]
    shares = [float(n / (n - 1.0) * part @ part) for n, part in zip(held, sums, strict=True)]
    both = float(2.0 * n_patients / (n_patients - 1.0) * sums[0] @ sums[1])
    spread = sum(share**2 / (n - 1.0) for share, n in zip(shares, held, strict=True))
    return auc, sum(shares) + both, sum(shares) ** 2 / spread if spread > 0.0 else 1.0


def delong_interval(
    scores: ArrayLike, member: ArrayLike, patients: ArrayLike | None = None, *, level: float = LEVEL
) -> Interval:
    """Interval of the AUC from its patient-clustered DeLong variance, on the logit scale.

    Args:
        scores, member: [n], higher = member.
        patients: [n], or ``None`` where every record is a patient of its own.
        level: nominal coverage.

    Raises:
        AuditError: as :func:`forgetmi.metrics.roc.check_scores`, or the level is out of range.
    """
    if not 0.0 < level < 1.0:
        raise AuditError(f"a confidence level lies in (0, 1), not {level}")
    values, truth = check_scores(scores, member)
    codes = _codes(patients, truth)
    n_patients, smaller = np.unique(codes).size, _smaller(codes, truth)
    if smaller < 2:
        reason = f"{smaller} patient on one side: no variance"
        return Interval.none(reason, n_patients=n_patients, level=level)
    value, variance, freedom = auc_variance(values, truth, codes)
    if variance <= _NOTHING or not 0.0 < value < 1.0:
        return unvarying_interval(value, (0.0, 1.0), n_smallest=smaller, n_patients=n_patients, level=level)
    reach = float(stats.t.ppf(0.5 + level / 2.0, freedom)) * np.sqrt(variance) / (value * (1.0 - value))
    centre = np.log(value / (1.0 - value))
    low, high = (float(1.0 / (1.0 + np.exp(-(centre + sign * reach)))) for sign in (-1.0, 1.0))
    return Interval(low, high, level, "DeLong by patient, logit scale", n_patients)


def _codes(patients: ArrayLike | None, truth: Bools) -> Ints:
    """Patients as numbers [n] from 0, without gaps."""
    if patients is None:
        return np.arange(truth.size, dtype=np.int64)
    names = np.asarray(patients)
    if names.shape != truth.shape:
        raise AuditError(f"patients {names.shape} and membership {truth.shape} must be two vectors of one length")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _smaller(codes: Ints, truth: Bools) -> int:
    """Patients of the class that has fewer."""
    return min(np.unique(codes[part]).size for part in (truth, ~truth))
