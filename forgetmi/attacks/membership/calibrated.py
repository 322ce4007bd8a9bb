"""Attacks that ask how unusual a record's value is for *this* record, or for records that nobody trained on.

Calibrated by difficulty (Watson et al. 2022): the value less what it is under models that did not see the record.
Attack R and attack P (Ye et al. 2022, "Enhanced membership inference attacks"): where the loss stands among the
record's losses under reference models that did not see it (R), or among the losses of a population (P).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.attacks.membership.moments import as_queries, blocks, counts, medians, moments
from forgetmi.attacks.membership.references import ComparingAttack, Scored, check_enough, one_query, unknown
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import Bools, Floats, Ints

CENTRES = ("mean", "median")
SIGNALS = ("loss", "scaled_logit")

_FIX = "train more shadow models"
_UNSEEN = "that did not see them"


def calibrated_scores(target: ArrayLike, references: ArrayLike, seen: ArrayLike, *, centre: str = "mean") -> Floats:
    """Value of each record less the centre of its values under OUT references [n] (Watson et al. 2022, equation 5).

    Args:
        target: a signal, **higher = member** (-loss, or the scaled logit) [n] or [n, q]. Queries are averaged.
        references: the same under K references [K, n] or [K, n, q].
        seen: reference k trained on the record [K, n]; such references are left out.
        centre: ``mean`` (the paper) or ``median``.

    Raises:
        ConfigError: the centre is neither.
        AuditError: shapes do not fit, a value is not finite, or all references saw a record.
    """
    if centre not in CENTRES:
        raise ConfigError([unknown("centre", centre, CENTRES)])
    values, others, mask = as_queries(target, references, seen)
    check_enough(counts(mask, False), 1, _UNSEEN, _FIX)
    middle = moments(others, mask, False).mean if centre == "mean" else medians(others, mask, False)
    scores: Floats = (values - middle).mean(axis=1)
    return _finite(scores)


@dataclass(frozen=True)
class Standing:
    """Where the loss of each record stands among losses of non-members (of the record, or of a population).

    Attributes:
        below: how many of them are smaller [n].
        equal: how many are equal [n].
        n: how many there are [n].
    """

    below: Ints
    equal: Ints
    n: Ints

    @property
    def scores(self) -> Floats:
        """Share of them that is larger, ties by half [n]: 1 - mid-p-value, so higher = member."""
        result: Floats = (self.n - self.below - 0.5 * self.equal) / self.n
        return result

    def called(self, alpha: float) -> Bools | str:
        """Decisions at a false positive rate [n], or why there can be none.

        Ye et al. reject "not a member" where loss <= c, c the alpha-quantile of the losses of non-members: here the
        floor(alpha n)-th smallest. Losses that tie are called together, and only where all of them fit (our reading),
        so that of the non-members themselves never more than floor(alpha n) are called, and exactly that many without
        ties.
        """
        most = np.floor(alpha * self.n + 1e-9)
        if most.min() < 1:
            return (
                f"no loss of a non-member marks an FPR of {alpha:g}: there are {self.n.min()}, it takes {1 / alpha:.0f}"
            )
        decided: Bools = self.below + np.maximum(self.equal, 1) <= most
        return decided


def reference_standing(target_loss: ArrayLike, reference_loss: ArrayLike, seen: ArrayLike) -> Standing:
    """Attack R: each record's loss [n] among its losses under OUT references [K, n].

    With one reference model the score is 1, 1/2 or 0 as the reference's loss is larger, equal or smaller; with equal
    reference models it is the same for any number of them.

    Raises:
        AuditError: shapes do not fit, a value is not finite, or all references saw a record.
    """
    loss, others, mask = as_queries(target_loss, reference_loss, seen)
    loss, others = _finite(one_query(loss, "attack_r")), _finite(one_query(others, "attack_r"))
    n = counts(mask, False)
    check_enough(n, 1, _UNSEEN, _FIX)
    below, equal = np.empty_like(n), np.empty_like(n)
    for block in blocks(*mask.shape):
        outside, values = ~mask[:, block], others[:, block]
        below[block] = ((values < loss[block]) & outside).sum(axis=0)
        equal[block] = ((values == loss[block]) & outside).sum(axis=0)
    return Standing(below, equal, n)


def population_standing(target_loss: ArrayLike, population_loss: ArrayLike) -> Standing:
    """Attack P: each record's loss [n] among losses of records that nobody trained on [Z], under the same model.

    Raises:
        AuditError: a shape or a value is wrong.
    """
    loss, others = np.asarray(target_loss, dtype=np.float64), np.asarray(population_loss, dtype=np.float64)
    if loss.ndim != 1 or others.ndim != 1 or others.size == 0:
        raise AuditError(f"losses of records {loss.shape} and of a population {others.shape}: two vectors, none empty")
    ranked = np.sort(_finite(others))
    below = np.searchsorted(ranked, _finite(loss), side="left")
    up_to = np.searchsorted(ranked, loss, side="right")
    return Standing(below, up_to - below, np.full(loss.size, ranked.size))


def _finite(values: Floats) -> Floats:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise AuditError(f"{wrong} of {values.size} values are not finite", fix="pass finite signals")
    return values


@dataclass(frozen=True)
class CalibratedAttack(ComparingAttack):
    """The signal less its centre under models that did not see the record.

    Attributes:
        signal: ``loss`` (as published) or ``scaled_logit``.
        centre: ``mean`` or ``median``.
    """

    name: ClassVar[str] = "calibrated"

    signal: str = "loss"
    centre: str = "mean"

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        found = [] if self.signal in SIGNALS else [unknown("signal", self.signal, SIGNALS)]
        return found + ([] if self.centre in CENTRES else [unknown("centre", self.centre, CENTRES)])

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores by :func:`calibrated_scores`."""
        data = self.compared(forget, test, self.signal)
        sign = -1.0 if self.signal == "loss" else 1.0
        scores = calibrated_scores(sign * data.target, sign * data.references, data.seen, centre=self.centre)
        n_out, q = counts(data.seen, False), data.target.shape[1]
        what = "loss under OUT references - loss" if sign < 0 else "scaled logit - scaled logit under OUT references"
        definition = (
            f"difficulty-calibrated: score = {what}; centre over references: {self.centre}"
            f"{'' if q == 1 else f'; mean over {q} queries'}; reference models: {len(data.seen)} {data.kind}, a record "
            f"OUT of {n_out.min()} to {n_out.max()}"
        )
        return Scored(scores, definition, {"reference_models": data.kind})


@dataclass(frozen=True)
class ReferenceAttack(ComparingAttack):
    """Attack R: a threshold for each record, from reference models that did not see it.

    Attributes:
        alpha: false positive rate that decisions are calibrated to.
    """

    name: ClassVar[str] = "attack_r"

    alpha: float = 0.05

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        return _alpha_problems(self.alpha)

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores and decisions by :func:`reference_standing`."""
        data = self.compared(forget, test, "loss")
        loss, references = one_query(data.target, self.name), one_query(data.references, self.name)
        standing = reference_standing(loss, references, data.seen)
        definition = _definition(standing, self.alpha, f"the record's losses under {data.kind} that did not see it")
        return Scored(standing.scores, definition, {"reference_models": data.kind}, standing.called(self.alpha))


@dataclass(frozen=True)
class PopulationAttack(ComparingAttack):
    """Attack P: one threshold, from records that nobody trained on, under the attacked model.

    Attributes:
        alpha: false positive rate that decisions are calibrated to.
    """

    name: ClassVar[str] = "attack_p"
    references: ClassVar[tuple[str, ...]] = ()
    needs_population: ClassVar[bool] = True

    alpha: float = 0.05

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        return _alpha_problems(self.alpha)

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores and decisions by :func:`population_standing`."""
        assert population is not None
        standing = population_standing(np.concatenate([forget.get("loss"), test.get("loss")]), population.get("loss"))
        definition = _definition(standing, self.alpha, "losses of records that nobody trained on")
        return Scored(standing.scores, definition, {}, standing.called(self.alpha))


def _alpha_problems(alpha: float) -> list[str]:
    return [] if 0.0 < alpha < 1.0 else [f"alpha must lie in (0, 1), not {alpha}"]


def _definition(standing: Standing, alpha: float, among: str) -> str:
    fewest, most = standing.n.min(), standing.n.max()
    return (
        f"score = share of {among} ({fewest if fewest == most else f'{fewest} to {most}'}) that are larger than the "
        f"loss, ties by half; called a member where the loss is among the floor({alpha:g} n) smallest of them (equal "
        "ones only all together)"
    )
