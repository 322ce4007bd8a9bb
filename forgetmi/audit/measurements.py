"""Every figure of one model. All models get the same resamples of patients and the same folds, so they compare."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from forgetmi.attacks.membership import ATTACKS, signals
from forgetmi.attacks.membership.result import AttackResult, PartSignals
from forgetmi.audit.options import COMPARISON_ATTACK, AuditOptions
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, measure
from forgetmi.metrics.intervals import Interval, PatientBootstrap, auc_interval
from forgetmi.metrics.roc import Floats, mean_statistic, tpr_at_fpr, tpr_at_fpr_statistic
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
        loss_difference: forget CE minus test CE. Far above the retrained models' it marks the forgotten records.
        attack_intervals: attack to the interval of its AUC at the level at which it is judged.
    """

    scores: ModelScores
    attacks: Mapping[str, AttackResult]
    comparison: AttackResult | None
    utility: Mapping[str, Utility]
    people: Figure
    people_marked: Figure
    loss_difference: Figure
    attack_intervals: Mapping[str, Interval]


def measure_model(
    scores: ModelScores, parts: Mapping[str, PartInfo], context: AuditContext, options: AuditOptions, seed: int
) -> Measurement:
    """Attack and grade one model.

    Raises:
        AuditError: scores do not fit the parts, or an attack cannot be made.
    """
    scores.check(parts, context)
    given = {name: _signals(scores, name, parts[name], context) for name in ("forget", "retain", "test")}
    settings: dict[str, Any] = {"n_resamples": options.n_bootstrap, "level": options.level}

    def attack(name: str) -> AttackResult:
        made = ATTACKS[name](**settings)
        result: AttackResult = made.result(
            given["forget"], given["test"], generator(seed, f"attack {name}"), retain=given["retain"]
        )
        return result

    attacks = {name: attack(name) for name in options.attacks}
    return Measurement(
        scores=scores,
        attacks=attacks,
        comparison=attack(COMPARISON_ATTACK) if options.published_svc else None,
        utility={
            name: _utility(scores, name, parts[name], context, generator(seed, f"utility {name}"), settings)
            for name in UTILITY_PARTS
        },
        people=_people(attacks[options.headline], options, generator(seed, "people"), turned=False),
        people_marked=_people(attacks[options.headline], options, generator(seed, "people"), turned=True),
        loss_difference=_loss_difference(given["forget"], given["test"], generator(seed, "loss"), settings),
        attack_intervals={
            name: _judged_interval(result, options, generator(seed, f"judged {name}"))
            for name, result in attacks.items()
        },
    )


def _signals(scores: ModelScores, name: str, info: PartInfo, context: AuditContext) -> PartSignals:
    arrays, multilabel = scores.parts[name], context.multilabel
    return PartSignals(
        {
            "loss": np.asarray(arrays["nll"], dtype=np.float64),
            "entropy": signals.entropy(arrays["logits"], multilabel=multilabel),
            "modified_entropy": signals.modified_entropy(arrays["logits"], info.labels, multilabel=multilabel),
        },
        info.patients,
    )


def _utility(
    scores: ModelScores,
    name: str,
    info: PartInfo,
    context: AuditContext,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
) -> Utility:
    logits = np.asarray(scores.parts[name]["logits"], dtype=np.float64)
    common: dict[str, Any] = {"forgotten": name == "forget", "nll": scores.parts[name]["nll"], **settings}
    if context.multilabel:
        return multilabel_utility(expit(logits), info.labels, info.patients, rng, **common)
    ordinal = context.kind == "ordinal"
    return multiclass_utility(softmax(logits, axis=1), info.labels, info.patients, rng, ordinal=ordinal, **common)


def _people(result: AttackResult, options: AuditOptions, rng: np.random.Generator, *, turned: bool) -> Figure:
    if result.scores is None or result.member is None or result.patient is None:
        raise AuditError(f"attack {result.name!r} scores no records and cannot be the headline")
    n_patients = int(result.patient.max()) + 1
    highest = np.full(n_patients, -np.inf)
    np.maximum.at(highest, result.patient, -result.scores if turned else result.scores)
    forgotten = np.zeros(n_patients, dtype=np.bool_)
    forgotten[result.patient] = result.member
    point = tpr_at_fpr(highest, forgotten, options.people_fpr)
    bootstrap = PatientBootstrap(
        np.arange(n_patients), rng, strata=forgotten, n_resamples=options.n_bootstrap, level=options.level
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
