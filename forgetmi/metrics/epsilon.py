"""How much privacy loss a sample proves: lower bounds on epsilon from an attack's decisions on patients.

A mechanism is (epsilon, delta)-differentially private with the *patient* as unit only if every attack obeys
TPR <= e^epsilon FPR + delta and TNR <= e^epsilon FNR + delta. An attack that does better refutes the claim. With exact
(Clopper-Pearson) bounds on both rates, each at alpha / 2 (Nasr et al. 2021, "Adversary instantiation"):

    epsilon >= max(0, ln((TPR_lo - delta) / FPR_hi), ln((TNR_lo - delta) / FNR_hi))

TNR_lo = 1 - FPR_hi and FNR_hi = 1 - TPR_lo, so both directions rest on the same two one-sided bounds: alpha is split
over the two rates, and the larger direction may be taken at level alpha. (An attack that calls *low* scores members
would use the other two ends; they are not looked at: scores are oriented, higher = member.)

The best of many thresholds is not a bound: with no leakage it lies above 0 in most runs. So a threshold is set
beforehand, or one of K is taken at level alpha / K.

Beside every bound stands the most that the sample could have certified (a perfect attack), since a small sample
certifies little whatever leaks. Patients are counted, never their records: one score a patient.

>>> bound = clopper_pearson_epsilon(90, 100, 10, 100, delta=0.0)
>>> round(bound.value, 4), round(bound.most_certifiable, 4)
(1.5422, 3.2813)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from forgetmi.errors import AuditError
from forgetmi.metrics.roc import Bools, Floats, Ints, check_scores

ALPHA = 0.05
Law = Literal["dp", "gaussian_dp"]

INDEPENDENT = "patients' scores are independent of each other, members and non-members alike but for their membership"
GAUSSIAN = "the mechanism is Gaussian-differentially private: an assumption that no sample can prove"


@dataclass(frozen=True)
class EpsilonBound:
    """A lower bound on epsilon, and what it could have been.

    Attributes:
        value: epsilon is at least this, with confidence 1 - alpha; 0 where nothing is proven.
        method: how it was computed.
        delta: the delta that goes with it.
        alpha: how often the bound may be wrong.
        threshold_rule: how the decisions came about, and the correction for the choice.
        counts: integers from which it can be recomputed.
        n_patients: patients that the bound rests on.
        most_certifiable: the value that a perfect attack would have had on this sample, by the same rule.
        assumptions: what must hold.
        threshold: the threshold that gave it, where there is one.
        mu: the lower bound on mu, where the mechanism is taken to be Gaussian.
    """

    value: float
    method: str
    delta: float
    alpha: float
    threshold_rule: str
    counts: Mapping[str, int]
    n_patients: int
    most_certifiable: float
    assumptions: tuple[str, ...]
    threshold: float | None = None
    mu: float | None = None

    @property
    def sentence(self) -> str:
        """What it says, in plain words."""
        most = f"{self.n_patients} patients could have certified at most {self.most_certifiable:.3f}"
        if self.value == 0.0:
            return f"No epsilon above 0 is proven (delta {self.delta:g}, {1 - self.alpha:.0%} confidence); {most}."
        return (
            f"With {1 - self.alpha:.0%} confidence epsilon is at least {self.value:.3f} (delta {self.delta:g}); {most}."
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {**self.__dict__, "counts": dict(self.counts), "assumptions": list(self.assumptions)}


def clopper_pearson_epsilon(
    tp: int,
    n_members: int,
    fp: int,
    n_nonmembers: int,
    *,
    delta: float,
    alpha: float = ALPHA,
    law: Law = "dp",
) -> EpsilonBound:
    """Bound from one decision rule that was set beforehand.

    Args:
        tp: of ``n_members`` patients, those called members.
        fp: of ``n_nonmembers`` patients, those called members.
        delta: in [0, 1); no default, it is part of the claim.
        alpha: in (0, 1).
        law: ``dp`` for (epsilon, delta) as it stands; ``gaussian_dp`` assumes a Gaussian mechanism, and converts mu by
            :func:`gdp_epsilon`.

    Raises:
        AuditError: counts, delta or alpha are out of range.
    """
    return _bound(
        np.array([tp]),
        n_members,
        np.array([fp]),
        n_nonmembers,
        delta=delta,
        alpha=alpha,
        law=law,
        rule="decision rule set beforehand",
        thresholds=None,
        most=(np.array([n_members]), np.array([0])),
    )


def epsilon_over_thresholds(
    scores: ArrayLike,
    member: ArrayLike,
    *,
    patients: ArrayLike,
    delta: float,
    alpha: float = ALPHA,
    thresholds: Sequence[float] | None = None,
    law: Law = "dp",
) -> EpsilonBound:
    """The best of K thresholds, each at level alpha / K (Bonferroni).

    Without ``thresholds``, they stand at the k-th highest score of a non-member, k = 1, 2, 4, ... up to their number,
    and a patient strictly above is called a member. Such thresholds follow the data and the bound is exact all the same
    (our reading): the chance that a non-member lies above the k-th highest of N has the law Beta(k, N - k + 1), whose
    upper quantile is the Clopper-Pearson bound with k - 1 false positives (with ties it is an upper bound); members do
    not enter the choice. K depends on the number of non-members alone.

    Args:
        scores: [n], higher = member, one a patient.
        member: [n].
        patients: [n].
        delta, alpha, law: as :func:`clopper_pearson_epsilon`.
        thresholds: set beforehand, without a look at these scores; a patient at or above is called a member.

    Raises:
        AuditError: a patient has several scores, or as :func:`clopper_pearson_epsilon`.
    """
    values, truth = _one_a_patient(scores, member, patients)
    inside, outside = np.sort(values[truth]), np.sort(values[~truth])
    if thresholds is None:
        ranks = 2 ** np.arange(int(np.log2(outside.size)) + 1)
        cuts, tp, fp = _above_ranks(inside, outside, ranks)
        rule = f"strictly above the k-th highest non-member, k = 1, 2, 4, ..., {ranks[-1]}"
        most = (np.full(ranks.size, inside.size), ranks - 1)
    else:
        cuts = np.asarray(thresholds, dtype=np.float64)
        if cuts.ndim != 1 or cuts.size == 0 or not np.isfinite(cuts).all():
            raise AuditError(f"thresholds {cuts.shape} must be a list of finite numbers")
        tp = inside.size - np.searchsorted(inside, cuts, side="left")
        fp = outside.size - np.searchsorted(outside, cuts, side="left")
        rule = "thresholds set beforehand"
        most = (np.array([inside.size]), np.array([0]))
    return _bound(
        tp,
        inside.size,
        fp,
        outside.size,
        delta=delta,
        alpha=alpha,
        law=law,
        rule=f"best of {cuts.size} thresholds ({rule}), each at level alpha / {cuts.size} (Bonferroni)",
        thresholds=cuts,
        most=most,
    )


def gdp_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) of a mu-Gaussian-DP mechanism (Dong et al. 2022, corollary 2.13).

    Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2), epsilon >= 0; mu = 0 gives 0.
    """
    if not (mu >= 0.0 and epsilon >= 0.0):
        raise AuditError(f"mu and epsilon are at least 0, not {mu} and {epsilon}")
    if mu == 0.0:
        return 0.0
    # e^epsilon overflows where the second term is still tiny: the product is taken in logs
    second = np.exp(epsilon + special.log_ndtr(-epsilon / mu - mu / 2.0))
    return float(max(0.0, special.ndtr(-epsilon / mu + mu / 2.0) - second))


def gdp_epsilon(mu: float, delta: float) -> float:
    """The epsilon at which :func:`gdp_delta` is ``delta``, by root finding to 1e-12; 0 where delta(0) is below it.

    Raises:
        AuditError: ``mu`` is negative, or ``delta`` is not in (0, 1): at delta 0 a Gaussian mechanism has no epsilon.
    """
    if not (mu >= 0.0 and 0.0 < delta < 1.0):
        raise AuditError(f"a Gaussian mechanism has mu >= 0 and an epsilon for delta in (0, 1), not {mu} and {delta}")
    if gdp_delta(mu, 0.0) <= delta:
        return 0.0
    # Phi(-x) <= e^(-x^2 / 2) gives delta(epsilon) <= delta from here on
    high = mu * mu / 2.0 + mu * float(np.sqrt(2.0 * np.log(1.0 / delta)))
    return float(optimize.brentq(lambda epsilon: gdp_delta(mu, epsilon) - delta, 0.0, high, xtol=1e-12, rtol=1e-14))


def check_delta_alpha(delta: float, alpha: float) -> None:
    """Raise :class:`AuditError` unless delta lies in [0, 1) and alpha in (0, 1)."""
    if not 0.0 <= delta < 1.0 or not 0.0 < alpha < 1.0:
        raise AuditError(f"delta lies in [0, 1) and alpha in (0, 1), not {delta} and {alpha}")


def check_one_score_a_patient(patients: ArrayLike, n: int) -> None:
    """Raise :class:`AuditError` unless there are ``n`` patients, each once."""
    ids = np.asarray(patients)
    if ids.shape != (n,):
        raise AuditError(f"{n} scores and patients {ids.shape}: one score a patient")
    ranked = np.sort(ids)  # np.unique takes ten times as long
    several = int((ranked[1:] == ranked[:-1]).sum())
    if several:
        raise AuditError(
            f"{several} of {n} scores are of a patient who has another: the bound counts patients, not records",
            fix="combine each patient's records into one score first",
        )


def _one_a_patient(scores: ArrayLike, member: ArrayLike, patients: ArrayLike) -> tuple[Floats, Bools]:
    values, truth = check_scores(scores, member)
    check_one_score_a_patient(patients, values.size)
    return values, truth


def _above_ranks(inside: Floats, outside: Floats, ranks: Ints) -> tuple[Floats, Ints, Ints]:
    """Thresholds at the k-th highest non-member, members strictly above, and k - 1 (with ties, more than are above)."""
    cuts = outside[outside.size - ranks]
    return cuts, inside.size - np.searchsorted(inside, cuts, side="right"), ranks - 1


def _epsilons(
    tp: Ints, n_members: int, fp: Ints, n_nonmembers: int, *, delta: float, alpha: float, law: Law
) -> tuple[Floats, Floats]:
    """Lower bounds on epsilon [k] and, for a Gaussian mechanism, on mu [k]; each at level alpha."""
    fn, tn, each = n_members - tp, n_nonmembers - fp, np.full(tp.shape, alpha / 2.0)
    # a miss count of n makes the beta law degenerate: nothing is known of that rate
    tpr = np.where(tp > 0, special.betaincinv(np.maximum(tp, 1), fn + 1, each), 0.0)
    tnr = np.where(tn > 0, special.betaincinv(np.maximum(tn, 1), fp + 1, each), 0.0)
    fpr = np.where(tn > 0, special.betainccinv(fp + 1, np.maximum(tn, 1), each), 1.0)
    fnr = np.where(tp > 0, special.betainccinv(fn + 1, np.maximum(tp, 1), each), 1.0)
    if law == "dp":
        # no rate above e^0 times the other, plus delta, proves anything: ln is taken of 1 at least
        ratio = np.maximum((tpr - delta) / fpr, (tnr - delta) / fnr)
        return np.log(np.maximum(ratio, 1.0)), np.zeros(tp.shape)
    mu = np.maximum(special.ndtri(tnr) - special.ndtri(fnr), 0.0)
    return np.array([gdp_epsilon(value, delta) for value in mu]), mu


def _bound(
    tp: Ints,
    n_members: int,
    fp: Ints,
    n_nonmembers: int,
    *,
    delta: float,
    alpha: float,
    law: Law,
    rule: str,
    thresholds: Floats | None,
    most: tuple[Ints, Ints],
) -> EpsilonBound:
    """The best of k rules, each at level alpha / k; ``most``: (tp, fp) of a perfect attack under the same rules."""
    check_delta_alpha(delta, alpha)
    if law not in ("dp", "gaussian_dp"):
        raise AuditError(f"law {law!r}", expected="'dp' or 'gaussian_dp'")
    for hits, n in ((tp, n_members), (fp, n_nonmembers)):
        if n < 1 or (hits < 0).any() or (hits > n).any():
            raise AuditError(f"counts must lie between 0 and n, n at least 1, not {hits.tolist()} of {n}")
    each = alpha / tp.size
    epsilons, mus = _epsilons(tp, n_members, fp, n_nonmembers, delta=delta, alpha=each, law=law)
    perfect, _ = _epsilons(most[0], n_members, most[1], n_nonmembers, delta=delta, alpha=each, law=law)
    best = int(np.argmax(epsilons))
    return EpsilonBound(
        value=float(epsilons[best]),
        method="Clopper-Pearson" if law == "dp" else "Clopper-Pearson, Gaussian mechanism assumed",
        delta=delta,
        alpha=alpha,
        threshold_rule=rule,
        counts={
            "tp": int(tp[best]),
            "n_members": n_members,
            "fp": int(fp[best]),
            "n_nonmembers": n_nonmembers,
            "n_thresholds": int(tp.size),
        },
        n_patients=n_members + n_nonmembers,
        most_certifiable=float(perfect.max()),
        assumptions=(INDEPENDENT,) if law == "dp" else (INDEPENDENT, GAUSSIAN),
        threshold=None if thresholds is None else float(thresholds[best]),
        mu=None if law == "dp" else float(mus[best]),
    )
