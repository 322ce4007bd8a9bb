"""What shadow models say of single patients, and how near unlearning comes to retraining: counts and shares only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forgetmi.attacks.membership.patients import combine, risk_table
from forgetmi.attacks.membership.result import AttackResult, References
from forgetmi.attacks.membership.ruli import vulnerability_view
from forgetmi.audit.measurements import Measurement
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.scores import PartInfo
from forgetmi.metrics.forgetting_quality import forgetting_quality
from forgetmi.metrics.patient_level import null_patient_max_share, record_auc, survival_curve
from forgetmi.metrics.roc import Bools, Floats, Ints

THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_LEAST = 2  # models a side, for a spread


def shadow_section(
    original: Measurement,
    unlearned: Measurement,
    source: SignalSource,
    parts: Mapping[str, PartInfo],
    options: AuditOptions,
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """Exposure of the forgotten patients, forgetting quality, and who was and is exposed; ``None`` without shadows.

    Args:
        original, unlearned: with the attacks ``lira`` and ``u_lira``, where they were made.
        source: holds the shadow models' signals.
        parts: patients of the forget records.
        options: level, ``people_fpr`` and the smallest cell.
        rng: for halves and resamples.
    """
    shadows = source.under("shadows", "forget")
    if shadows is None:
        return None
    after, patients = source.under("unlearned_shadows", "forget"), parts["forget"].patients
    return {
        "exposure": _exposure(shadows, after, patients, options),
        "forgetting_quality": None if after is None else _quality(after, patients, options, rng),
        "vulnerability": _vulnerability(original.attacks.get("lira"), unlearned.attacks.get("u_lira"), options),
    }


def _phi(references: References) -> tuple[Floats, Bools]:
    return np.asarray(references.signals["scaled_logit"], dtype=np.float64), np.asarray(references.seen, dtype=np.bool_)


def _exposure(shadows: References, after: References | None, patients: Ints, options: AuditOptions) -> dict[str, Any]:
    """Shares of patients whose highest record AUC lies above each threshold, beside the share that chance gives."""
    seen = _phi(shadows)[1]
    n_in, n_out = int(seen.sum(axis=0).min()), int((~seen).sum(axis=0).min())
    n_patients, counts = int(np.unique(patients).size), np.unique(patients, return_counts=True)[1]
    found: dict[str, Any] = {"thresholds": list(THRESHOLDS), "n_patients": n_patients, "n_in": n_in, "n_out": n_out}
    empty = {"trained": None, "unlearned": None, "unlearned_worse": None, "by_chance": None}
    if n_patients < options.min_cell:
        reason = f"fewer than {options.min_cell} forgotten patients: their spread would be about single people"
        return {**found, **empty, "reason": reason}
    if min(n_in, n_out) < _LEAST:
        return {**found, **empty, "reason": f"{n_in} and {n_out} shadow models a record: a spread needs two of each"}

    def shares(references: References, *, turned: bool = False) -> list[float]:
        values = record_auc(*_phi(references)).auc
        highest = combine(1.0 - values if turned else values, patients, "max").scores
        return [float(share) for share in survival_curve(highest, THRESHOLDS)]

    return {
        **found,
        "trained": shares(shadows),
        "unlearned": None if after is None else shares(after),
        "unlearned_worse": None if after is None else shares(after, turned=True),
        "by_chance": [float(share) for share in null_patient_max_share(THRESHOLDS, counts, n_in, n_out)],
        "reason": None,
    }


def _quality(after: References, patients: Ints, options: AuditOptions, rng: np.random.Generator) -> dict[str, Any]:
    """NeurIPS 2023: of each record, the shadow models that unlearned it against those that never saw it."""
    phi, seen = _phi(after)
    order = np.argsort(~seen, axis=0, kind="stable")  # of each record: models that saw it first
    ranked, n_in = np.take_along_axis(phi, order, axis=0), int(seen.sum(axis=0).min())
    found = forgetting_quality(
        ranked[:n_in],
        ranked[int(seen.sum(axis=0).max()) :],
        rng,
        patients=patients,
        n_resamples=options.n_bootstrap,
        level=options.level,
    )
    return dict(found.to_dict())


def _vulnerability(
    before: AttackResult | None, after: AttackResult | None, options: AuditOptions
) -> dict[str, Any] | None:
    """Exposed at the decision box's share of false alarms: by LiRA before, by U-LiRA after unlearning."""
    if before is None or after is None:
        return None
    scores: list[Floats] = []
    thresholds: list[float] = []
    for result in (before, after):
        if result.scores is None or result.member is None or result.patient is None:
            return None
        table = risk_table(result.scores, result.member, result.patient, fpr=options.people_fpr)
        nobody = float(np.nextafter(result.scores.max(), np.inf))  # no member is found: nobody is exposed
        thresholds.append(nobody if table.point.threshold is None else table.point.threshold)
        scores.append(result.scores[result.member])
        patients = result.patient[result.member]
    view = vulnerability_view(
        scores[0],
        scores[1],
        patients,
        before_threshold=thresholds[0],
        after_threshold=thresholds[1],
        min_cell=options.min_cell,
        level=options.level,
    )
    return dict(view.to_dict())
