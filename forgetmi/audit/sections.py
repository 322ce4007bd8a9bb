"""Sections of the evidence that are a few lines each: the unit of privacy, and generalisation gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forgetmi.audit.measurements import Measurement
from forgetmi.audit.scores import PartInfo


def part(info: PartInfo) -> dict[str, Any]:
    """How many patients and records, and how records are spread over patients."""
    _, records = np.unique(info.patients, return_counts=True)
    span = {"min": int(records.min()), "median": float(np.median(records)), "max": int(records.max())}
    return {"patients": records.size, "samples": info.patients.size, "records_per_patient": span}


def generalisation(original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement]) -> dict[str, Any]:
    """How much better each model does on the retained records, which it was trained on, than on test records."""

    def gap(measurement: Measurement) -> dict[str, Any]:
        def value(part: str, name: str) -> float | None:
            return measurement.utility[part].figures[name].value

        found = {f"{part}_{name}": value(part, name) for part in ("retain", "test") for name in _FIGURES}
        for name, sign in _FIGURES.items():
            first, second = found[f"retain_{name}"], found[f"test_{name}"]
            found[f"{name}_gap"] = None if first is None or second is None else sign * (first - second)
        return found

    return {"original": gap(original), "unlearned": gap(unlearned), "retrained": [gap(m) for m in retrained]}


_FIGURES = {"accuracy": 1.0, "cross_entropy": -1.0}
