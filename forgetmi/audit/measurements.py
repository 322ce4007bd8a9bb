"""Every figure of one model. All models get the same resamples of patients and the same folds, so they compare."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.patients import PatientScores, Rule, combine, patient_result
from forgetmi.attacks.membership.result import AttackResult, PartSignals
from forgetmi.audit.options import COMPARISON_ATTACK, AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.probes import ProbeFigure, probe_figure
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.errors import AuditError
from forgetmi.metrics.delong import delong_interval
from forgetmi.metrics.epsilon import EpsilonBound, epsilon_over_thresholds
from forgetmi.metrics.figure import Figure, measure
from forgetmi.metrics.intervals import Interval, PatientBootstrap, auc_interval, clopper_pearson
from forgetmi.metrics.language_utility import language_utility
from forgetmi.metrics.roc import Bools, Floats, mean_statistic, tpr_at_fpr, tpr_at_fpr_statistic
from forgetmi.metrics.testing import StandingOut, standing_out
from forgetmi.metrics.utility import Utility, multiclass_utility, multilabel_utility

UTILITY_PARTS = ("forget", "retain", "test")


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator for one purpose: the same for every model, and unmoved by what else is computed."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


@dataclass(frozen=True)
class Measurement:
    """All figures of one model.

    Attributes:
        scores: what they were computed from.
        attacks: attack to its result.
        comparison: the published attack, which the verdict ignores, or ``None``.
        utility: part to figures.
        people: forgotten *patients* that the headline attack finds at ``people_fpr``, a patient's score being the
            highest of their records'.
        people_marked: the same with the attack turned round: patients who are found because the model treats them
            worse than others, which is what over-forgetting does to them.
        exposed, marked_out: forgotten patients whom the headline attack scores above (turned round: below) *every* test
            patient, with an interval at the level at which it is judged. An average hides a few exposed people; this
            does not.
        by_patient: the headline attack on patients, by the mean of their scores; ``None`` where each has one record,
            for it would be the same again.
        epsilon: the privacy loss that the headline attack proves, a patient's score being the mean of their records'.
        loss_difference: forget CE minus test CE. Far above the retrained models' it marks the forgotten records.
        attack_intervals: attack to the interval of its AUC at the level at which it is judged.
        by_formula: the headline AUC's interval by DeLong's formula, without resampling: a check of the other one.
        probes: key to figure of each probe.
    """

    scores: ModelScores
    attacks: Mapping[str, AttackResult]
    comparison: AttackResult | None
    utility: Mapping[str, Utility]
    people: Figure
    people_marked: Figure
    exposed: Figure
    marked_out: Figure
    by_patient: AttackResult | None
    epsilon: EpsilonBound
    loss_difference: Figure
    attack_intervals: Mapping[str, Interval]
    by_formula: Interval
    probes: Mapping[str, ProbeFigure] = field(default_factory=dict)


def measure_model(
    scores: ModelScores,
    parts: Mapping[str, PartInfo],
    context: AuditContext,
    options: AuditOptions,
    seed: int,
    source: SignalSource | None = None,
) -> Measurement:
    """Attack and grade one model.

    Args:
        scores: the model's.
        parts: labels and patients.
        context: the task.
        options: what to do; attacks that compare with reference models need a ``source`` that has some.
        seed: of folds and resamples.
        source: gives the signals; one for all models of an audit.

    Raises:
        AuditError: scores do not fit the parts, or an attack cannot be made.
    """
    scores.check(parts, context)
    given = (source or SignalSource(parts, context)).of(scores)
    settings: dict[str, Any] = {"n_resamples": options.n_bootstrap, "level": options.level}

    def attack(name: str) -> AttackResult:
        return attack_parts(name, given, options, seed, options.n_bootstrap)

    attacks = {name: attack(name) for name in options.attacks}
    return Measurement(
        scores=scores,
        attacks=attacks,
        comparison=attack(COMPARISON_ATTACK) if options.published_svc else None,
        utility={
            name: _utility(scores, name, parts[name], context, generator(seed, f"utility {name}"), settings)
            for name in UTILITY_PARTS
        },
        people=people_found(attacks[options.headline], options, generator(seed, "people"), turned=False),
        people_marked=people_found(attacks[options.headline], options, generator(seed, "people"), turned=True),
        exposed=_standing_out(attacks[options.headline], options, turned=False),
        marked_out=_standing_out(attacks[options.headline], options, turned=True),
        by_patient=_as_patients(attacks[options.headline], options, generator(seed, "patients")),
        epsilon=_epsilon(attacks[options.headline], options),
        loss_difference=_loss_difference(given["forget"], given["test"], generator(seed, "loss"), settings),
        attack_intervals={
            name: _judged_interval(result, options, generator(seed, f"judged {name}"))
            for name, result in attacks.items()
        },
        by_formula=_by_formula(attacks[options.headline], options),
        probes=_probes(scores, parts, options, seed),
    )


def _probes(
    scores: ModelScores, parts: Mapping[str, PartInfo], options: AuditOptions, seed: int
) -> dict[str, ProbeFigure]:
    patients = {name: info.patients for name, info in parts.items()}
    return {
        probe.key: probe_figure(
            probe,
            patients,
            (generator(seed, f"probe {probe.key}"), generator(seed, f"judged {probe.key}")),
            n_resamples=options.n_bootstrap,
            level=options.level,
            judged_level=options.level_of(probe.key),
        )
        for probe in scores.probes
    }


def attack_parts(
    name: str, given: Mapping[str, PartSignals], options: AuditOptions, seed: int, n_resamples: int
) -> AttackResult:
    """One attack on one model.

    Args:
        name: of the attack.
        given: part to signals.
        options: the attack's own options and the level of the intervals.
        seed: of folds and resamples.
        n_resamples: of the intervals.

    Raises:
        AuditError: it cannot be made.
    """
    settings: dict[str, Any] = {"n_resamples": n_resamples, "level": options.level}
    made = ATTACKS[name](**{**settings, **options.attack_options.get(name, {})})
    result: AttackResult = made.result(
        given["forget"],
        given["test"],
        generator(seed, f"attack {name}"),
        retain=given["retain"],
        population=given["validation"],
    )
    return result


def _utility(
    scores: ModelScores,
    name: str,
    info: PartInfo,
    context: AuditContext,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
) -> Utility:
    if context.language:
        return language_utility(scores.parts[name], info.patients, rng, forgotten=name == "forget", **settings)
    logits = np.asarray(scores.parts[name]["logits"], dtype=np.float64)
    common: dict[str, Any] = {"forgotten": name == "forget", "nll": scores.parts[name]["nll"], **settings}
    if context.multilabel:
        return multilabel_utility(expit(logits), info.labels, info.patients, rng, **common)
    ordinal = context.kind == "ordinal"
    return multiclass_utility(softmax(logits, axis=1), info.labels, info.patients, rng, ordinal=ordinal, **common)


def by_patient(result: AttackResult, *, turned: bool, rule: Rule = "max") -> tuple[Floats, Bools]:
    """A score of each patient [p], by default the highest of their records', and whether they are forgotten ones."""
    combined, member = _combined(result, turned=turned, rule=rule)
    return combined.scores, member


def _combined(result: AttackResult, *, turned: bool, rule: Rule) -> tuple[PatientScores, Bools]:
    if result.scores is None or result.member is None or result.patient is None:
        raise AuditError(f"attack {result.name!r} scores no records and cannot be the headline")
    combined = combine(-result.scores if turned else result.scores, result.patient, rule)
    return combined, combined.members(result.member, result.patient)


def people_standing_out(result: AttackResult, *, turned: bool) -> StandingOut:
    """Forgotten patients above (turned round: below) every test patient, by the highest of their records' scores."""
    combined, forgotten = _combined(result, turned=turned, rule="max")
    return standing_out(combined.scores, forgotten, combined.n_records)


def _standing_out(result: AttackResult, options: AuditOptions, *, turned: bool) -> Figure:
    found = people_standing_out(result, turned=turned)
    n_samples = 0 if result.scores is None else result.scores.size
    k, p, n, level = found.count, found.n_members, found.n_nonmembers, options.level_of("people")
    interval = clopper_pearson(k, p, level)
    if found.chance > 1.0 - level:
        # the highest test patient is a draw too: so many stand out by chance
        interval = replace(interval, low=0.0, method="exact; from 0 where so many stand out by chance")
    return Figure(
        name="marked_out" if turned else "exposed",
        value=k / p,
        interval=interval,
        n_patients=p + n,
        n_samples=n_samples,
        direction="remembers_below" if turned else "remembers_above",
        sentence=f"{k} of {p} forgotten patients are scored {'lower' if turned else 'higher'} than every one of {n} "
        "patients who were never in training.",
        counts={"tp": k, "n_members": p, "n_nonmembers": n},
    )


def _as_patients(result: AttackResult, options: AuditOptions, rng: np.random.Generator) -> AttackResult | None:
    if result.patient is None or np.unique(result.patient).size == result.patient.size:
        return None
    return patient_result(result, rng, rule="mean", n_resamples=options.n_bootstrap, level=options.level)


def _by_formula(result: AttackResult, options: AuditOptions) -> Interval:
    if result.scores is None or result.member is None or result.patient is None:
        raise AuditError(f"attack {result.name!r} scores no records and cannot be the headline")
    return delong_interval(result.scores, result.member, result.patient, level=options.level)


def _epsilon(result: AttackResult, options: AuditOptions) -> EpsilonBound:
    # the mean: it does not favour patients with many records, which the bound would take for a leak
    values, forgotten = by_patient(result, turned=False, rule="mean")
    return epsilon_over_thresholds(
        values,
        forgotten,
        patients=np.arange(values.size),
        delta=options.delta,
        alpha=1.0 - options.level,
        law=options.epsilon_law,
    )


def people_found(result: AttackResult, options: AuditOptions, rng: np.random.Generator, *, turned: bool) -> Figure:
    """Forgotten patients found where at most ``people_fpr`` of the test patients are accused."""
    highest, forgotten = by_patient(result, turned=turned)
    point = tpr_at_fpr(highest, forgotten, options.people_fpr)
    bootstrap = PatientBootstrap(
        np.arange(highest.size), rng, strata=forgotten, n_resamples=options.n_bootstrap, level=options.level
    )
    return measure(
        "people_marked" if turned else "people_found",
        tpr_at_fpr_statistic(highest, forgotten, options.people_fpr),
        bootstrap,
        direction="remembers_below" if turned else "remembers_above",
        sentence=f"{point.tp} of {point.n_members} forgotten patients are found while {point.fp} of "
        f"{point.n_nonmembers} patients who were never in training are accused.",
        bounds=(0.0, 1.0),
        counts={
            "tp": point.tp,
            "fp": point.fp,
            "n_members": point.n_members,
            "n_nonmembers": point.n_nonmembers,
        },
    )


def _loss_difference(
    forget: PartSignals, test: PartSignals, rng: np.random.Generator, settings: Mapping[str, Any]
) -> Figure:
    losses = [forget.get("loss"), test.get("loss")]
    member = np.repeat([True, False], [len(part) for part in losses])
    own, other = mean_statistic(losses[0]), mean_statistic(losses[1])

    def difference(weights: Floats) -> Floats:
        return own(weights[:, member]) - other(weights[:, ~member])

    patients = np.concatenate([np.asarray(forget.patients), np.asarray(test.patients)])
    return measure(
        "loss_difference",
        difference,
        PatientBootstrap(patients, rng, strata=member, **settings),
        direction="remembers_below",
        sentence="The mean loss on forget records minus that on test records is {value:.3f} nats.",
    )


def _judged_interval(result: AttackResult, options: AuditOptions, rng: np.random.Generator) -> Interval:
    level = options.level_of(result.name)
    if level == options.level:
        return result.figures["auc"].interval
    if result.scores is None or result.member is None or result.patient is None:
        raise AuditError(f"attack {result.name!r} scores no records: the verdict cannot look at it")
    return auc_interval(result.scores, result.member, result.patient, rng, n_resamples=options.n_bootstrap, level=level)
