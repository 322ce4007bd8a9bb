"""``exposure.json``: can people be told from outsiders by what a model answers? From a file of signals alone.

Attacks run where the file has what they need: decided by what each attack says it reads (``signals``), compares with
(``references``) and needs besides (``needs_population``), never by what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

import forgetmi
from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.result import AttackResult
from forgetmi.audit.comparison import in_people
from forgetmi.audit.exposure_rule import (
    TWINS,
    ExposureOptions,
    Limits,
    Look,
    check_permutations,
    decide,
    look,
    ranking_p,
)
from forgetmi.audit.exposure_words import Said, words
from forgetmi.audit.measurements import generator, people_found, people_standing_out
from forgetmi.audit.options import COMPARISON_ATTACK, AuditOptions
from forgetmi.audit.pictures import reduced_roc
from forgetmi.audit.schema import validate_document
from forgetmi.audit.signals_table import SignalsTable
from forgetmi.audit.subgroups import left_out
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, measure
from forgetmi.metrics.forgetting import gap_to_retrained
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.roc import auc_statistic
from forgetmi.metrics.testing import adjusted_p_values
from forgetmi.partition import PARTS

SCHEMA = "forgetmi.exposure/1"
_HEADLINES = ("loss", "label_only")
_REFERENCE_WORDS = {
    "shadows": "shadow models (rows of shadow-1, ...)",
    "retrained": "retrained models (rows of retrained-1, ...)",
    "unlearned_shadows": "unlearned shadow models (rows of unlearned-shadow-1, ...)",
}


def build_exposure(table: SignalsTable, options: ExposureOptions, seed: int) -> dict[str, Any]:
    """Attack every model of a file, and judge the one that is asked about: ``unlearned``, else ``original``/``target``.

    Args:
        table: the file.
        options: what to do.
        seed: of folds, resamples and permutations; the same seed gives the same document.

    Returns:
        A JSON-able mapping of schema ``forgetmi.exposure/1``, checked against it.

    Raises:
        AuditError: no attack can be made.
        ConfigError: so few permutations that no ranking of so many looks could be found.
    """
    able, not_run = possible_attacks(table, options)
    asked = table.targets[-1]
    models = [asked, *(name for name in table.targets if name != asked), *table.references("retrained")]
    results: dict[str, dict[str, AttackResult]] = {}
    for model in models:
        results[model] = {}
        for name in able:
            try:
                results[model][name] = _attack(table, model, name, options, seed)
            except AuditError as error:  # what an attack needs of its references only it can say
                if model == asked:
                    reason = "; ".join(filter(None, (error.what, error.fix)))
                    not_run.append({"attack": name, "reason": reason})
        able = list(results[asked])
    if not able:
        raise AuditError(
            f"no attack can be made on {asked} with these signals",
            expected="; ".join(f"{one['attack']}: {one['reason']}" for one in not_run),
        )
    check_permutations(2 * len(able), options)
    looks = {
        model: look(found, generator(seed, "permutations"), n_permutations=options.n_permutations, level=options.level)
        for model, found in results.items()
        if found
    }
    retrained = [looks[name] for name in table.references("retrained") if name in looks]
    headline = next((name for name in _HEADLINES if name in able), able[0])
    n_members, n_others = (table.parts[part].n_patients for part in ("forget", "test"))
    outcome, found, away, reach = decide(looks[asked], retrained, n_members, n_others, options)
    controls = _controls(table, asked, headline, options, seed)
    said = words(
        Said(asked, outcome, found, away, reach, n_members, n_others, len(retrained), controls, table), options
    )
    document = {
        **_common(table, options, seed),
        "headline": headline,
        "decision": {
            "outcome": outcome,
            "model": asked,
            **said,
            "findings": [_look(one) for one in found],
            "explained": [_look(one) for one in away],
            "alpha": options.alpha,
            **_limits(reach),
            "members": n_members,
            "outsiders": n_others,
        },
        "attacks": {name: _definition(results[asked][name]) for name in able},
        "models": {
            model: {name: _on_model(result, looks[model], options, seed) for name, result in found_there.items()}
            for model, found_there in sorted(results.items(), key=lambda item: table.order(item[0]))
        },
        "ranges": _ranges(results, table),
        "not_run": not_run,
        "controls": controls,
        "groupings": _groupings(table, results[asked][headline], options, seed),
    }
    return validate_document(document, "exposure")


def source_document(table: SignalsTable, options: ExposureOptions, seed: int) -> dict[str, Any]:
    """The same document without attacks, for a file that permits the full audit: its figures are in evidence.json."""
    empty: dict[str, Any] = {"headline": None, "decision": None, "attacks": {}, "models": {}, "ranges": {}}
    return validate_document(
        {**_common(table, options, seed), **empty, "not_run": [], "controls": [], "groupings": {}}, "exposure"
    )


def lacks_for_verdict(table: SignalsTable) -> list[str]:
    """What a file lacks for the full audit, whose verdict compares with retrained models; empty: nothing."""
    lacks = [f"rows of the model {name}" for name in ("original", "unlearned") if name not in table.values]
    if (n := len(table.references("retrained"))) < 2:
        lacks.append(f"rows of at least two retrained models (there are {n})")
    lacks += [f"rows of part {part}" for part in PARTS if part not in table.parts]
    models = [*table.targets, *table.references("retrained")]
    for part in table.parts:
        if some := [model for model in models if part not in table.values[model]]:
            lacks.append(f"rows of part {part} for {', '.join(some)}")
    if table.kind not in ("probabilities", "logits"):
        lacks.append(f"probabilities or logits (there is {table.kind}): usefulness cannot be judged without")
    return lacks


def possible_attacks(table: SignalsTable, options: ExposureOptions) -> tuple[list[str], list[dict[str, str]]]:
    """Attacks for which the file has what they declare to need, and for each other one the reason why not."""
    able, not_run = [], []
    kinds = {kind for kind in _REFERENCE_WORDS if table.references(kind)}
    for name in ATTACKS:
        if name == COMPARISON_ATTACK:
            continue
        reason = _obstacle(ATTACKS[name], table, kinds)
        if options.attacks and name not in options.attacks:
            reason = "not asked for"
        elif not options.attacks and reason is None and name in TWINS:
            reason = f"{TWINS[name]}; it is made where the option attacks names it"
        if reason is None:
            able.append(name)
        else:
            not_run.append({"attack": name, "reason": reason})
    return able, not_run


def _obstacle(attack: Any, table: SignalsTable, kinds: set[str]) -> str | None:
    needed = getattr(attack, "signals", None) or (getattr(attack, "signal", "loss"),)
    missing = [signal for signal in needed if signal not in table.signal_names]
    if missing:
        return f"needs {' and '.join(missing)}, which does not follow from the {table.kind} of this file"
    usable = getattr(attack, "references", ())
    if usable and not kinds.intersection(usable):
        return f"needs {' or '.join(_REFERENCE_WORDS.get(kind, kind) for kind in usable)}"
    if getattr(attack, "needs_population", False) and "validation" not in table.parts:
        return "needs other people who were never in training: rows of part validation (or population)"
    if attack.name == "svc" and "retain" not in table.parts:
        return "learns from people who stay in training: rows of part retain"
    return None


def _attack(table: SignalsTable, model: str, name: str, options: ExposureOptions, seed: int) -> AttackResult:
    parts = {
        part: table.part_signals(model, part)
        for part in ("forget", "test", "retain", "validation")
        if part in table.values[model]
    }
    made = ATTACKS[name](n_resamples=options.n_bootstrap, level=options.level, fprs=options.fprs)
    result: AttackResult = made.result(
        parts["forget"],
        parts["test"],
        generator(seed, f"attack {name}"),
        retain=parts.get("retain"),
        population=parts.get("validation"),
    )
    return result


def _common(table: SignalsTable, options: ExposureOptions, seed: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "forgetmi": forgetmi.__version__,
        "seed": seed,
        "options": {**asdict(options), "attacks": list(options.attacks), "fprs": list(options.fprs)},
        "lacks": lacks_for_verdict(table),
        "source": {
            "file": table.file,
            "sha256": table.sha256,
            "rows": table.n_rows,
            "kind": table.kind,
            "classes": table.n_classes,
            "queries": table.n_queries,
            "models": [*table.targets, *(name for kind in _REFERENCE_WORDS for name in table.references(kind))],
            "groupings": sorted(table.parts["forget"].groups),
            "notes": list(table.notes),
        },
        "parts": {
            name: {
                "patients": part.n_patients,
                "samples": len(part.patients),
                "most": int(np.unique(part.patients, return_counts=True)[1].max()),
            }
            for name, part in table.parts.items()
        },
    }


def _definition(result: AttackResult) -> dict[str, Any]:
    return {"definition": result.definition, "options": dict(result.options), "notes": list(result.notes)}


def _look(one: Look) -> dict[str, Any]:
    return {**vars(one), "interval": one.interval.to_dict()}


def _limits(reach: Limits) -> dict[str, Any]:
    return dict(vars(reach))


def _on_model(result: AttackResult, looks: Sequence[Look], options: ExposureOptions, seed: int) -> dict[str, Any]:
    curve = result.roc
    if curve is None:
        raise AuditError(f"attack {result.name!r} scores no records: it has no curve")
    settings = AuditOptions(n_bootstrap=options.n_bootstrap, level=options.level, people_fpr=options.people_fpr)
    people = {
        name: in_people(people_found(result, settings, generator(seed, "people"), turned=turned))
        for name, turned in (("known", False), ("marked", True))
    }
    beyond = {
        f"beyond_all_{name}": people_standing_out(result, turned=turned).count
        for name, turned in (("known", False), ("marked", True))
    }
    return {
        "figures": {key: figure.to_dict() for key, figure in result.figures.items()},
        "people": {**people, **beyond},
        "roc": reduced_roc(curve),
        "looks": [_look(one) for one in looks if one.attack == result.name],
    }


def _ranges(results: Mapping[str, Mapping[str, AttackResult]], table: SignalsTable) -> dict[str, Any]:
    """Where each model's AUC lies among the retrained models', two of them or more."""
    others = [results[name] for name in table.references("retrained")]
    ranges = {}
    for attack in results[table.targets[-1]]:
        values = [found[attack].figures["auc"].value for found in others if attack in found]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            continue
        positions = {}
        for model in table.targets:
            figure = results[model][attack].figures["auc"] if attack in results[model] else None
            if figure is not None and figure.value is not None:
                positions[model] = gap_to_retrained(figure.value, known, figure.interval).position_widened
        ranges[attack] = {"low": min(known), "high": max(known), "n_retrained": len(known), "positions": positions}
    return ranges


def _controls(
    table: SignalsTable, model: str, headline: str, options: ExposureOptions, seed: int
) -> list[dict[str, Any]]:
    """Outsiders against outsiders: validation people in the members' place."""
    if "validation" not in table.values[model] or bool(getattr(ATTACKS[headline], "references", ())):
        return []
    made = ATTACKS[headline](n_resamples=options.n_bootstrap, level=options.level, fprs=options.fprs)
    parts = [table.part_signals(model, part) for part in ("validation", "test")]
    result = made.result(*parts, generator(seed, "control"))
    p = ranking_p(result, generator(seed, "control permutations"), options.n_permutations)
    auc = result.figures["auc"].to_dict()
    return [{"first": "validation", "second": "test", "model": model, "attack": headline, "auc": auc, "p": p}]


def _groupings(table: SignalsTable, result: AttackResult, options: ExposureOptions, seed: int) -> dict[str, Any]:
    """The headline attack within each group: members against outsiders of the same group. Small groups stay out."""
    if result.scores is None or result.member is None:
        return {}
    patients = np.concatenate([table.parts[part].patients for part in ("forget", "test")])
    found: dict[str, Any] = {}
    for grouping in table.parts["forget"].groups:
        of = np.concatenate([table.parts[part].groups[grouping] for part in ("forget", "test")])
        names = sorted(set(of.tolist()))
        counts = [
            tuple(int(np.unique(patients[(of == name) & (result.member == side)]).size) for side in (True, False))
            for name in names
        ]
        out = left_out(counts, options.min_cell)
        groups = [
            _group(name, count, of == name, patients, result, options, generator(seed, f"group {grouping} {i}"))
            for i, (name, count, gone) in enumerate(zip(names, counts, out, strict=True))
            if not gone
        ]
        found[grouping] = {"groups": groups, "n_left_out": sum(out)}
    every = [group for table_of in found.values() for group in table_of["groups"]]
    if every:
        for group, p in zip(every, adjusted_p_values([group["p"] for group in every]), strict=True):
            group["p_adjusted"] = float(p)
    return found


def _group(
    name: str,
    count: tuple[int, ...],
    inside: Any,
    patients: Any,
    result: AttackResult,
    options: ExposureOptions,
    rng: np.random.Generator,
) -> dict[str, Any]:
    if result.scores is None or result.member is None:
        raise AuditError(f"attack {result.name!r} scores no records")
    scores, member = result.scores[inside], result.member[inside]
    bootstrap = PatientBootstrap(
        patients[inside], rng, strata=member, n_resamples=options.n_bootstrap, level=options.level
    )
    figure: Figure = measure(
        "auc",
        auc_statistic(scores, member),
        bootstrap,
        direction="remembers_above",
        sentence="Within the group the attack ranks a member above an outsider in {value:.1%} of pairs.",
        bounds=(0.0, 1.0),
        counts={"n_members": int(member.sum()), "n_nonmembers": int((~member).sum())},
    )
    _, codes = np.unique(patients[inside], return_inverse=True)
    alone = AttackResult(result.name, "", {}, {"auc": figure}, scores=scores, member=member, patient=codes)
    p = ranking_p(alone, rng, options.n_permutations)
    return {"name": name, "members": count[0], "outsiders": count[1], "auc": figure.to_dict(), "p": p}
