"""Signals that stay on disk until they are used: WFDB records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from forgetmi.errors import DataError, MissingDependencyError


@dataclass(frozen=True, slots=True)
class WfdbSignal:
    """A WFDB record: a header ``.hea`` and the files that it names.

    Attributes:
        record: the path of the header without its suffix, as WFDB writes it.
        leads: the leads in the order in which they are wanted, compared without case.
    """

    record: str
    leads: tuple[str, ...]

    def load(self) -> dict[str, Any]:
        """``{"samples": float32 [leads, T] in mV, "rate": Hz}``, NaN where the file marks a sample as invalid.

        Raises:
            DataError: the record is missing or damaged, lacks a lead, or is not in mV. Its name is private.
            MissingDependencyError: wfdb is not installed.
        """
        try:
            import wfdb
        except ImportError as error:
            raise MissingDependencyError("Reading an ECG", "ecg") from error
        try:
            found = wfdb.rdrecord(os.path.abspath(self.record))
            names = [name.strip().casefold() for name in found.sig_name or ()]
            units = [unit.strip().casefold() for unit in found.units or ()]
            samples, rate = found.p_signal, float(found.fs)
        except Exception as error:
            # wfdb raises whatever the broken byte led to; all of it means "this record is not readable".
            raise DataError(
                f"an ECG cannot be read ({type(error).__name__})",
                fix="it may be missing or truncated: copy it again",
                private=[f"{self.record}.hea, {os.path.basename(self.record)}.dat", f"{type(error).__name__}: {error}"],
            ) from error
        wanted = [lead.casefold() for lead in self.leads]
        if samples is None or any(names.count(lead) != 1 for lead in wanted):
            raise DataError(
                "an ECG does not have the leads that are expected",
                expected=", ".join(self.leads),
                private=[f"{self.record}.hea: {', '.join(names)}"],
            )
        order = [names.index(lead) for lead in wanted]
        if any(units[at] != "mv" for at in order):
            raise DataError("an ECG is not in mV", private=[f"{self.record}.hea: {', '.join(units)}"])
        return {"samples": np.ascontiguousarray(samples[:, order].T, dtype=np.float32), "rate": rate}
