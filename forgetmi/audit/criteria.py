"""The figures that the verdict's rule looks at, and where a model lies on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forgetmi.metrics.figure import Position
from forgetmi.metrics.forgetting import gap_to_retrained
from forgetmi.metrics.intervals import Interval

Kind = Literal[
    "attack",
    "exposed",
    "marked_out",
    "memorised",
    "forget_accuracy",
    "forget_cross_entropy",
    "test_auc",
    "test_cross_entropy",
]
Decision = Literal["pass", "fail", "inconclusive"]
Meaning = Literal["remembered", "over_forgotten", "utility_lost", "not_judged"]


@dataclass(frozen=True)
class Reading:
    """A value and its interval; ``value`` is ``None`` where it cannot be had, ``interval.reason`` says why."""

    value: float | None
    interval: Interval


@dataclass(frozen=True)
class Criterion:
    """One figure that the rule looks at, of all models.

    Attributes:
        key: its name in ``evidence.json``.
        label: its name in plain words.
        kind: what it measures, hence what lying outside means.
        original, candidate: of the two models; the candidate is the unlearned one, or a control in its place.
        retrained: values of the retrained models.
        headline: whether this is the headline attack.
    """

    key: str
    label: str
    kind: Kind
    original: Reading
    candidate: Reading
    retrained: tuple[Reading, ...]
    headline: bool = False

    @property
    def range(self) -> tuple[float, float] | None:
        """[min, max] of the retrained models; ``None`` if one has no value."""
        values = [reading.value for reading in self.retrained if reading.value is not None]
        return (min(values), max(values)) if values and len(values) == len(self.retrained) else None

    def position(self, reading: Reading) -> Position | None:
        """Where a reading's interval lies; ``None`` if that cannot be said."""
        if reading.value is None or reading.interval.low is None or self.range is None:
            return None
        return gap_to_retrained(reading.value, self.range, reading.interval).position_widened


@dataclass(frozen=True)
class Finding:
    """A criterion on which the candidate lies outside, or that cannot be judged."""

    criterion: str
    meaning: Meaning
    sentence: str


def as_candidate(criteria: Sequence[Criterion], role: Literal["original"] | int) -> list[Criterion]:
    """The same criteria with a control in the candidate's place: the original, or retrained model number ``role``.

    A retrained model is held out: it is judged against the others.
    """
    if role == "original":
        return [replace(c, candidate=c.original) for c in criteria]
    return [
        replace(c, candidate=c.retrained[role], retrained=tuple(r for i, r in enumerate(c.retrained) if i != role))
        for c in criteria
    ]
