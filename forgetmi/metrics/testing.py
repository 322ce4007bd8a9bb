"""Tests of "nothing leaks", and what becomes of their p-values when there are many.

Three tests of an AUC against 1/2, each for what it is exact in: the null variance (independent records, no ties; a
formula, so it needs no scores), and permutation of membership between patients (any scores, ties, any number of records
a patient; exact up to the number of permutations).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.intervals import null_auc_sd
from forgetmi.metrics.roc import Floats, auc, check_scores

Alternative = Literal["greater", "less", "two-sided"]
Correction = Literal["holm", "benjamini_hochberg", "benjamini_yekutieli"]

_CELLS = 1_000_000  # memberships held at one time
_SAME = 1e-12  # sums of midranks are exact to far less than one pair, the division is not


@dataclass(frozen=True)
class PermutationNull:
    """What the attack would have found had membership been dealt out to these patients at random.

    Attributes:
        auc: the AUC as observed.
        nulls: AUCs under permuted membership [n].
        p_greater, p_less: share of permutations, the observed one counted in, with an AUC as high, or as low.
    """

    auc: float
    nulls: Floats
    p_greater: float
    p_less: float

    @property
    def p_two_sided(self) -> float:
        """Twice the smaller of the two, at most 1."""
        return min(1.0, 2.0 * min(self.p_greater, self.p_less))

    def band(self, level: float = 0.95) -> tuple[float, float]:
        """The range that holds the share ``level`` of the null AUCs."""
        low, high = np.quantile(self.nulls, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Summary, JSON-able."""
        return {
            "auc": self.auc,
            "n_permutations": int(self.nulls.size),
            "null_mean": float(self.nulls.mean()),
            "null_sd": float(self.nulls.std()),
            "null_95": list(self.band()),
            "p_greater": self.p_greater,
            "p_less": self.p_less,
            "p_two_sided": self.p_two_sided,
        }


def permutation_null(
    scores: ArrayLike, member: ArrayLike, patients: ArrayLike, rng: np.random.Generator, n: int = 1000
) -> PermutationNull:
    """AUCs when membership is permuted between patients, their records staying together.

    An AUC is a sum of midranks, so a patient enters as a sum of midranks and a number of records, and a permutation as
    a choice of patients: no score is sorted twice. The number of member *patients* is kept. p = (1 + count) / (1 + n),
    which is never 0 and never too small (Phipson and Smyth 2010).

    Args:
        scores: [records], higher = member.
        member: [records].
        patients: [records].
        rng: draws the permutations.
        n: how many.

    Raises:
        AuditError: as :func:`forgetmi.metrics.roc.check_scores`, lengths differ, ``n`` < 100, or a patient stands among
            members and non-members.
    """
    values, truth = check_scores(scores, member)
    names = np.asarray(patients)
    if names.shape != truth.shape:
        raise AuditError(f"patients {names.shape} and membership {truth.shape} must be two vectors of one length")
    if n < 100:
        raise AuditError(f"{n} permutations are too few", expected="at least 100")
    unique, codes = np.unique(names, return_inverse=True)
    held = np.bincount(codes).astype(np.float64)
    members_of = np.bincount(codes, truth)
    torn = (members_of > 0) & (members_of < held)
    if torn.any():
        raise AuditError(
            f"{int(torn.sum())} patients stand among members and non-members",
            expected="parts that are disjoint by patient",
            private=[str(name) for name in unique[torn]],
        )
    columns = np.stack([np.bincount(codes, stats.rankdata(values)), held], axis=1)
    chosen = members_of > 0
    rows = max(1, _CELLS // held.size)
    drawn = [
        _aucs(rng.permuted(np.tile(chosen, (min(rows, n - start), 1)), axis=1), columns, values.size)
        for start in range(0, n, rows)
    ]
    nulls, observed = np.concatenate(drawn), auc(values, truth)
    as_high, as_low = (nulls >= observed - _SAME).sum(), (nulls <= observed + _SAME).sum()
    return PermutationNull(observed, nulls, float((1 + as_high) / (1 + n)), float((1 + as_low) / (1 + n)))


def _aucs(chosen: np.ndarray, columns: Floats, n_records: int) -> Floats:
    """AUC [r] of choices of patients [r, patients]; ``columns``: sum of midranks and number of records of each."""
    rank_sum, members = (chosen.astype(np.float64) @ columns).T
    aucs: Floats = (rank_sum - members * (members + 1.0) / 2.0) / (members * (n_records - members))
    return aucs


def auc_p_value(value: float, n_members: int, n_nonmembers: int, *, alternative: Alternative = "greater") -> float:
    """p-value of an AUC of independent records without ties against 1/2, by the Mann-Whitney null variance.

    Args:
        value: the AUC, in [0, 1].
        n_members, n_nonmembers: independent units: patients, where these have several records.
        alternative: ``greater`` (remembers), ``less``, or ``two-sided``.

    Raises:
        AuditError: the AUC is not in [0, 1], or a class is empty.
    """
    if not 0.0 <= value <= 1.0:
        raise AuditError(f"an AUC lies in [0, 1], not {value}")
    z = (value - 0.5) / null_auc_sd(n_members, n_nonmembers)
    tails = {"greater": stats.norm.sf(z), "less": stats.norm.cdf(z), "two-sided": 2.0 * stats.norm.sf(abs(z))}
    return float(tails[alternative])


def chance_of_standing_out(k: int, n_members: int, n_nonmembers: int) -> float:
    """P(at least k of P members lie above each of N non-members) when all P + N are exchangeable.

    The k highest of all must be members: prod over i < k of (P - i) / (P + N - i).

    >>> chance_of_standing_out(1, 3, 7), chance_of_standing_out(0, 3, 7)
    (0.3, 1.0)
    """
    steps = np.arange(k)
    return float(np.prod((n_members - steps) / (n_members + n_nonmembers - steps)))


@dataclass(frozen=True)
class StandingOut:
    """Member patients above every non-member.

    Attributes:
        count: how many.
        n_members, n_nonmembers: patients.
        chance: of so many, were patients with the same number of records exchangeable.
    """

    count: int
    n_members: int
    n_nonmembers: int
    chance: float


def standing_out(scores: ArrayLike, member: ArrayLike, n_records: ArrayLike) -> StandingOut:
    """Count members above every non-member, and say how likely so many are by chance.

    A patient's score may be the highest of their records, and more records make it higher without any leak. So
    membership is thought to be dealt out anew among patients with the same number of records only: given the scores, as
    many stand out again if the highest ``count`` patients are all members, with probability prod over numbers of
    records s of :func:`chance_of_standing_out` (k_s, P_s, N_s), exactly. Where all have equally many records that is
    the one factor (ties among non-members change nothing; a tie of a member with the highest non-member does not
    count). A patient with as many records as no non-member has proves nothing: the factor is 1.

    Args:
        scores: [patients], higher = member.
        member: [patients].
        n_records: [patients].
    """
    values, truth = check_scores(scores, member)
    held = np.asarray(n_records)
    above = truth & (values > values[~truth].max())
    chances = [
        chance_of_standing_out(
            int((above & (held == number)).sum()),
            int((truth & (held == number)).sum()),
            int((~truth & (held == number)).sum()),
        )
        for number in np.unique(held[above])
    ]
    sizes = int(truth.sum()), int((~truth).sum())
    return StandingOut(int(above.sum()), *sizes, float(np.prod(chances)))


def adjusted_p_values(p_values: ArrayLike, correction: Correction = "holm") -> Floats:
    """p-values [k] corrected for there being k of them; compare with the level as before.

    Args:
        p_values: [k], in [0, 1].
        correction: ``holm`` (1979): the chance of *any* false alarm stays below the level, whatever the dependence.
            ``benjamini_hochberg`` (1995): the expected *share* of false ones among the alarms, under independence or
            positive dependence; ``benjamini_yekutieli`` (2001): the same under any dependence.

    Raises:
        AuditError: not a vector of numbers in [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or not ((p >= 0.0) & (p <= 1.0)).all():
        raise AuditError("p-values must be a vector, not empty, of numbers in [0, 1]")
    if correction == "holm":
        order = np.argsort(p, kind="stable")
        stepped = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
        adjusted = np.empty_like(p)
        adjusted[order] = np.minimum(stepped, 1.0)
        return adjusted
    method = "bh" if correction == "benjamini_hochberg" else "by"
    return np.asarray(stats.false_discovery_control(p, method=method), dtype=np.float64)
