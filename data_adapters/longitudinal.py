"""Longitudinal tables: several rows a patient, made into one row a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ConfigDict

from forgetmi.data_adapters.tables import places, read_table
from forgetmi.errors import ConfigError, DataError

How = Literal["last", "first", "mean", "min", "max", "count"]
_Time = tuple[bool, float]  # whether it is a date; days, or the number as it stands


@dataclass(frozen=True)
class Longitudinal:
    """A CSV, TSV (``.gz`` too) or Parquet file with several rows a patient, study or sample.

    Either long, one measurement a row (NAFLD's ``id, days, test, value``), or wide, one visit a row with a column a
    measurement. A cell that is blank or says NA holds no value.

    Attributes:
        path: the file.
        id_column: whom a row is about; compared as exact text.
        ids: what these ids are: ``patient``, ``study`` or ``sample``.
        name, value: long: the column that names the measurement, and the one that holds it. Without ``value`` a row is
            an event, which can only be counted.
        values: wide: the columns that hold measurements.
        names: long: the measurements to read; by default all.
        time: the column that orders the rows: numbers (days since any day), or dates as ISO 8601 writes them.
        aggregate: what several values of a measurement become: ``last``, ``first`` (in time; of one time, in the file's
            order), ``mean``, ``min``, ``max``, ``count``. Of several, each becomes a column, ``hdl (mean)``.
        until: the latest time that counts, so that no record is told what happened after it.
        until_column: the same for each record: a column of the manifest.

    Raises:
        ConfigError: settings that do not fit together; all of them at once.
    """

    path: Path
    id_column: str
    ids: Literal["patient", "study", "sample"] = "patient"
    name: str | None = None
    value: str | None = None
    values: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    time: str | None = None
    aggregate: tuple[How, ...] = ("last",)
    until: float | str | None = None
    until_column: str | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        problems = []
        if (self.name is None) == (not self.values):
            problems.append("longitudinal: give either name and value (one measurement a row) or values (one visit)")
        if self.values and (self.value is not None or self.names is not None):
            problems.append("longitudinal: value and names belong to name, and not to values")
        if not self.aggregate or len(set(self.aggregate)) < len(self.aggregate):
            problems.append("longitudinal.aggregate: name at least one, each once")
        if self.name is not None and self.value is None and set(self.aggregate) != {"count"}:
            problems.append("longitudinal.aggregate: rows without a value can only be counted: [count]")
        limited = self.until is not None or self.until_column is not None
        if self.time is None and (limited or {"last", "first"} & {*self.aggregate}):
            problems.append("longitudinal.time: last, first and until need the column that orders the rows")
        if self.until is not None and self.until_column is not None:
            problems.append("longitudinal: give until or until_column, not both")
        if self.until is not None and _time(str(self.until)) is None:
            problems.append(f"longitudinal.until: {self.until!r} is no number and no date such as 2020-12-31")
        if problems:
            raise ConfigError(problems)

    def read(self, keys: Sequence[str], limits: Sequence[str] | None, where: Sequence[str]) -> LongitudinalRows:
        """A row a record.

        Args:
            keys: the id of each record under which the table may know it.
            limits: the cells of ``until_column``.
            where: ``file:row`` of each record.

        Raises:
            DataError: a file or column is missing, times are numbers here and dates there, a limit cannot be read, or
                the table is about none of these records.
        """
        columns = [c for c in (self.id_column, self.name, self.value, self.time, *self.values) if c is not None]
        frame = read_table(self.path, columns=columns, ids=[self.id_column])
        skipped: list[tuple[str, str]] = []
        known = set(keys)
        found: dict[str, list[tuple[_Time, str, Any]]] = {key: [] for key in known}
        strange = 0
        numeric = {"mean", "min", "max"} & {*self.aggregate}
        for (owner, time, pairs), place in zip(self._rows(frame), places(frame), strict=True):
            if owner not in known:
                strange += bool(owner)
                if not owner:
                    skipped.append((f"column {self.id_column!r} is blank", place))
                continue
            at = (False, 0.0) if self.time is None else time
            if at is None:
                skipped.append((f"column {self.time!r} is no number and no date", place))
                continue
            for name, value in pairs:
                if not name:
                    skipped.append((f"column {self.name!r} is blank", place))
                elif self.names is not None and name not in self.names:
                    continue
                elif value is None:
                    if self.name is not None:
                        skipped.append((f"column {self.value!r} holds no value", place))
                elif numeric and not isinstance(value, float):
                    skipped.append((f"{', '.join(sorted(numeric))} need numbers", place))
                else:
                    found[owner].append((at, name, value))
        if strange == len(frame):
            raise DataError(
                f"none of the {len(frame)} rows of {frame.attrs['file']} is about a {self.ids} of the manifest",
                where=f"{frame.attrs['file']}:1",
                fix="check id_column and ids; ids are compared as exact text",
            )
        ends = self._ends(limits, where, len(keys))
        self._one_clock(found, ends, frame.attrs["file"])
        for rows in found.values():
            rows.sort(key=lambda row: row[0])  # stable: of one time, the file's order
        values, later = [], 0
        for key, end in zip(keys, ends, strict=True):
            before = [(name, value) for at, name, value in found[key] if end is None or at <= end]
            later += len(found[key]) - len(before)
            values.append(self._aggregated(before))
        notes = []
        if strange:
            notes.append(f"{strange} of {len(frame)} rows of {frame.attrs['file']} are about nobody in the manifest")
        if later:
            notes.append(
                f"{later} values of {frame.attrs['file']} are later than the records' times: they do not count"
            )
        return LongitudinalRows(values, skipped, notes)

    def _rows(self, frame: pd.DataFrame) -> Iterator[tuple[str, _Time | None, Sequence[tuple[str, Any]]]]:
        """Owner, time, and (name, value) pairs of each row."""
        times: Sequence[_Time | None] = [None] * len(frame)
        if self.time is not None:
            times = _each(frame[self.time], _time)
        pairs: Iterable[Sequence[tuple[str, Any]]]
        if self.name is None:
            cells = zip(*(_each(frame[column], _value) for column in self.values), strict=True)
            pairs = ([*zip(self.values, row, strict=True)] for row in cells)
        else:
            events = [""] * len(frame)
            values = events if self.value is None else _each(frame[self.value], _value)
            pairs = ([(name.strip(), value)] for name, value in zip(frame[self.name], values, strict=True))
        return zip(frame[self.id_column], times, pairs, strict=True)

    def _ends(self, limits: Sequence[str] | None, where: Sequence[str], count: int) -> list[_Time | None]:
        if limits is None:
            return [None if self.until is None else _time(str(self.until))] * count
        ends = [_time(cell) for cell in limits]
        if wrong := [place for end, place in zip(ends, where, strict=True) if end is None]:
            raise DataError(
                f"{len(wrong)} cells of column {self.until_column!r} are no number and no date",
                where=wrong[0],
                expected="the latest time that counts, on the clock of the longitudinal table",
            )
        return ends

    def _one_clock(self, found: dict[str, list[Any]], ends: Sequence[_Time | None], file: str) -> None:
        """Numbers and dates have no common order."""
        kinds = {at[0] for rows in found.values() for at, _, _ in rows} | {end[0] for end in ends if end is not None}
        if len(kinds) > 1:
            raise DataError(
                f"some times of {file} or of `until` are numbers and others are dates",
                where=file,
                expected="one clock for all of them",
            )

    def _aggregated(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        series: dict[str, list[Any]] = {}
        for name, value in pairs:
            series.setdefault(name, []).append(value)
        row: dict[str, Any] = {}
        for name, values in series.items():
            for how in self.aggregate:
                row[name if len(self.aggregate) == 1 else f"{name} ({how})"] = _one(values, how)
        return row


@dataclass(frozen=True)
class LongitudinalRows:
    """A mapping of columns to values a record; ``(reason, file:row)`` of what was left out; what a report must say."""

    values: list[dict[str, Any]]
    skipped: list[tuple[str, str]]
    notes: list[str]


def filled(cells: Iterable[str]) -> list[str | None]:
    """Cells without blanks around them; ``None`` where one holds no value."""
    from forgetmi.modalities.tabular import MISSING_WORDS

    texts = (cell.strip() for cell in cells)
    return [None if text.lower() in MISSING_WORDS else text for text in texts]


def _one(values: Sequence[Any], how: How) -> Any:
    if how == "count":
        return float(len(values))
    if how in ("last", "first"):
        return values[-1 if how == "last" else 0]
    return {"mean": lambda: math.fsum(values) / len(values), "min": lambda: min(values), "max": lambda: max(values)}[
        how
    ]()


def _each(cells: Iterable[str], read: Callable[[str], Any]) -> list[Any]:
    """What each cell holds; of many cells few are different."""
    cells = list(cells)
    meaning = {cell: read(cell) for cell in set(cells)}
    return [meaning[cell] for cell in cells]


def _value(cell: str) -> float | str | None:
    (text,) = filled([cell])
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _time(cell: str) -> _Time | None:
    """A number, or a date in days (one without a zone is taken as UTC); ``None`` where it is neither."""
    text = cell.strip()
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return (False, number) if math.isfinite(number) else None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return True, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() / 86400
