"""MUSE's last two sides: figures of models over forget sets that grow (C5), and over successive requests (C6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from forgetmi.errors import AuditError
from forgetmi.metrics.intervals import Interval, mean_interval
from forgetmi.metrics.muse import MuseResult
from forgetmi.metrics.per_example import PerExample

FIGURES = ("verbmem", "knowmem_forget", "knowmem_retain")


@dataclass(frozen=True)
class MuseTable:
    """Figures of models over forget sets of growing size, or over successive requests.

    Attributes:
        axis: what grows.
        rows: of each model: the axis' value; mean, low and high of each figure that there is, by name; and
            ``knowmem_retain_change``, the mean over the same questions of what became of retained knowledge since the
            first row, with low and high.
    """

    axis: str
    rows: tuple[Mapping[str, float | None], ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {"axis": self.axis, "rows": [dict(row) for row in self.rows]}


def scalability(
    results: Sequence[MuseResult],
    sizes: Sequence[float],
    rng: np.random.Generator,
    *,
    retrained: Sequence[MuseResult] | None = None,
) -> MuseTable:
    """MUSE's C5: models that unlearned forget sets of growing size, each from the original.

    Args:
        results: one a model.
        sizes: of the forget sets (MUSE: million tokens), growing.
        rng: of the intervals.
        retrained: retrained models of the same forget sets, for PrivLeak.

    Raises:
        AuditError: sizes do not grow, or lengths differ.
    """
    if any(b <= a for a, b in pairwise(sizes)):
        raise AuditError(f"sizes of forget sets are {list(sizes)}", expected="growing ones")
    return _table("size", results, sizes, rng, retrained)


def sustainability(
    results: Sequence[MuseResult], rng: np.random.Generator, *, retrained: Sequence[MuseResult] | None = None
) -> MuseTable:
    """MUSE's C6: a model after its first request, its second, ..., each of which starts from the one before.

    Args:
        results: one a request.
        rng: of the intervals.
        retrained: retrained models without what was forgotten so far, for PrivLeak.
    """
    return _table("request", results, range(1, len(results) + 1), rng, retrained)


def _table(
    axis: str,
    results: Sequence[MuseResult],
    steps: Sequence[float],
    rng: np.random.Generator,
    retrained: Sequence[MuseResult] | None,
) -> MuseTable:
    if not results or len(steps) != len(results) or (retrained is not None and len(retrained) != len(results)):
        raise AuditError(f"{len(results)} models at {len(steps)} steps", expected="one model a step, at least one")
    seed = int(rng.integers(2**63))
    rows: list[dict[str, float | None]] = []
    for n, (step, result) in enumerate(zip(steps, results, strict=True)):
        row: dict[str, float | None] = {axis: float(step)}
        for name in FIGURES:
            metric: PerExample | None = getattr(result, name)
            if metric is not None:
                figure = metric.figure(np.arange(metric.values.size), np.random.default_rng(seed))
                row |= _columns(name, figure.value, figure.interval)
        if retrained is not None:
            leak = result.privleak(retrained[n], np.random.default_rng(seed))
            row |= _columns("privleak", leak.value, leak.interval)
        first, now = results[0].knowmem_retain, result.knowmem_retain
        if first is not None and now is not None:
            if first.values.shape != now.values.shape:
                raise AuditError("models were asked different questions about retained documents")
            change = (now.values - first.values)[now.known & first.known]
            interval = mean_interval(change, np.arange(change.size), np.random.default_rng(seed))
            row |= _columns("knowmem_retain_change", float(change.mean()), interval)
        rows.append(row)
    return MuseTable(axis, tuple(rows))


def _columns(name: str, value: float | None, interval: Interval) -> dict[str, float | None]:
    return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}
