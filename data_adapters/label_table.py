"""Labels and splits that stand in a table of their own, keyed by an id of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ConfigDict

from forgetmi.data_adapters.cells import BlankPolicy, UncertainPolicy, read_findings, read_splits, refuse_cells
from forgetmi.data_adapters.tables import places, read_table, require_unique
from forgetmi.delimited import first_places
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import Label


@dataclass(frozen=True)
class LabelTable:
    """A CSV, TSV (``.gz`` too) or Parquet file with one row an id.

    Attributes:
        path: the file.
        id_column: its column of ids.
        ids: what these ids are; the adapter says which kinds it knows.
        label: the label's column; several for ``multilabel``.
        kind: ``multiclass`` (class names, or indices into ``classes``), ``ordinal`` (so too, ``classes`` given, lowest
            first) or ``multilabel`` (each column 1, 0, -1 or blank).
        classes: class names in index order; by default those that are found, sorted.
        split: a column of train, validation, test: the split that the original model was trained with.
        uncertain, blank: multilabel: what -1 and a blank cell become, ``unknown``, ``zero`` (or, for -1, ``one``).
    """

    path: Path
    id_column: str
    ids: str
    label: str | tuple[str, ...]
    kind: Literal["multiclass", "ordinal", "multilabel"] = "multiclass"
    classes: tuple[str, ...] | None = None
    split: str | None = None
    uncertain: UncertainPolicy = "unknown"
    blank: BlankPolicy = "unknown"

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        problems = []
        if self.kind != "multilabel" and len(self._columns) != 1:
            problems.append(f"labels.label: kind {self.kind} needs one column, not {len(self._columns)}")
        if self.kind == "ordinal" and self.classes is None:
            problems.append("labels.classes: kind ordinal needs the class names in their order")
        if self.classes is not None and (not self.classes or len(set(self.classes)) < len(self.classes)):
            problems.append("labels.classes: names must be given, each once")
        if self.kind == "multilabel" and self.classes is not None and len(self.classes) != len(self._columns):
            problems.append(f"labels.classes: {len(self.classes)} names for {len(self._columns)} label columns")
        if problems:
            raise ConfigError(problems)

    @property
    def _columns(self) -> tuple[str, ...]:
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    def join(self, keys: Sequence[Sequence[str]], patients: Sequence[str]) -> JoinedLabels:
        """Labels and splits for records.

        Args:
            keys: the ids of each record under which the table may know it.
            patients: the patient of each record.

        Returns:
            Label (``None`` where the table has none) and split a record.

        Raises:
            DataError: a file, column or cell that cannot be used; an id twice; an id that belongs to records of more
                than one patient, which would label a stranger; rows of one record that differ; or not one record in
                the table.
        """
        extra = [self.split] if self.split else []
        frame = read_table(self.path, columns=[self.id_column, *self._columns, *extra], ids=[self.id_column])
        require_unique(frame, self.id_column)
        if self.kind == "multilabel":
            rows = read_findings(frame, self._columns, uncertain=self.uncertain, blank=self.blank)
            labels: list[Label] = [None if all(v is None for v in row) else row for row in rows]
            classes = self.classes or self._columns
        else:
            classes, labels = class_labels(frame, self._columns[0], self.classes)
        splits = read_splits(frame, self.split) if self.split else ["train"] * len(frame)
        row_of = {cell: row for row, cell in enumerate(frame[self.id_column]) if cell}
        rows_of = [list(dict.fromkeys(row_of[key] for key in keys_of if key in row_of)) for keys_of in keys]
        differ = {row for found in rows_of if len({(labels[r], splits[r]) for r in found}) > 1 for row in found}
        if differ:
            raise DataError(
                f"{len(differ)} rows of {frame.attrs['file']} name the same patient or study by its different ids, and "
                "differ",
                where=frame.attrs["file"],
                fix="leave one row a patient or study",
                private=first_places([place for row, place in enumerate(places(frame)) if row in differ]),
            )
        chosen = [next(iter(found), None) for found in rows_of]
        if row_of and not any(row is not None for row in chosen):
            raise DataError(
                f"none of the {len(row_of)} ids of {frame.attrs['file']} is one of the source's {self.ids}",
                where=f"{frame.attrs['file']}:1",
                fix="check id_column and ids; ids are compared as exact text",
            )
        owner: dict[int, str] = {}
        strange = {
            row
            for row, patient in zip(chosen, patients, strict=True)
            if row is not None and owner.setdefault(row, patient) != patient
        }
        if strange:
            listed = [place for row, place in enumerate(places(frame)) if row in strange]
            raise DataError(
                f"{len(strange)} ids of {frame.attrs['file']} belong to more than one patient of the source",
                where=frame.attrs["file"],
                expected="ids that name one patient each",
                fix="key the table by another id (StudyInstanceUID, or the patient's id with its issuer)",
                private=first_places(listed),
            )
        unused = len(frame) - len({row for found in rows_of for row in found})
        notes = [f"{unused} of {len(frame)} rows of the label table name nothing in the data"] if unused else []
        return JoinedLabels(
            tuple(classes),
            [None if row is None else labels[row] for row in chosen],
            ["train" if row is None else splits[row] for row in chosen],
            notes,
        )


@dataclass(frozen=True)
class JoinedLabels:
    """Class names, and a label and a split a record; ``notes`` counts the rows that were not used."""

    classes: tuple[str, ...]
    labels: list[Label]
    splits: list[str]
    notes: list[str]


def class_labels(frame: pd.DataFrame, column: str, classes: Sequence[str] | None) -> tuple[tuple[str, ...], list[Any]]:
    """Class names, and the index of each row's class; ``None`` where the cell is blank.

    Args:
        frame: the table.
        column: holds class names, or indices into ``classes``.
        classes: names in index order; by default those that are found, sorted (as numbers, where all are).

    Raises:
        DataError: cells of unknown classes, all listed with their rows.
    """
    cells = [_whole(cell.strip()) for cell in frame[column]]
    found = set(cells) - {""}
    names = list(classes or sorted(found, key=int if all(cell.isdigit() for cell in found) else str))
    index: dict[str, Label] = {}
    if not any(name.isdigit() for name in names):
        index.update((str(i), i) for i in range(len(names)))
    index.update((name, i) for i, name in enumerate(names))
    expected = f"one of {', '.join(names)}" + (f", or 0 to {len(names) - 1}" if "0" in index else "")
    refuse_cells(frame, column, [cell not in index and cell != "" for cell in cells], expected)
    return tuple(names), [index.get(cell) for cell in cells]


def _whole(cell: str) -> str:
    """``"2.0"`` as ``"2"``: programs write integers so when a column has gaps."""
    return cell[:-2] if cell.endswith(".0") and cell[:-2].lstrip("-").isdigit() else cell
