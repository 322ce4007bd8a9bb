"""A figure: a number that carries its interval, its n, its direction and a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forgetmi.errors import AuditError
from forgetmi.metrics.intervals import Interval, PatientBootstrap
from forgetmi.metrics.roc import Statistic, evaluate

Direction = Literal["remembers_above", "remembers_below", "useful_above", "useful_below", "closest_at_one"]
Position = Literal["below", "inside", "above"]

_REMEMBERS = "the model still remembers more than a retrained one"
_OVER_FORGETS = "over-forgetting: the model treats the forgotten records worse than a model that never saw them"
_READING: Mapping[str, Mapping[str, str]] = {
    "remembers_above": {"above": _REMEMBERS, "below": _OVER_FORGETS},
    "remembers_below": {"above": _OVER_FORGETS, "below": _REMEMBERS},
    "useful_above": {"above": "more useful than a retrained model", "below": "less useful than a retrained model"},
    "useful_below": {"above": "less useful than a retrained model", "below": "more useful than a retrained model"},
    "closest_at_one": {
        "above": "closer to a retrained model than retrained models are to each other",
        "below": "further from a retrained model than retrained models are from each other",
    },
}


@dataclass(frozen=True)
class Figure:
    """One figure of an audit.

    Attributes:
        name: its key.
        value: the number, or ``None`` with a ``reason``.
        interval: patient-clustered interval, or the reason why there is none.
        n_patients, n_samples: what it rests on.
        direction: how to read it *relative to retrained*. ``remembers_above``: above the retrained models the model
            still remembers, below them it over-forgets; ``remembers_below``: the other way round; ``useful_above`` /
            ``useful_below``: utility; ``closest_at_one``: likeness to a retrained model.
        sentence: what it says, in plain words.
        counts: integers from which it can be recomputed.
        reason: why there is no value.
    """

    name: str
    value: float | None
    interval: Interval
    n_patients: int
    n_samples: int
    direction: Direction
    sentence: str
    counts: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.reason is not None):
            raise AuditError(f"{self.name}: a figure has a value, or a reason why it has none")
        if self.value is not None and not math.isfinite(self.value):
            raise AuditError(f"{self.name} is {self.value}: a figure must be finite, or None with a reason")

    def reading(self, position: Position) -> str:
        """What it means to lie there, seen from the retrained models."""
        return "as a retrained model" if position == "inside" else _READING[self.direction][position]

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able, without NaN or infinity."""
        return {**self.__dict__, "interval": self.interval.to_dict(), "counts": dict(self.counts)}


def measure(
    name: str,
    statistic: Statistic,
    bootstrap: PatientBootstrap,
    *,
    direction: Direction,
    sentence: str,
    bounds: tuple[float, float] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Figure:
    """The figure of a weighted statistic, with its interval. ``sentence`` is a format string with ``{value}``."""
    value = evaluate(statistic, bootstrap.n_records)
    return Figure(
        name=name,
        value=value,
        interval=bootstrap.interval(statistic, bounds=bounds),
        n_patients=bootstrap.n_patients,
        n_samples=bootstrap.n_records,
        direction=direction,
        sentence=sentence.format(value=value),
        counts=counts or {},
    )


def absent(
    name: str,
    reason: str,
    bootstrap: PatientBootstrap,
    *,
    direction: Direction,
    counts: Mapping[str, int] | None = None,
) -> Figure:
    """A figure that cannot be had, and why."""
    return Figure(
        name=name,
        value=None,
        interval=Interval.none(reason, n_patients=bootstrap.n_patients, level=bootstrap.level),
        n_patients=bootstrap.n_patients,
        n_samples=bootstrap.n_records,
        direction=direction,
        sentence=reason,
        counts=counts or {},
        reason=reason,
    )
