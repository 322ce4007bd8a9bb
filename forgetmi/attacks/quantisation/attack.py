"""The attack: original, unlearned and retrained models, rounded by the same quantisers and measured again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from forgetmi.attacks.quantisation.quantisers import HasLevels, Quantiser
from forgetmi.attacks.quantisation.recovery import Measured, excess, recovery, returned
from forgetmi.attacks.quantisation.tensors import matrices, merged
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure
from forgetmi.metrics.per_example import PerExample

Measure = Callable[[nn.Module], Sequence[PerExample]]
"""A model to its metrics over the forgotten records, in one order; it leaves the model as it found it."""


@dataclass(frozen=True)
class Unchanged:
    """What is left of an update after rounding: the mechanism by which knowledge comes back.

    Attributes:
        same_level: share of the rounded weights whose level is the same in the original and the unlearned model, Q(w_u)
            == Q(w_o) as numbers of buckets; ``None`` for a quantiser that has no fixed levels (GPTQ, AWQ).
        same_value: share whose rounded value is the same bit by bit: less, where a largest weight moved, and with it
            the width of every bucket that it gives.
        kept: the update d = w_u - w_o that is left after rounding, along itself: <Q(w_u) - Q(w_o), d> / <d, d>. Weights
            that lie anywhere in their buckets give about 1, however small d is: few cross an edge, and these move by a
            whole bucket. Near 0 it is lost. ``None`` where there is no update.
        unmoved: share of the weights that unlearning itself left as they were, in full precision.
        n_weights: how many were rounded.
        share_of_model: of all the model's weights.
    """

    same_level: float | None
    same_value: float
    kept: float | None
    unmoved: float
    n_weights: int
    share_of_model: float


@dataclass(frozen=True)
class Recovered:
    """One metric under one quantiser.

    Attributes:
        quantiser: its label.
        metric: its name.
        original, unlearned, retrained: the metric in full precision and rounded, record by record.
        figures: of each model its mean, ``original``, ``original_quantised``, ``unlearned``, ...; ``recovery``; and,
            where there are retrained models, ``excess``, ``excess_quantised`` and ``returned``.
    """

    quantiser: str
    metric: str
    original: Measured
    unlearned: Measured
    retrained: tuple[Measured, ...]
    figures: Mapping[str, Figure]

    @property
    def sentence(self) -> str:
        """How to read it."""
        f = self.figures

        def said(name: str) -> str:
            value = f[name].value
            return "no value" if value is None else f"{value:.3g}"

        text = (
            f"{self.quantiser}: {self.metric} of the unlearned model goes from {said('unlearned')} to "
            f"{said('unlearned_quantised')} (original: {said('original')} to {said('original_quantised')}"
        )
        if self.retrained:
            rounded = [float(np.nanmean(model.quantised.values)) for model in self.retrained]
            text += f"; retrained models, rounded: {min(rounded):.3g} to {max(rounded):.3g}"
        ratio = f["recovery"]
        if ratio.value is None:
            return f"{text}). No recovery ratio: {ratio.reason}."
        low, high = ratio.interval.low, ratio.interval.high
        ends = ratio.interval.reason if low is None or high is None else f"{low:.0%} to {high:.0%}"
        return f"{text}). Came back: {ratio.value:.0%} of what was removed ({ends}). {_verdict(low, high)}"

    def to_dict(self) -> dict[str, Any]:
        """Figures and sentence, JSON-able; values of single records are left out."""
        return {
            "quantiser": self.quantiser,
            "metric": self.metric,
            "definition": self.unlearned.full.definition,
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class QuantisationResult:
    """All quantisers and metrics.

    Attributes:
        rows: each metric under each quantiser, quantisers in the order in which they were given.
        mechanism: of each quantiser, what it left of the update.
    """

    rows: tuple[Recovered, ...]
    mechanism: Mapping[str, Unchanged]

    @property
    def sentences(self) -> tuple[str, ...]:
        """How to read each row."""
        return tuple(row.sentence for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "mechanism": {name: asdict(found) for name, found in self.mechanism.items()},
        }


def quantisation_attack(
    original: nn.Module,
    unlearned: nn.Module,
    retrained: Sequence[nn.Module],
    *,
    quantisers: Sequence[Quantiser],
    measure: Measure,
    patients: NDArray[np.int64],
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> QuantisationResult:
    """Round all models alike and measure them again. One rounded copy is held at a time, or two; no model changes.

    Args:
        original, unlearned, retrained: models of one architecture; there may be no retrained one.
        quantisers: what to round with; labels must differ.
        measure: metrics over the forgotten records.
        patients: of each of these records [N].
        seed: of the resamples, the same for all figures.
        n_resamples, level: of the intervals.

    Raises:
        AuditError: no quantiser, two of one label, models or metrics that do not fit each other.
        ModelError: a model has nothing to round, see :func:`~forgetmi.attacks.quantisation.tensors.matrices`.
        MissingDependencyError: a quantiser's package is not installed.
    """
    labels = [quantiser.label for quantiser in quantisers]
    if not labels or len(set(labels)) < len(labels):
        raise AuditError(f"quantisers {', '.join(labels) or 'none'}", expected="at least one, each once")
    full = [tuple(measure(model)) for model in (original, unlearned, *retrained)]
    rows, mechanism = [], {}
    for quantiser in quantisers:
        first, second = quantiser.quantised(original), quantiser.quantised(unlearned)
        mechanism[quantiser.label] = unchanged(quantiser, original, unlearned, (first, second))
        rounded = [tuple(measure(model)) for model in (first, second)]
        del first, second
        rounded += [tuple(measure(quantiser.quantised(model))) for model in retrained]
        if len({len(metrics) for metrics in (*full, *rounded)}) > 1:
            raise AuditError("the measure gives different numbers of metrics for different models")
        for place in range(len(full[0])):
            models = [Measured(a[place], b[place]) for a, b in zip(full, rounded, strict=True)]
            rows.append(_row(quantiser.label, models, patients, seed, n_resamples, level))
    return QuantisationResult(tuple(rows), mechanism)


def unchanged(
    quantiser: Quantiser, original: nn.Module, unlearned: nn.Module, quantised: tuple[nn.Module, nn.Module]
) -> Unchanged:
    """Compare the two rounded models weight by weight.

    Args:
        quantiser: that rounded them.
        original, unlearned: in full precision.
        quantised: the same two, rounded.

    Raises:
        AuditError: their weights differ in name or shape.
    """
    plain = [merged(model) for model in (original, unlearned)]  # names as in the rounded ones
    groups = [matrices(model, quantiser.selection) for model in (*plain, *quantised)]
    shapes = [[(matrix.name, matrix.weight.shape) for matrix in group] for group in groups]
    if any(shape != shapes[0] for shape in shapes):
        raise AuditError("the original and the unlearned model have different weights", expected="one architecture")
    levels = values = unmoved = total = 0
    along = squared = 0.0
    for before, after, first, second in zip(*groups, strict=True):
        total += before.weight.numel()
        unmoved += _equal(before.rows, after.rows)
        values += _equal(first.rows, second.rows)
        update = after.rows.double() - before.rows.double().to(after.rows.device)
        along += float(((second.rows.double() - first.rows.double()) * update).sum())
        squared += float(update.square().sum())
        if isinstance(quantiser, HasLevels):
            levels += _equal(quantiser.coded(before.rows).codes, quantiser.coded(after.rows).codes)
    whole = sum(weight.numel() for weight in plain[0].parameters())
    same_level = levels / total if isinstance(quantiser, HasLevels) else None
    kept = along / squared if squared else None
    return Unchanged(same_level, values / total, kept, unmoved / total, total, total / whole)


def _equal(first: torch.Tensor, second: torch.Tensor) -> int:
    return int((first == second.to(first.device)).sum())


def _row(
    label: str, models: Sequence[Measured], patients: NDArray[np.int64], seed: int, n_resamples: int, level: float
) -> Recovered:
    original, unlearned, *retrained = models
    settings: dict[str, Any] = {"n_resamples": n_resamples, "level": level}

    def fresh() -> np.random.Generator:
        return np.random.default_rng(seed)  # the same resamples for every figure: differences are paired

    names = ["original", "unlearned", *(f"retrained_{place + 1}" for place in range(len(retrained)))]
    figures: dict[str, Figure] = {}
    for name, model in zip(names, models, strict=True):
        figures[name] = model.full.figure(patients, fresh(), **settings)
        figures[f"{name}_quantised"] = model.quantised.figure(patients, fresh(), **settings)
    figures["recovery"] = recovery(original, unlearned, patients, fresh(), **settings)
    if retrained:
        for key, metric, others in (
            ("excess", unlearned.full, [model.full for model in retrained]),
            ("excess_quantised", unlearned.quantised, [model.quantised for model in retrained]),
        ):
            name = f"{metric.name}_{key}"
            figures[key] = excess(metric, others, patients, fresh(), name=name, **settings)
        figures["returned"] = returned(unlearned, retrained, patients, fresh(), **settings)
    return Recovered(label, unlearned.full.name, original, unlearned, tuple(retrained), figures)


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "Without an interval nothing can be concluded."
    if low > 0.0:
        return "Rounding brings knowledge back."
    if high < 0.0:
        return "Rounding makes it forget more."
    return "It cannot be told from nothing."
