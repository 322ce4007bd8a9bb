"""``evidence.json``: every number of an audit, from the scores of 2 + R models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from forgetmi.audit import arrays, comparison, sections
from forgetmi.audit.controls import control_attacks
from forgetmi.audit.criteria import Criterion, Reading
from forgetmi.audit.known_answers import known_answers, outcome
from forgetmi.audit.measurements import Measurement, generator, measure_model
from forgetmi.audit.one_run import one_run_section
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.patients import PatientRisks, forgotten_risks, retained_risks, risk_section
from forgetmi.audit.pictures import loss_histograms, reduced_roc
from forgetmi.audit.schema import validate_document
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo, ReferenceScores
from forgetmi.audit.shadow_sections import shadow_section
from forgetmi.audit.subgroups import subgroups
from forgetmi.audit.verdict import Verdict, judge
from forgetmi.audit.wording import plain_sentence
from forgetmi.errors import AuditError
from forgetmi.partition import PARTS

SCHEMA = "forgetmi.evidence/2"
RECOMMENDED_RETRAINED = 5


@dataclass(frozen=True)
class Audit:
    """What an audit leaves behind.

    Attributes:
        evidence: the document.
        arrays: bytes of the side file from which attack figures can be computed again.
        forgotten, retained: risk of each patient, for the restricted file.
        options: as carried out.
    """

    evidence: dict[str, Any]
    arrays: bytes
    forgotten: PatientRisks
    retained: PatientRisks
    options: AuditOptions


def build_evidence(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """The evidence alone; arguments as of :func:`build_audit`."""
    return build_audit(*args, **kwargs).evidence


def build_audit(
    original: ModelScores,
    unlearned: ModelScores,
    retrained: Sequence[ModelScores],
    parts: Mapping[str, PartInfo],
    context: AuditContext,
    options: AuditOptions,
    seed: int,
    references: Mapping[str, ReferenceScores] | None = None,
    controls: Mapping[str, ModelScores] | None = None,
) -> Audit:
    """Attack, grade, compare and judge.

    Args:
        original, unlearned: their scores.
        retrained: R >= 2 models that never saw the forget set, of different seeds.
        parts: labels and patient codes of forget, retain, validation and test.
        context: the task.
        options: what to do.
        seed: of folds and resamples; the same seed gives the same evidence.
        references: shadow models, by kind. The retrained models serve as references without being named here.
        controls: further models that stand beside every figure and are put to the rule, by name: ``destroyed``, which
            must not pass, and ``random_share``, which unlearned a random share of the request.

    Returns:
        Its ``evidence`` is a JSON-able mapping of schema ``forgetmi.evidence/2``, checked against it.

    Raises:
        AuditError: fewer than two different retrained models (there is no range without them), a retrained model that
            is the original, or scores that do not fit the parts.
    """
    _check_models(original, unlearned, retrained)
    if tuple(sorted(parts)) != tuple(sorted(PARTS)):
        raise AuditError(f"parts given: {', '.join(sorted(parts)) or 'none'}", expected=", ".join(PARTS))
    models = (original, unlearned, *retrained)
    _check_probes([*models, *(controls or {}).values()])
    source = SignalSource(parts, context, retrained, references)
    judged = sum(probe.judged for probe in original.probes)
    options = options.with_attacks(source.n_references, language=context.language, judged_probes=judged)
    measured = [measure_model(model, parts, context, options, seed, source) for model in models]
    first, second, others = measured[0], measured[1], measured[2:]
    beside = {
        name: measure_model(model, parts, context, options, seed, source) for name, model in (controls or {}).items()
    }
    criteria = comparison.criteria(first, second, others, options)
    sizes = {"n_forget_patients": parts["forget"].n_patients, "n_test_patients": parts["test"].n_patients}
    verdict = judge(criteria, **sizes, options=options)
    known = known_answers(criteria, retrained, source, sizes, options, seed)
    known |= {
        name: outcome(comparison.criteria(first, m, others, options), sizes, options) for name, m in beside.items()
    }
    risks = forgotten_risks(measured, parts, options), retained_risks(measured, parts, options)
    content = arrays.packed(first, second, others)
    evidence = {
        "schema": SCHEMA,
        "seed": seed,
        "options": {**asdict(options), "attacks": list(options.attacks)},
        "task": asdict(context),
        "parts": {name: sections.part(parts[name]) for name in PARTS},
        "verdict": {**verdict.to_dict(), "cautions": _cautions(original, unlearned, retrained, verdict, known)},
        "criteria": {c.key: _criterion(c, verdict) for c in criteria},
        "controls": known,
        "people": comparison.people(first, second, others),
        "comparison": comparison.compare(first, second, others, beside),
        "likeness": comparison.likeness(first, second, others, parts, options, seed),
        "tug_of_war": comparison.tugs(first, second, others, options.headline),
        "epsilon": {
            "original": first.epsilon.to_dict(),
            "unlearned": second.epsilon.to_dict(),
            "retrained": [m.epsilon.to_dict() for m in others],
            "one_run": one_run_section(references or {}, parts, options, generator(seed, "one run")),
        },
        "time": comparison.time_against_retraining(first, second, others),
        "attacks": {name: _definition(first, name) for name in options.attacks},
        "references": source.n_references,
        "models": {
            "original": _model(first),
            "unlearned": _model(second),
            "retrained": [_model(m) for m in others],
        },
        "roc": {name: _curves(first, second, others, name) for name in options.attacks},
        "histograms": loss_histograms(first, second, others, options.histogram_bins),
        "generalisation": sections.generalisation(first, second, others),
        "subgroups": subgroups(first, second, others, parts, context, options, seed),
        "control_attacks": control_attacks(first, second, others, parts, options, seed),
        "shadows": shadow_section(first, second, source, parts, options, generator(seed, "shadows")),
        "patients": risk_section(*risks, parts, options),
        "arrays": arrays.section(*content),
    }
    return Audit(validate_document(evidence, "evidence"), content[0], *risks, options)


def _check_probes(models: Sequence[ModelScores]) -> None:
    asked = [[(p.key, p.judged, p.kind, p.outsiders is None) for p in model.probes] for model in models]
    for model, own in zip(models, asked, strict=True):
        if own != asked[0]:
            raise AuditError(
                f"{model.title} was asked other questions than {models[0].title}: {', '.join(key for key, *_ in own)}",
                expected=", ".join(key for key, *_ in asked[0]) or "none",
                fix="put the same probes to every model",
            )


def _check_models(original: ModelScores, unlearned: ModelScores, retrained: Sequence[ModelScores]) -> None:
    roles = [original.role, unlearned.role, *(s.role for s in retrained)]
    if roles != ["original", "unlearned", *["retrained"] * len(retrained)]:
        raise AuditError(f"models were given as {', '.join(roles)}", expected="original, unlearned, retrained ...")
    hashes = {s.weights_sha256 for s in retrained}
    if original.weights_sha256 in hashes:
        raise AuditError("a retrained model has the original's weights: it saw the forget set")
    if len(hashes) != len(retrained):
        raise AuditError(
            f"{len(retrained)} retrained models have {len(hashes)} different weights: a range of copies is no range",
            fix="retrain with different seeds",
        )
    if len(retrained) < 2:
        raise AuditError(
            f"{len(retrained)} retrained models: without two of them there is no range to compare with",
            expected=f"at least 2, better {RECOMMENDED_RETRAINED}",
            fix="set audit.retrains, or give retrained models from elsewhere",
        )


def _cautions(
    original: ModelScores,
    unlearned: ModelScores,
    retrained: Sequence[ModelScores],
    verdict: Verdict,
    controls: Mapping[str, Any],
) -> list[str]:
    cautions, n = [], len(retrained)
    if original.weights_sha256 == unlearned.weights_sha256:
        cautions.append("The unlearned model has the original's weights: nothing was changed.")
    if unclear := controls["n_held_out"] - controls["n_passed"] - controls["n_failed"]:
        cautions.append(
            f"{unclear} of {n} retrained models are inconclusive by the same rule when each is judged against the "
            "others: with this many people it does not recognise every model that never saw the patients."
        )
    if controls["n_failed"]:
        consequence = "so a fail may be a false alarm" if verdict.decision == "fail" else "so the rule is strict here"
        cautions.append(
            f"{controls['n_failed']} of {n} retrained models fail the same rule when each is judged against the "
            f"others, although they never saw the patients: the retrained range is too narrow, {consequence}."
        )
    if (blind := controls.get("destroyed")) and blind["decision"] == "pass":
        cautions.append("A model of random weights passes this audit: a pass of the unlearned model means nothing.")
    share = controls.get("random_share")
    if share and share["decision"] == "pass" == verdict.decision:
        cautions.append(
            "A model that unlearned only a random share of the request passes too: this audit cannot tell forgetting "
            "all of these patients from forgetting a few."
        )
    if n < RECOMMENDED_RETRAINED:
        cautions.append(
            f"The comparison rests on {n} retrained models. One more would lie outside of their range by chance in "
            f"{200 / (n + 1):.0f} % of cases (before widening); {RECOMMENDED_RETRAINED} or more are better."
        )
    return cautions


def _criterion(criterion: Criterion, verdict: Verdict) -> dict[str, Any]:
    def reading(r: Reading) -> dict[str, Any]:
        return {"value": r.value, "low": r.interval.low, "high": r.interval.high, "reason": r.interval.reason}

    scope = criterion.range
    finding = next((f for f in verdict.findings if f.criterion == criterion.key), None)
    return {
        "label": criterion.label,
        "kind": criterion.kind,
        "headline": criterion.headline,
        "level": criterion.candidate.interval.level,
        "original": reading(criterion.original),
        "unlearned": reading(criterion.candidate),
        "retrained": [reading(r) for r in criterion.retrained],
        "retrained_low": None if scope is None else scope[0],
        "retrained_high": None if scope is None else scope[1],
        "original_position": criterion.position(criterion.original),
        "unlearned_position": verdict.positions[criterion.key],
        "meaning": None if finding is None else finding.meaning,
        "sentence": plain_sentence(criterion.kind, None if finding is None else finding.meaning),
    }


def _definition(measurement: Measurement, name: str) -> dict[str, Any]:
    result = measurement.attacks[name]
    return {"definition": result.definition, "options": dict(result.options), "notes": list(result.notes)}


def _model(measurement: Measurement) -> dict[str, Any]:
    scores = measurement.scores
    return {
        "role": scores.role,
        "index": scores.index,
        "weights_sha256": scores.weights_sha256,
        "seconds": scores.seconds,
        "peak_memory_mb": scores.peak_memory_mb,
        "attacks": {
            name: {key: figure.to_dict() for key, figure in result.figures.items()}
            for name, result in measurement.attacks.items()
        },
        "published_svc": None
        if measurement.comparison is None
        else {
            "definition": measurement.comparison.definition,
            "figures": {key: figure.to_dict() for key, figure in measurement.comparison.figures.items()},
        },
        "by_patient": None
        if measurement.by_patient is None
        else {
            "definition": measurement.by_patient.definition,
            "notes": list(measurement.by_patient.notes),
            "figures": {key: figure.to_dict() for key, figure in measurement.by_patient.figures.items()},
        },
        "utility": {name: utility.to_dict() for name, utility in measurement.utility.items()},
        "people": measurement.people.to_dict(),
        "people_marked": measurement.people_marked.to_dict(),
        "exposed": measurement.exposed.to_dict(),
        "marked_out": measurement.marked_out.to_dict(),
        "loss_difference": measurement.loss_difference.to_dict(),
        "headline_by_formula": measurement.by_formula.to_dict(),
    }


def _curves(
    original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement], name: str
) -> dict[str, Any]:
    def curve(measurement: Measurement) -> dict[str, Any]:
        roc = measurement.attacks[name].roc
        if roc is None:
            raise AuditError(f"attack {name!r} scores no records: it has no curve")
        return reduced_roc(roc)

    return {
        "original": curve(original),
        "unlearned": curve(unlearned),
        "retrained": [curve(m) for m in retrained],
    }
