"""Confidence intervals whose unit is the patient.

Records of one patient resemble each other, so an interval that treats them as independent is too narrow. The bootstrap
here draws *patients* with replacement, separately in each stratum (forgotten patients and others), so that no resample
lacks a class. Resampling is by integer weights: a statistic is a function of weights [r, n] (r resamples, n records),
see :mod:`forgetmi.metrics.roc`, and no resample is ever copied out.

Percentiles of few patients are too narrow (the AUC of 12 and 12 patients: 93 % instead of 95 %), for the same two
reasons for which Student's t interval is wider than a normal one with the divisor n. So the percentiles that are read
off are those of the normal law at -+ sqrt(c) t, t the quantile of Student's law with f degrees of freedom ("expanded
percentile", Hesterberg 2015). One stratum of n patients: c = n / (n - 1), f = n - 1. More strata (our reading): as
though patients of all strata varied alike, c = sum(1/n) / sum((n - 1)/n^2) and Welch's
f = sum(1/n)^2 / sum(1 / (n^2 (n - 1))).

A figure that does not vary between patients (AUC 1.0, every forgotten record right) makes a bootstrap interval of width
zero, which would be false confidence. For a figure that lies in known bounds the interval is then the exact binomial
one: were the chance that a patient differs larger than ``d = 1 - (alpha/2) ** (1/m)``, m patients would all have agreed
with probability below alpha/2. (Our reading for AUC: patients of the two strata are paired off, m is the number of
pairs.) Without bounds, or with fewer than two patients in a stratum, there is no interval, and the reason is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from forgetmi.errors import AuditError
from forgetmi.metrics.roc import Floats, Statistic, auc_statistic, mean_statistic

N_RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 200_000  # weights held at one time: 1.6 MB, which stays in a processor's cache
_UNDEFINED_LIMIT = 0.5


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or the reason why there is none.

    Attributes:
        low, high: the ends; both ``None`` when there is no interval.
        level: nominal coverage, in (0, 1).
        method: how it was made.
        n_patients: independent units behind it.
        reason: why there is none.
        n_undefined: resamples in which the figure was undefined (a class without a patient); they were left out.
    """

    low: float | None
    high: float | None
    level: float
    method: str
    n_patients: int
    reason: str | None = None
    n_undefined: int = 0

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None) or (self.low is None) != (self.reason is not None):
            raise AuditError("an interval has two ends, or none and a reason")
        if self.low is not None and self.high is not None and not -math.inf < self.low <= self.high < math.inf:
            raise AuditError(f"an interval's ends must be finite and in order, not {self.low}, {self.high}")

    @classmethod
    def none(cls, reason: str, *, n_patients: int, level: float = LEVEL, n_undefined: int = 0) -> Interval:
        """No interval, and why."""
        return cls(None, None, level, "none", n_patients, reason, n_undefined)

    def contains(self, value: float) -> bool:
        """Whether a value lies inside.

        Raises:
            AuditError: there is no interval.
        """
        if self.low is None or self.high is None:
            raise AuditError(f"there is no interval to compare with: {self.reason}")
        return self.low <= value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self)


class PatientBootstrap:
    """Resamples of patients, the same ones for every statistic that is asked of it (so differences are paired).

    Args:
        groups: patient of each record [n].
        rng: one integer is drawn from it; the resamples follow from that integer.
        n_resamples: number of resamples.
        strata: stratum of each record [n] (for an attack: membership), or ``None`` for one stratum.
        level: nominal coverage.

    Raises:
        AuditError: lengths differ, nothing to resample, a patient stands in two strata, or settings out of range.
    """

    def __init__(
        self,
        groups: ArrayLike,
        rng: np.random.Generator,
        *,
        n_resamples: int = N_RESAMPLES,
        strata: ArrayLike | None = None,
        level: float = LEVEL,
    ) -> None:
        patients = np.asarray(groups)
        stratum = np.zeros(patients.shape, dtype=np.int64) if strata is None else np.asarray(strata)
        if patients.ndim != 1 or patients.shape != stratum.shape or patients.size == 0:
            raise AuditError(f"patients {patients.shape} and strata {stratum.shape} must be vectors of one length > 0")
        if n_resamples < 100:
            raise AuditError(f"{n_resamples} resamples are too few for an interval", expected="at least 100")
        if not 0.0 < level < 1.0:
            raise AuditError(f"a confidence level lies in (0, 1), not {level}")
        names, codes = np.unique(patients, return_inverse=True)
        _, stratum_codes = np.unique(stratum, return_inverse=True)
        of_patient = np.zeros(names.size, dtype=np.int64)
        of_patient[codes] = stratum_codes
        both = np.unique(codes[of_patient[codes] != stratum_codes])
        if both.size:
            raise AuditError(
                f"{both.size} patients stand among members and non-members",
                expected="parts that are disjoint by patient",
                private=[str(name) for name in names[both]],
            )
        self.level, self.n_resamples = level, n_resamples
        self.n_patients, self.n_records = int(names.size), int(patients.size)
        self._codes = codes
        self._strata = [np.flatnonzero(of_patient == s) for s in range(int(stratum_codes.max()) + 1)]
        self.n_smallest = min(s.size for s in self._strata)
        self._seed = int(rng.integers(2**63))

    def weights(self) -> Iterator[Floats]:
        """Record weights [r, n] in chunks, the same sequence at every call."""
        # one generator a stratum, so that the sequence does not depend on the chunk's size
        sources = [np.random.default_rng((self._seed, s)) for s in range(len(self._strata))]
        rows = max(1, _CELLS // max(self.n_records, self.n_patients))
        for start in range(0, self.n_resamples, rows):
            size = min(rows, self.n_resamples - start)
            counts = np.zeros((size, self.n_patients))
            for members, source in zip(self._strata, sources, strict=True):
                counts[:, members] = _multinomial(source, size, members.size)
            yield counts.take(self._codes, axis=1)

    def replicates(self, statistic: Statistic) -> Floats:
        """The statistic of every resample [n_resamples]; NaN where it is undefined."""
        return np.concatenate([statistic(chunk) for chunk in self.weights()])

    def expanded_tail(self) -> float:
        """The share of resamples that is left out at each end; see the module's text. Needs 2 patients a stratum."""
        sizes = np.array([s.size for s in self._strata], dtype=np.float64)
        shrunk = (1.0 / sizes).sum() / ((sizes - 1.0) / sizes**2).sum()
        freedom = (1.0 / sizes).sum() ** 2 / (1.0 / (sizes**2 * (sizes - 1.0))).sum()
        return float(stats.norm.cdf(math.sqrt(shrunk) * stats.t.ppf((1.0 - self.level) / 2.0, freedom)))

    def interval(self, statistic: Statistic, *, bounds: tuple[float, float] | None = None) -> Interval:
        """Expanded percentile interval of a weighted statistic.

        Args:
            statistic: weights [r, n] to values [r].
            bounds: the range in which the figure must lie, which gives an interval also where nothing varies.
        """
        if self.n_smallest < 2:
            return Interval.none(
                f"{self.n_smallest} patient on one side: nothing to resample",
                n_patients=self.n_patients,
                level=self.level,
            )
        drawn = self.replicates(statistic)
        kept = drawn[np.isfinite(drawn)]
        undefined = int(drawn.size - kept.size)
        if undefined > _UNDEFINED_LIMIT * drawn.size:
            reason = f"undefined in {undefined} of {drawn.size} resamples: a class has too few patients"
            return Interval.none(reason, n_patients=self.n_patients, level=self.level, n_undefined=undefined)
        tail = self.expanded_tail()
        low, high = (float(end) for end in np.quantile(kept, (tail, 1.0 - tail)))
        if high - low > 1e-12:
            return Interval(low, high, self.level, "patient bootstrap", self.n_patients, n_undefined=undefined)
        if bounds is None:
            reason = "the figure does not vary between resamples of patients"
            return Interval.none(reason, n_patients=self.n_patients, level=self.level, n_undefined=undefined)
        exact = unvarying_interval(
            (low + high) / 2.0, bounds, n_smallest=self.n_smallest, n_patients=self.n_patients, level=self.level
        )
        return replace(exact, n_undefined=undefined)


def unvarying_interval(
    value: float, bounds: tuple[float, float], *, n_smallest: int, n_patients: int, level: float
) -> Interval:
    """Exact binomial interval of a figure in which all patients agree; see the module's text.

    Args:
        value: the figure.
        bounds: the range in which it must lie.
        n_smallest: patients of the smallest stratum.
        n_patients: patients of all.
        level: nominal coverage.
    """
    differ = 1.0 - ((1.0 - level) / 2.0) ** (1.0 / n_smallest)
    low, high = value - differ * (value - bounds[0]), value + differ * (bounds[1] - value)
    return Interval(low, high, level, "exact binomial by patient", n_patients)


def _multinomial(source: np.random.Generator, rows: int, n: int) -> NDArray[np.int64]:
    """[rows, n] counts of n draws with replacement from n (faster than n binomials a row)."""
    draws = source.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)


def bootstrap_interval(
    statistic: Statistic,
    groups: ArrayLike,
    rng: np.random.Generator,
    *,
    strata: ArrayLike | None = None,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Patient-clustered interval of any weighted statistic: weights [r, n] to values [r]."""
    bootstrap = PatientBootstrap(groups, rng, n_resamples=n_resamples, strata=strata, level=level)
    return bootstrap.interval(statistic, bounds=bounds)


def auc_interval(
    scores: ArrayLike, member: ArrayLike, groups: ArrayLike, rng: np.random.Generator, **settings: Any
) -> Interval:
    """Interval of the AUC, patients of the two classes resampled separately. ``settings``: n_resamples, level."""
    statistic = auc_statistic(scores, member)
    return bootstrap_interval(statistic, groups, rng, strata=member, bounds=(0.0, 1.0), **settings)


def mean_interval(
    values: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    *,
    bounds: tuple[float, float] | None = None,
    **settings: Any,
) -> Interval:
    """Interval of a mean over records; ``bounds`` as in :meth:`PatientBootstrap.interval`."""
    return bootstrap_interval(mean_statistic(values), groups, rng, bounds=bounds, **settings)


def paired_difference_interval(
    first: Statistic, second: Statistic, groups: ArrayLike, rng: np.random.Generator, **settings: Any
) -> Interval:
    """Interval of ``first - second`` over the same records, both evaluated on the same resampled patients.

    Example: two models' attack AUCs, ``paired_difference_interval(auc_statistic(a, member),
    auc_statistic(b, member), patients, rng, strata=member)``; two mean losses, with ``mean_statistic``.
    """

    def difference(weights: Floats) -> Floats:
        return first(weights) - second(weights)

    return bootstrap_interval(difference, groups, rng, **settings)


def clopper_pearson(k: int, n: int, level: float = LEVEL) -> Interval:
    """Exact two-sided interval of a proportion: k of n independent trials (patients, not their records)."""
    _check_proportion(k, n, level)
    tail = (1.0 - level) / 2.0
    low = float(special.betaincinv(k, n - k + 1, tail)) if k else 0.0
    high = float(special.betaincinv(k + 1, n - k, 1.0 - tail)) if k < n else 1.0
    return Interval(low, high, level, "Clopper-Pearson", n)


def wilson(k: int, n: int, level: float = LEVEL) -> Interval:
    """Wilson score interval of a proportion: k of n independent trials."""
    _check_proportion(k, n, level)
    ends = stats.binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(ends.low), float(ends.high), level, "Wilson", n)


def _check_proportion(k: int, n: int, level: float) -> None:
    if not 0 <= k <= n or n < 1 or not 0.0 < level < 1.0:
        raise AuditError(f"a proportion needs 0 <= k <= n, n >= 1 and a level in (0, 1), not k={k}, n={n}, {level}")


def null_auc_sd(n_members: float, n_nonmembers: float) -> float:
    """Standard deviation of the AUC when scores carry nothing, records independent and without ties.

    sqrt((P + N + 1) / (12 P N)), the Mann-Whitney null variance.
    """
    if n_members < 1 or n_nonmembers < 1:
        raise AuditError(f"members and non-members are needed, not {n_members} and {n_nonmembers}")
    return math.sqrt((n_members + n_nonmembers + 1) / (12.0 * n_members * n_nonmembers))
