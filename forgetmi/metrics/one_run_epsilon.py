"""Lower bounds on epsilon from one training run, in which each of m canaries was included by a fair coin.

An auditor guesses of ``guesses`` canaries whether they were in, abstains on the others, and is right ``correct`` times.
Under (epsilon, delta)-DP the number of correct guesses is little more than Binomial(guesses, q), q = e^epsilon /
(1 + e^epsilon) (Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run"; m, r, v there are
``n_canaries``, ``guesses``, ``correct``):

    p(epsilon) = Pr[Bin(r, q) >= v] + 2 m delta max_{1 <= i <= v} Pr[v - i <= Bin(r, q) < v] / i

Epsilon is at least the smallest value that p does not reject at level alpha. At delta 0 that has a closed form: the
logit of the one-sided Clopper-Pearson bound on the accuracy. delta is multiplied by m: abstaining does not reduce it.

How many guesses are made is set beforehand, or chosen on other canaries; the best of a grid is not a bound.

>>> round(one_run_epsilon(100, 100, 75, delta=0.0).value, 7)
0.7022139
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from forgetmi.errors import AuditError
from forgetmi.metrics.epsilon import ALPHA, GAUSSIAN, EpsilonBound, check_delta_alpha, gdp_epsilon
from forgetmi.metrics.roc import Floats

COIN = "each canary was included by its own fair coin, and nothing else about the run depends on the coins"
UNIT = "a canary is a patient: epsilon is for adding or removing one patient's records"
_MU_GRID, _MU_ROUNDS, _MU_MOST = 33, 9, 40.0  # 32 ** -9 * 40 < 1e-11


def one_run_p_value(n_canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How surprising it is to be right that often if the mechanism is (epsilon, delta)-DP; at most 1.

    Raises:
        AuditError: counts, epsilon or delta are out of range.
    """
    _check(n_canaries, guesses, correct)
    check_delta_alpha(delta, ALPHA)
    if not epsilon >= 0.0:
        raise AuditError(f"epsilon is at least 0, not {epsilon}")
    return _PValue(n_canaries, guesses, correct, delta)(epsilon)


class _PValue:
    """p(epsilon), with everything that does not depend on epsilon computed once."""

    def __init__(self, n_canaries: int, guesses: int, correct: int, delta: float) -> None:
        self.guesses, self.correct, self.weight = guesses, correct, 2.0 * n_canaries * delta
        self.steps = np.arange(1, correct + 1)
        below = correct - self.steps  # v - 1, v - 2, ..., 0
        # ln of the binomial coefficient
        self.ways = -special.betaln(guesses - below + 1.0, below + 1.0) - np.log(guesses + 1.0)
        self.below = below

    def __call__(self, epsilon: float) -> float:
        if self.correct == 0:
            return 1.0
        tail = special.betainc(self.correct, self.guesses - self.correct + 1, special.expit(epsilon))
        if self.weight == 0.0:
            return float(tail)
        in_, out = special.log_expit(epsilon), special.log_expit(-epsilon)
        masses = np.exp(self.ways + self.below * in_ + (self.guesses - self.below) * out)
        return float(min(1.0, tail + self.weight * (np.cumsum(masses) / self.steps).max()))


def one_run_epsilon(
    n_canaries: int, guesses: int, correct: int, *, delta: float, alpha: float = ALPHA, rule: str = ""
) -> EpsilonBound:
    """Bound from ``correct`` of ``guesses`` right guesses about ``n_canaries`` canaries.

    Args:
        n_canaries: canaries whose coin was thrown, those on which the auditor abstained too.
        guesses: set beforehand.
        correct: right ones.
        delta: in [0, 1); no default, it is part of the claim.
        alpha: in (0, 1).
        rule: how the guesses came about, for the report.

    Raises:
        AuditError: counts, delta or alpha are out of range.
    """
    _check(n_canaries, guesses, correct)
    check_delta_alpha(delta, alpha)
    return EpsilonBound(
        value=_one_run(n_canaries, guesses, correct, delta, alpha),
        method="one run (Steinke et al. 2023)",
        delta=delta,
        alpha=alpha,
        threshold_rule=rule or "number of guesses set beforehand",
        counts={"n_canaries": n_canaries, "guesses": guesses, "correct": correct},
        n_patients=n_canaries,
        most_certifiable=_one_run(n_canaries, guesses, guesses, delta, alpha),
        assumptions=(COIN, UNIT),
    )


def one_run_gaussian_epsilon(
    guesses: int, correct: int, *, n_canaries: int, delta: float, alpha: float = ALPHA, rule: str = ""
) -> EpsilonBound:
    """The same for a mechanism that is taken to be Gaussian-DP (Mahloujifar, Melis and Chaudhuri 2024, f-DP).

    With f(x) = Phi(Phi^-1(x) - mu), the smallest success that a mu-Gaussian mechanism allows a set of outcomes follows
    from a recursion over the number of correct guesses, from v = ``correct`` down to 1:
    h_v = alpha (r - v) / m, g_v = alpha v / m; h_{i-1} = max(h_i, f(g_i)), g_{i-1} = g_i + (i - 1) / (r - i + 1)
    (h_{i-1} - h_i); mu is refuted when g_0 + h_0 > r / m. The bound is the smallest mu that is not, converted to
    epsilon at ``delta``. Tighter than :func:`one_run_epsilon` where guesses are many, and it needs the assumption.

    Args: as :func:`one_run_epsilon`; ``delta`` in (0, 1).

    Raises:
        AuditError: counts, delta or alpha are out of range, or delta is 0.
    """
    _check(n_canaries, guesses, correct)
    check_delta_alpha(delta, alpha)
    if delta == 0.0:
        raise AuditError("a Gaussian mechanism has no epsilon at delta 0", fix="state the delta of the claim")
    mu = _one_run_mu(n_canaries, guesses, correct, alpha)
    return EpsilonBound(
        value=gdp_epsilon(mu, delta),
        method="one run, f-DP of a Gaussian mechanism (Mahloujifar et al. 2024)",
        delta=delta,
        alpha=alpha,
        threshold_rule=rule or "number of guesses set beforehand",
        counts={"n_canaries": n_canaries, "guesses": guesses, "correct": correct},
        n_patients=n_canaries,
        most_certifiable=gdp_epsilon(_one_run_mu(n_canaries, guesses, guesses, alpha), delta),
        assumptions=(COIN, UNIT, GAUSSIAN),
        mu=mu,
    )


def one_run_closed_form(guesses: ArrayLike, correct: ArrayLike, alpha: float) -> Floats:
    """The bound at delta 0, for arrays: max(0, logit BetaInv(alpha; v, r - v + 1)); 0 where no guess was right."""
    r, v = np.asarray(guesses, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    accuracy = special.betaincinv(np.maximum(v, 1.0), r - v + 1.0, alpha)
    return np.where(v > 0, special.logit(np.maximum(accuracy, 0.5)), 0.0)


def _one_run(n_canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    high = float(one_run_closed_form(guesses, correct, alpha))
    if delta == 0.0 or high == 0.0:
        return high
    p_value = _PValue(n_canaries, guesses, correct, delta)
    if p_value(0.0) >= alpha:
        return 0.0
    # delta only adds to p, so the root lies at or below the closed form
    return float(optimize.brentq(lambda epsilon: p_value(epsilon) - alpha, 0.0, high, xtol=1e-12, rtol=1e-14))


def _one_run_mu(m: int, r: int, v: int, alpha: float) -> float:
    """The smallest mu that is not refuted, by repeated division of an interval; a grid of mu at a time."""
    low, high = 0.0, _MU_MOST
    if v == 0:
        return 0.0
    for _ in range(_MU_ROUNDS):
        grid = np.linspace(low, high, _MU_GRID)
        h, g = np.full(grid.shape, alpha * (r - v) / m), np.full(grid.shape, alpha * v / m)
        for i in range(v, 0, -1):
            larger = np.maximum(h, special.ndtr(special.ndtri(g) - grid))
            g = g + (i - 1) / (r - i + 1) * (larger - h)
            h = larger
        allowed = np.flatnonzero(g + h <= r / m)
        if allowed.size == 0:
            return high
        if allowed[0] == 0:
            return low
        low, high = float(grid[allowed[0] - 1]), float(grid[allowed[0]])
    return low


def _check(n_canaries: int, guesses: int, correct: int) -> None:
    if not 0 <= correct <= guesses <= n_canaries or guesses < 1:
        raise AuditError(
            f"{correct} right of {guesses} guesses about {n_canaries} canaries",
            expected="0 <= correct <= guesses <= canaries, at least one guess",
        )
