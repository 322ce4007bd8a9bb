"""The audit by sex, age, site, label: averages hide groups, and a table of groups must not give people away.

Within a group forgotten patients are compared with test patients *of the same group*, so that a group that is merely
harder does not look remembered. The unlearned model's AUC is judged against the retrained models' in the same group:

    d = AUC_unlearned - mean_r AUC_r,   z = d / sqrt(V + s^2 (1 + 1/R)),   p = 2 (1 - Phi(|z|))

with V the variance of d over resamples of patients (the same ones for all models) and s^2 the variance of the R
retrained models' AUCs, i.e. what another seed would change (our reading; V may count part of it twice: conservative).
All groups of all attributes are one family: p-values are adjusted by Holm's method.

Small cells. A group with fewer than ``min_cell`` forgotten or test patients is not published: no name, no count, no
figure. Totals are published, so further groups, the smallest first, go with it until the groups that are left out are
at least two and hold at least ``min_cell`` patients together: then no small count follows by subtraction. Which of them
were small is not said. Tables are one-way only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from forgetmi.audit.measurements import Measurement, by_patient, generator
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import AuditContext, PartInfo
from forgetmi.metrics.intervals import PatientBootstrap, clopper_pearson
from forgetmi.metrics.roc import Bools, Floats, auc_statistic, evaluate, tpr_at_fpr
from forgetmi.metrics.testing import adjusted_p_values

_ATTACKED = ("forget", "test")


def left_out(counts: Sequence[tuple[int, ...]], min_cell: int) -> list[bool]:
    """Which groups of a one-way table are not published.

    Args:
        counts: a tuple of counts for each group; the totals of each column are known to the reader.
        min_cell: the smallest count that may be published.

    Returns:
        For each group, whether it is left out: those with a count below ``min_cell``, and as many others, the smallest
        first, as it takes that at least two are left out and hold ``min_cell`` together in every column.
    """
    out = [min(group) < min_cell for group in counts]

    def follows_from_totals() -> bool:
        hidden = [group for group, gone in zip(counts, out, strict=True) if gone]
        return len(hidden) == 1 or any(sum(column) < min_cell for column in zip(*hidden, strict=True))

    while any(out) and not all(out) and follows_from_totals():
        kept = [i for i, gone in enumerate(out) if not gone]
        out[min(kept, key=lambda i: (counts[i], i))] = True
    return out


def subgroups(
    original: Measurement,
    unlearned: Measurement,
    retrained: Sequence[Measurement],
    parts: Mapping[str, PartInfo],
    context: AuditContext,
    options: AuditOptions,
    seed: int,
) -> dict[str, Any]:
    """Every attribute's table: headline attack, patients found, and accuracy, by group.

    Attributes with one value say nothing and are not listed.

    Args:
        original, unlearned, retrained: their figures.
        parts: with ``groups``.
        context, options, seed: of the audit.
    """
    models = (original, unlearned, *retrained)
    called = [_called(m, options) for m in models]
    tables: dict[str, Any] = {}

    def group(attribute: str, index: int, name: str, inside: Mapping[str, Bools]) -> dict[str, Any]:
        rng = generator(seed, f"group {attribute} {index}")
        return {"name": name, **_group(models, called, inside, parts, context, options, rng)}

    for attribute in sorted(set(parts["forget"].groups) & set(parts["test"].groups)):
        values = {part: np.asarray(parts[part].groups[attribute]).astype(str) for part in _ATTACKED}
        names = sorted({name for part in _ATTACKED for name in np.unique(values[part])})
        if len(names) < 2:
            continue
        inside = {name: {part: values[part] == name for part in _ATTACKED} for name in names}
        counts = [
            tuple(int(np.unique(parts[part].patients[inside[name][part]]).size) for part in _ATTACKED) for name in names
        ]
        out = left_out(counts, options.min_cell)
        kept = [name for name, gone in zip(names, out, strict=True) if not gone]
        tables[attribute] = {
            "groups": [group(attribute, index, name, inside[name]) for index, name in enumerate(kept)],
            "n_left_out": sum(out),
        }
    _adjust([group for table in tables.values() for group in table["groups"]], options)
    return {
        "attack": options.headline,
        "min_cell": options.min_cell,
        "correction": "Holm, over all groups of all attributes",
        "n_tests": sum(group["p"] is not None for table in tables.values() for group in table["groups"]),
        "level": options.level,
        "attributes": tables,
    }


def _group(
    models: Sequence[Measurement],
    called: Sequence[Bools],
    inside: Mapping[str, Bools],
    parts: Mapping[str, PartInfo],
    context: AuditContext,
    options: AuditOptions,
    rng: np.random.Generator,
) -> dict[str, Any]:
    chosen = np.concatenate([inside[part] for part in _ATTACKED])
    patients = np.concatenate([parts[part].patients for part in _ATTACKED])[chosen]
    member = np.repeat([True, False], [int(inside[part].sum()) for part in _ATTACKED])
    statistics = [auc_statistic(_scores(m, options)[chosen], member) for m in models]
    bootstrap = PatientBootstrap(patients, rng, strata=member, n_resamples=options.n_bootstrap, level=options.level)
    drawn = np.concatenate([np.stack([s(chunk) for s in statistics], axis=1) for chunk in bootstrap.weights()])
    values = np.array([evaluate(s, member.size) for s in statistics])
    intervals = [bootstrap.interval(s, bounds=(0.0, 1.0)) for s in statistics[:2]]
    difference, p = _difference(values, drawn)
    others = values[2:]
    found = [_found(m, who, chosen, options) for m, who in zip(models, called, strict=True)]
    accuracy = {part: [_accuracy(m, part, inside[part], parts[part], context) for m in models] for part in _ATTACKED}

    def model(index: int) -> dict[str, Any]:
        return {
            "auc": float(values[index]),
            "auc_low": intervals[index].low,
            "auc_high": intervals[index].high,
            **found[index],
            "forget_accuracy": accuracy["forget"][index],
            "test_accuracy": accuracy["test"][index],
        }

    return {
        "n_forget_patients": int(np.unique(patients[member]).size),
        "n_test_patients": int(np.unique(patients[~member]).size),
        "original": model(0),
        "unlearned": model(1),
        "retrained": {
            "auc_low": float(others.min()),
            "auc_high": float(others.max()),
            "found_low": min(f["found"] for f in found[2:]),
            "found_high": max(f["found"] for f in found[2:]),
            **{
                f"{part}_accuracy_{end}": None if len(known) < len(others) else pick(known)
                for part in _ATTACKED
                for end, pick in (("low", min), ("high", max))
                for known in [[value for value in accuracy[part][2:] if value is not None]]
            },
        },
        "difference": difference,
        "p": p,
    }


def _difference(values: Floats, drawn: Floats) -> tuple[float, float | None]:
    """(d, p) of the unlearned model against the mean of the retrained ones; p is ``None`` where nothing varies."""
    others = values[2:]
    difference = float(values[1] - others.mean())
    spread = drawn[:, 1] - drawn[:, 2:].mean(axis=1)
    variance = float(spread.var(ddof=1) + others.var(ddof=1) * (1.0 + 1.0 / others.size))
    return difference, (float(2.0 * stats.norm.sf(abs(difference) / math.sqrt(variance))) if variance > 0 else None)


def _scores(measurement: Measurement, options: AuditOptions) -> Floats:
    scores = measurement.attacks[options.headline].scores
    assert scores is not None  # the audit refuses a headline without scores
    return scores


def _called(measurement: Measurement, options: AuditOptions) -> Bools:
    """Which patients are found, or accused, at the decision box's threshold: one for all groups [patients]."""
    highest, forgotten = by_patient(measurement.attacks[options.headline], turned=False)
    threshold = tpr_at_fpr(highest, forgotten, options.people_fpr).threshold
    return np.zeros(highest.size, dtype=np.bool_) if threshold is None else highest >= threshold


def _found(measurement: Measurement, called: Bools, chosen: Bools, options: AuditOptions) -> dict[str, Any]:
    result = measurement.attacks[options.headline]
    assert result.patient is not None  # by_patient has been here
    assert result.member is not None
    own = np.unique(result.patient[chosen & result.member])
    others = np.unique(result.patient[chosen & ~result.member])
    found = int(called[own].sum())
    interval = clopper_pearson(found, own.size, options.level)
    return {
        "found": found,
        "found_low": interval.low,
        "found_high": interval.high,
        "accused": int(called[others].sum()),
    }


def _accuracy(
    measurement: Measurement, part: str, inside: Bools, info: PartInfo, context: AuditContext
) -> float | None:
    if context.language:
        correct = np.asarray(measurement.scores.parts[part]["correct"], dtype=np.float64)[inside]
        return float(correct.mean()) if correct.size else None
    logits = np.asarray(measurement.scores.parts[part]["logits"], dtype=np.float64)[inside]
    labels = np.asarray(info.labels)[inside]
    if not context.multilabel:
        return float((logits.argmax(axis=1) == labels).mean())
    known = ~np.isnan(labels.astype(np.float64))
    return float(((logits > 0) == (labels == 1))[known].mean()) if known.any() else None


def _adjust(groups: Sequence[dict[str, Any]], options: AuditOptions) -> None:
    """Holm's step-down over all groups, and what each group then says."""
    tested = [group for group in groups if group["p"] is not None]
    adjusted = adjusted_p_values([group["p"] for group in tested]).tolist() if tested else []
    for group in groups:
        group.update(p_adjusted=None, reading="no_difference_shown")
    for group, p in zip(tested, adjusted, strict=True):
        group["p_adjusted"] = p
        if p <= 1.0 - options.level:
            group["reading"] = "remembered" if group["difference"] > 0 else "over_forgotten"
