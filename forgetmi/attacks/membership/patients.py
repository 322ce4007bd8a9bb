"""From records to patients: one score, one decision and one entry a patient.

What is asked is whether a *patient* was in training, and an attacker who holds several records of one puts them
together. Patients with more records give more to go by, and under the ``max`` rule they score higher even where nothing
leaks: the highest of five draws lies above the highest of one in five of six cases. So results here always stand beside
the figure that the numbers of records alone would give, and the one among patients with the same number of records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forgetmi.attacks.membership.result import AttackResult, PartSignals, check_attack_options
from forgetmi.attacks.membership.scored import scored_result
from forgetmi.errors import AuditError, ConfigError, did_you_mean
from forgetmi.metrics.figure import Figure, absent, measure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, PatientBootstrap
from forgetmi.metrics.roc import (
    Bools,
    Floats,
    Ints,
    Statistic,
    TprAtFpr,
    auc_statistic,
    check_scores,
    tpr_at_fpr,
)

Rule = Literal["max", "mean", "sum", "top_k"]
_WORDS = {
    "max": "the highest of the records' scores",
    "mean": "the mean of the records' scores",
    "sum": "the sum of the records' scores",
    "top_k": "the mean of the {k} highest of the records' scores (of all, where there are fewer)",
}


@dataclass(frozen=True)
class PatientScores:
    """One score a patient.

    Attributes:
        scores: [p], higher = member.
        patients: [p], sorted.
        n_records: [p], records behind each score.
    """

    scores: Floats
    patients: NDArray[Any]
    n_records: Ints

    def members(self, member: ArrayLike, patients: ArrayLike) -> Bools:
        """Membership by patient [p], from membership by record [n].

        Raises:
            AuditError: a patient has records on both sides.
        """
        codes = np.searchsorted(self.patients, np.asarray(patients))
        inside = np.bincount(codes, weights=np.asarray(member, dtype=np.float64), minlength=self.patients.size)
        both = (inside > 0) & (inside < self.n_records)
        if both.any():
            raise AuditError(
                f"{int(both.sum())} patients stand among members and non-members",
                expected="parts that are disjoint by patient",
                private=[str(name) for name in self.patients[both]],
            )
        return inside > 0


def combine(scores: ArrayLike, patients: ArrayLike, rule: Rule = "max", *, k: int = 3) -> PatientScores:
    """Scores of records as scores of patients.

    ``max`` finds a patient who is exposed by one record among many. ``mean`` does not favour patients with many
    records. ``sum`` is naive Bayes where scores are log-likelihood ratios (online LiRA): the log-likelihood ratio of
    all records together, were they independent given membership; on other scores it has no meaning. ``top_k`` lies
    between ``max`` (k = 1) and ``mean``.

    Args:
        scores: [n], higher = member.
        patients: [n].
        rule: see above.
        k: of ``top_k``.

    Raises:
        AuditError: shapes differ, nothing is given, or a score is not finite.
        ConfigError: an unknown rule, or k below 1.
    """
    _check_rule(rule, k)
    values, names = np.asarray(scores, dtype=np.float64), np.asarray(patients)
    if values.ndim != 1 or values.shape != names.shape or values.size == 0:
        raise AuditError(f"scores {values.shape} and patients {names.shape} must be vectors of one length > 0")
    if not np.isfinite(values).all():
        raise AuditError(f"{int((~np.isfinite(values)).sum())} of {values.size} scores are not finite")
    unique, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = np.lexsort((-values, codes))
    starts = np.cumsum(counts) - counts
    ranked = values[order]  # patient by patient, the highest first
    if rule == "max":
        return PatientScores(ranked[starts], unique, counts)
    kept = k if rule == "top_k" else values.size
    place = np.arange(values.size) - np.repeat(starts, counts)
    total = np.add.reduceat(np.where(place < kept, ranked, 0.0), starts)
    return PatientScores(total if rule == "sum" else total / np.minimum(counts, kept), unique, counts)


def null_auc_of_max(n_records: ArrayLike, member: ArrayLike) -> float:
    """AUC that the ``max`` rule would give without any leak: mean over pairs of k_member / (k_member + k_other).

    The highest of k draws lies above the highest of m from the same law with probability k / (k + m). Our reading: a
    patient's records are independent; records that resemble each other move it towards 1/2.

    Args:
        n_records: [p].
        member: [p].
    """
    counts, truth = check_scores(n_records, member)
    mine, others = (np.unique(counts[side], return_counts=True) for side in (truth, ~truth))
    chance = mine[0][:, None] / (mine[0][:, None] + others[0])
    return float(mine[1] @ chance @ others[1] / (mine[1].sum() * others[1].sum()))


def same_number_statistic(scores: ArrayLike, member: ArrayLike, n_records: ArrayLike) -> Statistic | None:
    """AUC over pairs of a member and a non-member with the same number of records, as a weighted statistic.

    Whatever the number of records does to a score, it does to both of a pair. ``None`` where there is no such pair.

    Args:
        scores, member, n_records: [p].
    """
    values, truth = check_scores(scores, member)
    counts = np.asarray(n_records)
    groups = [
        where
        for where in (np.flatnonzero(counts == number) for number in np.unique(counts))
        if truth[where].any() and not truth[where].all()
    ]
    if not groups:
        return None
    parts = [(where, truth[where], auc_statistic(values[where], truth[where])) for where in groups]

    def statistic(weights: Floats) -> Floats:
        won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for where, inside, area in parts:
            own = weights.take(where, axis=1)
            here = own[:, inside].sum(axis=1) * own[:, ~inside].sum(axis=1)
            won += np.where(here > 0, here * area(own), 0.0)
            pairs += here
        return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)

    return statistic


def patient_result(
    result: AttackResult,
    rng: np.random.Generator,
    *,
    rule: Rule = "max",
    k: int = 3,
    folds: int = 5,
    fprs: Sequence[float] = (0.05, 0.01),
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> AttackResult:
    """An attack on records as an attack on patients: the same figures with patients for records.

    Besides: ``auc@same_number_of_records``, among pairs of patients with as many records as each other, and
    ``auc@number_of_records``, what the number of records alone gives (a property of the data and of no model). With
    ``max`` and unequal numbers read the first of them, or use ``mean`` (our reading; no source corrects for it).

    Args:
        result: of an attack that scores records.
        rng: for folds and intervals.
        rule, k: see :func:`combine`.
        folds, fprs, n_resamples, level: as those of attacks.

    Raises:
        AuditError: the attack scores no records.
        ConfigError: options out of range.
    """
    check_attack_options(folds, fprs, n_resamples, level)
    if result.scores is None or result.member is None or result.patient is None:
        raise AuditError(f"attack {result.name!r} scores no records: there is nothing to combine by patient")
    combined = combine(result.scores, result.patient, rule, k=k)
    member = combined.members(result.member, result.patient)
    order = np.argsort(~member, kind="stable")  # members first
    scores, member, counts = combined.scores[order], member[order], combined.n_records[order]
    forget, test = (PartSignals({}, combined.patients[order][side]) for side in (member, ~member))
    numbers = [
        f"{int(c.min())} to {int(c.max())}, {c.mean():.3g} on average" for c in (counts[member], counts[~member])
    ]
    notes = [f"records a patient: {numbers[0]} (forgotten), {numbers[1]} (test)"]
    if rule == "max":
        notes.append(
            f"by these numbers of records the max rule would give an AUC of {null_auc_of_max(counts, member):.3f} if "
            "nothing leaked and a patient's records were independent of each other"
        )
    made = scored_result(
        scores,
        forget,
        test,
        rng,
        name=result.name,
        definition=f"one score a patient, {_WORDS[rule].format(k=k)}, of ({result.definition})",
        options={**result.options, "rule": rule, **({"k": k} if rule == "top_k" else {}), "fprs": list(fprs)},
        folds=folds,
        fprs=fprs,
        n_resamples=n_resamples,
        level=level,
        notes=[*result.notes, *notes],
        unit="patient",
    )
    bootstrap = PatientBootstrap(combined.patients[order], rng, strata=member, n_resamples=n_resamples, level=level)
    return replace(made, figures={**made.figures, **_controls(scores, member, counts, bootstrap)})


def _controls(scores: Floats, member: Bools, n_records: Ints, bootstrap: PatientBootstrap) -> dict[str, Figure]:
    counts = {"n_members": int(member.sum()), "n_nonmembers": int((~member).sum())}
    alone = measure(
        "auc@number_of_records",
        auc_statistic(n_records, member),
        bootstrap,
        direction="remembers_above",
        sentence="By the number of records alone, without a model, a forget patient ranks above a test patient in "
        "{value:.1%} of pairs (50 %: the numbers are alike).",
        bounds=(0.0, 1.0),
        counts=counts,
    )
    name, matched = "auc@same_number_of_records", same_number_statistic(scores, member, n_records)
    if matched is None:
        reason = "no forget patient has as many records as a test patient"
        same = absent(name, reason, bootstrap, direction="remembers_above", counts=counts)
    else:
        same = measure(
            name,
            matched,
            bootstrap,
            direction="remembers_above",
            sentence="Among patients with the same number of records the attack ranks a forget patient above a test "
            "patient in {value:.1%} of pairs (guessing: 50 %).",
            bounds=(0.0, 1.0),
            counts=counts,
        )
    return {same.name: same, alone.name: alone}


@dataclass(frozen=True)
class RiskTable:
    """Risk of each forgotten patient. For the site's own eyes: it goes into the restricted file and nowhere else.

    Attributes:
        patients: [p], forgotten patients as they were given, sorted.
        scores: [p], higher = member.
        n_records: [p].
        p_value: [p], (1 + test patients who score at least as high) / (1 + test patients). Without a leak it is at most
            a with probability a at most, for each patient *alone*: of p patients about p * a lie below a by chance. It
            cannot be smaller than 1 / (1 + test patients).
        flagged: [p], the score reaches the operating point.
        point: the operating point, with its counts.
        rule: from records to patients.
    """

    patients: NDArray[Any]
    scores: Floats
    n_records: Ints
    p_value: Floats
    flagged: Bools
    point: TprAtFpr
    rule: str

    def rows(self) -> list[dict[str, Any]]:
        """One mapping a patient, JSON-able; patients as they were given: write pseudonyms, never ids."""
        columns = {
            "patient": self.patients,
            "score": self.scores,
            "n_records": self.n_records,
            "p_value": self.p_value,
            "flagged": self.flagged,
        }
        return [
            dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)
        ]


def risk_table(
    scores: ArrayLike, member: ArrayLike, patients: ArrayLike, *, fpr: float, rule: Rule = "max", k: int = 3
) -> RiskTable:
    """Rank each forgotten patient among the test patients, and flag who reaches the declared operating point.

    Args:
        scores: [n] of records, higher = member. For over-forgetting pass them with the sign turned.
        member: [n], whether the record is a forgotten patient's.
        patients: [n], pseudonyms or numbers.
        fpr: the share of test patients that may be accused wrongly; as declared before. Where they are too few to
            resolve it, only patients above all of them are flagged, and ``point.reason`` says so.
        rule, k: see :func:`combine`.

    Raises:
        AuditError: shapes differ, a score is not finite, a side is empty, or a patient stands on both.
    """
    values, truth = check_scores(scores, member)
    combined = combine(values, patients, rule, k=k)
    mine = combined.members(truth, patients)
    point = tpr_at_fpr(combined.scores, mine, fpr)
    others, own = np.sort(combined.scores[~mine]), combined.scores[mine]
    at_least = others.size - np.searchsorted(others, own, side="left")
    p_value = np.asarray((1.0 + at_least) / (1.0 + others.size), dtype=np.float64)
    return RiskTable(
        patients=combined.patients[mine],
        scores=own,
        n_records=combined.n_records[mine],
        p_value=p_value,
        flagged=np.zeros(own.shape, dtype=np.bool_) if point.threshold is None else own >= point.threshold,
        point=point,
        rule=_WORDS[rule].format(k=k),
    )


def _check_rule(rule: str, k: int) -> None:
    problems = []
    if rule not in get_args(Rule):
        problems.append(f"rule: unknown {rule!r}. {did_you_mean(rule, get_args(Rule))}")
    if k < 1:
        problems.append(f"k must be at least 1, not {k}")
    if problems:
        raise ConfigError(problems)
