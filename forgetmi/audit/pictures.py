"""The data behind the report's pictures: ROC vertices and loss histograms, in counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forgetmi.audit.measurements import Measurement
from forgetmi.metrics.roc import RocCurve

HISTOGRAM_PARTS = ("forget", "retain", "test")
_LOWEST = 1e-5  # nats: below that the model is certain for every purpose


def reduced_roc(curve: RocCurve) -> dict[str, Any]:
    """A curve without the vertices inside of horizontal and vertical runs: AUC and every TPR at an FPR stay exact."""
    across, up = np.diff(curve.fp), np.diff(curve.tp)
    # a vertex between two steps in the same axis direction says nothing; a slanted step is a tie block and stays
    flat = (up[:-1] == 0) & (up[1:] == 0)
    steep = (across[:-1] == 0) & (across[1:] == 0)
    kept = np.concatenate([[True], ~(flat | steep), [True]])
    return {
        "tp": curve.tp[kept].tolist(),
        "fp": curve.fp[kept].tolist(),
        "n_members": curve.n_members,
        "n_nonmembers": curve.n_nonmembers,
    }


def loss_histograms(
    original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement], bins: int
) -> dict[str, Any]:
    """Counts of records by loss, in bins of equal width on a log scale, the same for all models.

    The outermost bins hold all that lies beyond. ``retrained`` pools the R models: R times as many counts.
    """
    models = {"original": [original], "unlearned": [unlearned], "retrained": list(retrained)}
    losses = {
        role: {
            part: np.maximum(np.concatenate([np.asarray(m.scores.parts[part]["nll"]) for m in group]), _LOWEST)
            for part in HISTOGRAM_PARTS
        }
        for role, group in models.items()
    }
    everything = np.concatenate([values for parts in losses.values() for values in parts.values()])
    low, high = np.quantile(everything, (0.005, 0.995))
    high = max(float(high), float(low) * 10.0)
    edges = np.geomspace(float(low), high, bins + 1)
    return {
        "edges": edges.tolist(),
        "unit": "nats",
        "counts": {
            role: {
                part: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()
                for part, values in parts.items()
            }
            for role, parts in losses.items()
        },
    }
