"""Figures of one model beside the retrained ones; all of them are the audit's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forgetmi.audit.comparison import criteria, tugs
from forgetmi.audit.measurements import Measurement, measure_model
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.audit.verdict import judge
from forgetmi.metrics.figure import Figure

OPTIONS = AuditOptions(attacks=("loss",), published_svc=False, n_bootstrap=300)
GAP_OF = ("forget_accuracy", "retain_accuracy", "test_accuracy", "mia_auc")
"""The figures whose mean absolute gap to retrained is *the* gap of this benchmark."""

COLLAPSE = 0.1
"""A model whose test accuracy is lower than any retrained one's by more than this is destroyed."""


def measured_model(scores: ModelScores, parts: Mapping[str, PartInfo], n_classes: int) -> Measurement:
    """Attack and grade a model; the same resamples for all."""
    return measure_model(scores, parts, AuditContext("multiclass", n_classes), OPTIONS, seed=0)


def compare(
    original: Measurement, candidate: Measurement, retrained: Sequence[Measurement], parts: Mapping[str, PartInfo]
) -> dict[str, Any]:
    """A model in the unlearned one's place."""
    sizes = {f"n_{part}_patients": parts[part].n_patients for part in ("forget", "test")}
    verdict = judge(criteria(original, candidate, retrained, OPTIONS), **sizes, options=OPTIONS)
    tug = tugs(original, candidate, retrained, OPTIONS.headline)["unlearned"]
    own, others = figures_of(candidate), [figures_of(model) for model in retrained]
    lowest = min(other["test_accuracy"]["value"] for other in others)
    return {
        "figures": own,
        "gap": mean_gap(values_of(own), [values_of(other) for other in others]),
        "tow": tug["tow"]["mean"],
        "tow_mia": tug["tow_mia"]["mean"],
        "verdict": verdict.decision,
        "informative": verdict.informative,
        "findings": sorted({finding.meaning for finding in verdict.findings}),
        "destroyed": own["test_accuracy"]["value"] < lowest - COLLAPSE,
    }


def mean_gap(own: Mapping[str, float], retrained: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The signed gap of each figure of :data:`GAP_OF` to the retrained models' mean, and their mean absolute value.

    Args:
        own: figure to value.
        retrained: the same of each retrained model.
    """
    gaps = {name: own[name] - float(np.mean([other[name] for other in retrained])) for name in GAP_OF}
    return {**gaps, "mean": float(np.mean(np.abs(list(gaps.values()))))}


def figures_of(measurement: Measurement) -> dict[str, dict[str, Any]]:
    """Name to value, interval, and why there is none."""
    attack = measurement.attacks[OPTIONS.headline].figures
    found = {"mia_auc": attack["auc"], "mia_tpr_at_1_fpr": attack["tpr_at_fpr_0.01"]}
    for part, utility in measurement.utility.items():
        for name in ("accuracy", "auc", "macro_f1", "cross_entropy"):
            found[f"{part}_{name}"] = utility.figures[name]
    return {name: _figure(figure) for name, figure in found.items()}


def values_of(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The values of :data:`GAP_OF`, which are always there."""
    return {name: float(figures[name]["value"]) for name in GAP_OF}


def _figure(figure: Figure) -> dict[str, Any]:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(float(value), 5)

    interval = figure.interval
    return {
        "value": rounded(figure.value),
        "low": rounded(interval.low),
        "high": rounded(interval.high),
        "reason": figure.reason or interval.reason,
        "n": figure.n_samples,
        "patients": figure.n_patients,
    }
