"""The rule of the exposure audit: can people who were in training be told from people who were not?

Written before any figure. ``docs/signals.md`` says it in words. Each attack is looked at twice, and each look has two
sides, for a model can know people well and it can treat them worse than others:

* **ranking**: does its AUC differ from 1/2? A permutation test: patients change sides with all their records.
* **standing out**: how many people are scored above (turned round: below) *every* outsider? Averages hide a few exposed
  people; this does not. With exchangeable people the chance of k or more among P people and N outsiders is exactly
  P! (P + N - k)! / ((P - k)! (P + N)!), the chance that the k highest of all are members.

Holm's method holds the chance of any false finding among all looks at 1 - level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.result import AttackResult
from forgetmi.audit.measurements import people_standing_out
from forgetmi.audit.options import COMPARISON_ATTACK
from forgetmi.errors import AuditError, ConfigError, did_you_mean
from forgetmi.metrics.intervals import Interval, clopper_pearson
from forgetmi.metrics.power import detectable_auc
from forgetmi.metrics.testing import adjusted_p_values, chance_of_standing_out, permutation_null

Outcome = Literal["exposed", "none_found", "cannot_tell"]
Kind = Literal["ranking", "standing_out"]
Direction = Literal["known", "marked"]
TWINS = {
    "svc": "learns a threshold on the loss: a look at much the same ranking as the attack on the loss",
    "attack_p": "ranks records as the attack on the loss does",
}


@dataclass(frozen=True)
class ExposureOptions:
    """Options of an exposure audit. All of them are written into ``exposure.json``.

    Attributes:
        attacks: which attacks to make. Empty: all that the file permits, but for those that look at the same ranking
            twice (:data:`TWINS`), since every look costs the others some power.
        n_bootstrap: resamples of patients behind each interval.
        n_permutations: of patients, behind each p-value of a ranking; the smallest p-value is 1 / (n + 1).
        level: of the intervals; 1 - level is the chance of a false finding that the rule allows.
        min_patients: with fewer people on a side the rule never says that none was found.
        min_cell: groups with fewer people on a side are not published.
        people_fpr: of the people who were never in training, the share that the attacker of the decision box may
            accuse wrongly.
        largest_limit: where an attack that is right in this share of pairs might well have been missed, the audit is
            too small to say. 0.75: right in three of four pairs.
        fprs: false positive rates.
    """

    attacks: tuple[str, ...] = ()
    n_bootstrap: int = 1000
    n_permutations: int = 9999
    level: float = 0.95
    min_patients: int = 10
    min_cell: int = 10
    people_fpr: float = 0.05
    largest_limit: float = 0.75
    fprs: tuple[float, ...] = (0.1, 0.01, 0.001)

    def __post_init__(self) -> None:
        known = [name for name in ATTACKS if name != COMPARISON_ATTACK]
        problems = [f"attacks: unknown {a!r}. {did_you_mean(a, known)}" for a in self.attacks if a not in known]
        if len(set(self.attacks)) != len(self.attacks):
            problems.append("attacks: each may be named once")
        if self.n_bootstrap < 200:
            problems.append(f"n_bootstrap must be at least 200, not {self.n_bootstrap}: the interval's ends would jump")
        if self.n_permutations < 999:
            problems.append(f"n_permutations must be at least 999, not {self.n_permutations}: no look could be certain")
        if not 0.5 <= self.level < 1.0:
            problems.append(f"level must lie in [0.5, 1), not {self.level}")
        if self.min_patients < 2 or self.min_cell < 3:
            problems.append(
                "min_patients must be at least 2, and min_cell at least 3: smaller groups are single people"
            )
        if not 0.0 < self.people_fpr < 1.0:
            problems.append(f"people_fpr must lie in (0, 1), not {self.people_fpr}")
        if not 0.5 < self.largest_limit < 1.0:
            problems.append(f"largest_limit must lie in (0.5, 1), not {self.largest_limit}")
        if not self.fprs or not all(0.0 < fpr < 1.0 for fpr in self.fprs):
            problems.append("fprs must be shares in (0, 1), at least one")
        if problems:
            raise ConfigError(problems)

    @property
    def alpha(self) -> float:
        """The chance of a false finding, over all looks."""
        return 1.0 - self.level


@dataclass(frozen=True)
class Look:
    """One look at one attack on one model.

    Attributes:
        attack: which.
        kind: ranking or standing out.
        direction: ``known``: people are found because the model knows them well; ``marked``: because it treats them
            worse than others.
        value: AUC, or the share of people standing out.
        interval: of the value, by patient.
        count: people standing out; ``None`` for a ranking.
        p, p_adjusted: two-sided; adjusted over all looks at the model.
    """

    attack: str
    kind: Kind
    direction: Direction
    value: float
    interval: Interval
    count: int | None
    p: float
    p_adjusted: float


def look(
    results: Mapping[str, AttackResult], rng: np.random.Generator, *, n_permutations: int, level: float
) -> list[Look]:
    """All looks at one model.

    Args:
        results: attack to its result; all over the same records.
        rng: for the permutations.
        n_permutations, level: see :class:`ExposureOptions`.
    """
    seed = int(rng.integers(2**63))  # the same permutations for all attacks
    found: list[Look] = []
    for name, result in results.items():
        figure = result.figures["auc"]
        if figure.value is None:
            raise AuditError(f"attack {name!r} has no AUC: {figure.reason}")
        side: Direction = "known" if figure.value >= 0.5 else "marked"
        p = ranking_p(result, np.random.default_rng(seed), n_permutations)
        found.append(Look(name, "ranking", side, figure.value, figure.interval, None, p, 1.0))
        sides = {turned: people_standing_out(result, turned=turned) for turned in (False, True)}
        turned = sides[True].chance < sides[False].chance
        k, n = sides[turned].count, sides[turned].n_members
        p = min(1.0, 2.0 * sides[turned].chance)
        side = "marked" if turned else "known"
        found.append(Look(name, "standing_out", side, k / n, clopper_pearson(k, n, level), k, p, 1.0))
    adjusted = adjusted_p_values([one.p for one in found])
    return [Look(**{**vars(one), "p_adjusted": float(p)}) for one, p in zip(found, adjusted, strict=True)]


def check_permutations(n_looks: int, options: ExposureOptions) -> None:
    """Refuse so few permutations that the smallest p-value they can give would not be found among so many looks.

    Raises:
        ConfigError: it is so.
    """
    needed = math.ceil(2 * n_looks / options.alpha)
    if options.n_permutations < needed:
        given = (
            f"n_permutations: {options.n_permutations} are too few for {n_looks} looks at the level {options.level:g}"
        )
        raise ConfigError([f"{given}: at least {needed}"])


def ranking_p(result: AttackResult, rng: np.random.Generator, n_permutations: int) -> float:
    """Two-sided p-value of AUC = 1/2: twice the share of permutations with an AUC as high (or as low).

    Patients change sides with all their records: exact where people are exchangeable, whatever the number of records.
    """
    if result.scores is None or result.member is None or result.patient is None:
        raise AuditError(f"attack {result.name!r} scores no records")
    return permutation_null(result.scores, result.member, result.patient, rng, n_permutations).p_two_sided


@dataclass(frozen=True)
class Limits:
    """What an audit of this size could have seen.

    Attributes:
        n_looks: m, looks at the model.
        detectable_auc: the smallest AUC that is found in 8 of 10 such audits even if it is the only finding; ``None``
            where not even a perfect attack would be.
        noticed_people: were so many people scored above every outsider, it would be noticed, if all have as many
            records; ``None``: not even all.
        largest_auc: the largest AUC, either way, inside of an attack's interval: up to this one nothing is excluded.
    """

    n_looks: int
    detectable_auc: float | None
    noticed_people: int | None
    largest_auc: float | None


def limits(looks: Sequence[Look], n_members: int, n_others: int, alpha: float) -> Limits:
    """Limits at Bonferroni's level alpha / m, at which Holm's method begins."""
    each = alpha / max(1, len(looks))
    noticed = next(
        (k for k in range(1, n_members + 1) if 2.0 * chance_of_standing_out(k, n_members, n_others) <= each),
        None,
    )
    ends = [(one.interval.low, one.interval.high) for one in looks if one.kind == "ranking"]
    reached = [max(high, 1.0 - low) for low, high in ends if low is not None and high is not None]
    return Limits(
        n_looks=len(looks),
        detectable_auc=detectable_auc(n_members, n_others, level=1.0 - each),
        noticed_people=noticed,
        largest_auc=max(reached) if reached and len(reached) == len(ends) else None,
    )


def explained(one: Look, retrained: Sequence[Sequence[Look]], alpha: float) -> bool:
    """Whether models that never saw the people show the same: the people differ, and no memory need be behind it.

    Every one of them shows it (unadjusted, the same way), and the finding's interval reaches their range.
    """
    others = [other for looks in retrained for other in looks if (other.attack, other.kind) == (one.attack, one.kind)]
    if not others or not all(other.p <= alpha and other.direction == one.direction for other in others):
        return False
    values = [other.value for other in others]
    low, high = one.interval.low, one.interval.high
    if low is None or high is None:
        return False
    return low <= max(values) if (one.kind == "standing_out" or one.direction == "known") else high >= min(values)


def decide(
    looks: Sequence[Look],
    retrained: Sequence[Sequence[Look]],
    n_members: int,
    n_others: int,
    options: ExposureOptions,
) -> tuple[Outcome, list[Look], list[Look], Limits]:
    """Apply the rule, in this order.

    1. A look with an adjusted p-value at or below alpha that retrained models do not explain -> ``exposed``.
    2. Such looks, all of them explained -> ``cannot_tell``: the two groups of people differ.
    3. Too few people on a side, or a detectable AUC above ``largest_limit`` -> ``cannot_tell``: too small.
    4. Else ``none_found``, down to the limits.

    Returns:
        The outcome, the findings, those of them that retrained models explain, and the limits.
    """
    found = [one for one in looks if one.p_adjusted <= options.alpha]
    away = [one for one in found if explained(one, retrained, options.alpha)]
    reach = limits(looks, n_members, n_others, options.alpha)
    outcome: Outcome
    if len(found) > len(away):
        outcome = "exposed"
    elif found or is_small(n_members, n_others, reach, options):
        outcome = "cannot_tell"
    else:
        outcome = "none_found"
    return outcome, found, away, reach


def is_small(n_members: int, n_others: int, reach: Limits, options: ExposureOptions) -> bool:
    """Whether finding nothing would mean nothing."""
    few = min(n_members, n_others) < options.min_patients
    return few or reach.detectable_auc is None or reach.detectable_auc > options.largest_limit
