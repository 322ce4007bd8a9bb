"""A value of each record, and the figure that they make: the mean, with its interval by patient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Direction, Figure, absent, measure
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.roc import Floats, mean_statistic


@dataclass(frozen=True)
class PerExample:
    """What a metric says of each of N records.

    Attributes:
        name: its key.
        values: [N]; NaN where a record has none (no keyword in it, too short for an n-gram): those are counted and left
            out, never taken for 0.
        direction: how to read the mean relative to retrained models, see :class:`~forgetmi.metrics.figure.Figure`.
        sentence: a format string with ``{value}``.
        bounds: between which the mean must lie.
        definition: what was computed, with its options: printed beside the number.
        missing: why a record may have no value.
    """

    name: str
    values: Floats
    direction: Direction
    sentence: str
    bounds: tuple[float, float] | None = (0.0, 1.0)
    definition: str = ""
    missing: str = "the metric is not defined for it"
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise AuditError(f"{self.name}: values {values.shape}", expected="[N], one a record, at least one")
        if np.isinf(values).any():
            raise AuditError(f"{self.name}: {int(np.isinf(values).sum())} values are infinite")
        object.__setattr__(self, "values", values)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which records have a value [N]."""
        return ~np.isnan(self.values)

    def figure(
        self, patients: NDArray[np.int64], rng: np.random.Generator, *, n_resamples: int = 1000, level: float = 0.95
    ) -> Figure:
        """The mean over records that have a value, with its interval by resampling patients.

        Args:
            patients: of each record [N], as integer codes.
            rng: of the resamples; the same for models that are compared.
            n_resamples, level: of the interval.

        Raises:
            AuditError: not one patient a record.
        """
        codes = np.asarray(patients)
        if codes.shape != self.values.shape:
            raise AuditError(f"{self.name}: {codes.shape} patients for {self.values.shape} values")
        known = self.known
        counts = {**self.counts, "n_without_value": int((~known).sum())}
        kept = known if known.any() else np.ones_like(known)
        bootstrap = PatientBootstrap(codes[kept], rng, n_resamples=n_resamples, level=level)
        if not known.any():
            return absent(
                self.name, f"no record has a value: {self.missing}", bootstrap, direction=self.direction, counts=counts
            )
        return measure(
            self.name,
            mean_statistic(self.values[known]),
            bootstrap,
            direction=self.direction,
            sentence=self.sentence,
            bounds=self.bounds,
            counts=counts,
        )
