"""What the cells of a table mean: split names, findings that are -1, 0, 1 or blank, files that must exist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from forgetmi.data_adapters.tables import places
from forgetmi.delimited import first_places
from forgetmi.errors import DataError, did_you_mean
from forgetmi.records import Label

UncertainPolicy = Literal["unknown", "zero", "one"]
BlankPolicy = Literal["unknown", "zero"]
MissingFilePolicy = Literal["error", "skip"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_POLICY: dict[str, float | None] = {"unknown": None, "zero": 0.0, "one": 1.0}


def read_splits(frame: pd.DataFrame, column: str) -> list[str]:
    """A column of split names as ``train``, ``validation``, ``test``.

    Raises:
        DataError: cells that name no split; they are listed with their rows (the first 100).
    """
    given = [cell.strip().lower() for cell in frame[column].tolist()]
    refuse_cells(frame, column, [cell not in SPLIT_NAMES for cell in given], f"one of {', '.join(SPLIT_NAMES)}")
    return [SPLIT_NAMES[cell] for cell in given]


def read_findings(
    frame: pd.DataFrame, columns: Sequence[str], *, uncertain: UncertainPolicy, blank: BlankPolicy
) -> list[tuple[float | None, ...]]:
    """Findings a row: 1 (present), 0 (absent), -1 (uncertain) and blank (not mentioned), under named policies.

    Args:
        frame: the table.
        columns: one a finding.
        uncertain: what -1 becomes: ``unknown`` (``None``), ``zero`` or ``one``.
        blank: what a blank cell becomes: ``unknown`` (``None``) or ``zero``.

    Raises:
        DataError: cells that are none of the four; they are listed with their rows (the first 100).
    """
    policy = {None: _POLICY[blank], -1.0: _POLICY[uncertain], 0.0: 0.0, 1.0: 1.0}
    expected = "1, 0, -1 (uncertain) or blank (not mentioned)"
    rows = list(zip(*(frame[column].tolist() for column in columns), strict=True))
    different = list(dict.fromkeys(rows))  # few, of many rows: each is read once, and its values are kept once
    read = []
    for column, cells in zip(columns, zip(*different, strict=True), strict=True):
        number = {cell: _number(cell) for cell in set(cells)}
        unknown = {cell for cell, value in number.items() if value not in (-1, 0, 1, None)}
        refuse_cells(frame, column, [cell in unknown for cell in frame[column]] if unknown else [], expected)
        read.append([policy[number[cell]] for cell in cells])
    meaning = dict(zip(different, zip(*read, strict=True), strict=True))
    return [meaning[row] for row in rows]


def read_targets(
    frame: pd.DataFrame,
    findings: Sequence[str],
    target: str | None,
    *,
    uncertain: UncertainPolicy,
    blank: BlankPolicy,
) -> list[Label]:
    """A label a row, from columns of findings: a value for each of them, or the class of one.

    Args:
        frame: the table, with a column a finding.
        findings: all of them, in the order of the label's values.
        target: one of them, as class 0 (absent) or 1 (present); ``None`` for all, as a multilabel target.
        uncertain, blank: as in :func:`read_findings`.

    Returns:
        ``None`` where the target, or every finding, is unknown.
    """
    columns = findings if target is None else (target,)
    rows = read_findings(frame, columns, uncertain=uncertain, blank=blank)
    if target is not None:
        return [None if value is None else int(value) for (value,) in rows]
    unknown = (None,) * len(columns)
    return [None if row == unknown else row for row in rows]


def target_classes(findings: Sequence[str], target: str | None) -> tuple[str, ...]:
    """The names of the classes, or of the labels, that :func:`read_targets` gives."""
    return tuple(findings) if target is None else (f"{target}: no", f"{target}: yes")


def target_problems(findings: Sequence[str], target: str | None) -> list[str]:
    """What is wrong with the option ``target``."""
    if target is None or target in findings:
        return []
    return [f"target {target!r} is unknown. {did_you_mean(target, findings)}"]


def refuse_cells(frame: pd.DataFrame, column: str, wrong: Sequence[bool], expected: str) -> None:
    """Raise :class:`DataError` with the rows that are marked as wrong (the first 100)."""
    if any(wrong):
        cells = [cell for cell, is_wrong in zip(frame[column], wrong, strict=True) if is_wrong]
        raise DataError(
            f"{len(cells)} cells of column {column!r} cannot be used",
            where=frame.attrs["file"],
            expected=expected,
            private=first_places([f"{at}: {cell!r}" for at, cell in zip(places(frame, wrong), cells, strict=True)]),
        )


def missing_files(
    paths: Sequence[str | None],
    where: Sequence[str],
    what: str,
    policy: MissingFilePolicy,
    missing: list[bool] | None = None,
) -> list[bool]:
    """Which files are not there (``None`` is no file, so nothing is missing).

    Args:
        paths: the files.
        where: ``file:row`` of each.
        what: what they are, for the message.
        policy: ``error`` or ``skip`` (the caller then leaves the rows out and counts them).
        missing: which are not there, where the caller has looked already: half a million looks take seconds.

    Raises:
        DataError: under ``error``, with the missing files and their rows (the first 100); under both, when
            none of the files exists (the first ten are listed), for then the folder is wrong.
    """
    if missing is None:
        missing = [path is not None and not os.path.isfile(path) for path in paths]
    asked = [path for path in paths if path is not None]
    if asked and sum(missing) == len(asked):
        raise DataError(
            f"none of the {len(asked)} {what} exists",
            fix="check the folder in the configuration",
            private=[f"{row}: {path}" for path, row in zip(paths, where, strict=True) if path is not None][:10],
        )
    if policy == "error" and any(missing):
        raise DataError(
            f"{sum(missing)} of {len(asked)} {what} are missing",
            fix='copy them, or set on_missing_file to "skip": their rows are then left out and counted',
            private=first_places([f"{row}: {p}" for p, row, gone in zip(paths, where, missing, strict=True) if gone]),
        )
    return missing


def _number(cell: str) -> float | None:
    """The number in a cell, ``None`` for a blank one, NaN for what is no number."""
    if not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        return float("nan")
