"""Tables of a source as data frames of text: every cell as it was written, every row with its line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forgetmi.delimited import base_suffix, find_file, first_places, read_delimited
from forgetmi.errors import DataError, MissingDependencyError, did_you_mean


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str],
    ids: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> pd.DataFrame:
    """Named columns of a CSV, TSV (``.gz`` too) or Parquet file. The file is opened for reading only.

    Every cell is a ``str``, so that nothing is guessed: ``0012`` keeps its zeros, a 36-digit id its digits, and the
    word ``NA`` stays a word. A missing cell is ``""``.

    Args:
        path: the file. Where it is missing, the same name with ``.gz`` added or taken away is tried.
        columns: the columns that must be there.
        ids: those of ``columns`` and ``optional`` that hold identifiers: blanks around them are taken away, and
            Parquet numbers lose a ``.0`` that a column with gaps gave them.
        optional: columns that are read where the file has them.

    Returns:
        One row a record, in the file's order. The index (``"line"``) is the line on which the row starts (Parquet: the
        number of the row, from 1); ``DataFrame.attrs["file"]`` is the name of the file that was read.

    Raises:
        DataError: missing, unreadable, empty, not UTF-8 or ragged file, or one without a column.
        MissingDependencyError: Parquet without pyarrow.
    """
    found = find_file(path)
    if base_suffix(found) == ".parquet":
        frame = _read_parquet(found, columns, optional, ids)
    else:
        table = read_delimited(found, keep=lambda header: _choose(header, columns, optional, found))
        if not table.rows:
            raise DataError(f"{found.name} holds a header and no row", where=str(found.parent))
        index = pd.Index(table.lines, name="line")
        # object, not pandas' string type: plain Python strings on every pandas version, and "" for missing.
        frame = pd.DataFrame(np.array(table.rows, dtype=object), index, list(table.header), dtype=object)
    for name in ids:
        if name in frame:
            frame[name] = _column([cell.strip() for cell in frame[name].tolist()], frame.index)
    frame.attrs["file"] = found.name
    return frame


def places(frame: pd.DataFrame, chosen: Iterable[bool] | None = None) -> list[str]:
    """``file:row`` of the chosen rows (all by default), for messages."""
    lines = frame.index if chosen is None else frame.index[list(chosen)]
    return [f"{frame.attrs['file']}:{line}" for line in lines]


def require_unique(frame: pd.DataFrame, column: str) -> None:
    """Raise :class:`DataError`, with the rows concerned, when a filled cell of the column occurs twice."""
    if frame[column].is_unique:
        return
    counts = Counter(cell for cell in frame[column] if cell)
    repeated = [counts[cell] > 1 for cell in frame[column]]
    if any(repeated):
        listed = [
            f"{c} ({place})" for c, place in zip(frame.loc[repeated, column], places(frame, repeated), strict=True)
        ]
        raise DataError(
            f"{len({c for c, n in counts.items() if n > 1})} values of column {column!r} occur more than once",
            where=frame.attrs["file"],
            expected=f"one row for each {column}",
            private=first_places(listed),
        )


def _choose(header: Sequence[str], columns: Sequence[str], optional: Sequence[str], path: Path) -> list[str]:
    """The wanted columns that the header has, each once.

    Raises:
        DataError: a required one is missing; all that are missing are named.
    """
    missing = [name for name in dict.fromkeys(columns) if name not in header]
    if missing:
        fix = "correct the column name in the configuration or in the file"
        if len(header) == 1 and ";" in header[0]:
            fix = "the cells are separated by semicolons: export the file again with commas"
        raise DataError(
            f"{path.name} has no column {', '.join(map(repr, missing))}. {did_you_mean(missing[0], header)}",
            where=f"{path.name}:1",
            fix=fix,
        )
    return [name for name in dict.fromkeys((*columns, *optional)) if name in header]


def _read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str], ids: Sequence[str]) -> pd.DataFrame:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError("Reading a Parquet file", "parquet") from error
    try:
        wanted = _choose(pq.read_schema(path).names, columns, optional, path)
        table = pq.read_table(path, columns=wanted)
        read = {name: table.column(name).to_pylist() for name in wanted}
    except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:  # text that is no UTF-8
        raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
    if not len(table):
        raise DataError(f"{path.name} holds no row", where=str(path.parent))
    index = pd.RangeIndex(1, len(table) + 1, name="line")
    frame = pd.DataFrame(index=index)
    for name in wanted:
        cells = ["" if _is_missing(cell) else str(cell) for cell in read[name]]
        if name in ids and pa.types.is_floating(table.schema.field(name).type):
            cells = [_whole_number(cell, f"{path.name}:{row}") for row, cell in enumerate(cells, start=1)]
        frame[name] = _column(cells, index)
    return frame


def _column(cells: Sequence[str], index: pd.Index[Any]) -> pd.Series[Any]:
    """Text as it is: an array that is filled, for pandas would look at each cell again."""
    values = np.empty(len(cells), dtype=object)
    values[:] = cells
    return pd.Series(values, index=index, dtype=object)


def _is_missing(cell: object) -> bool:
    return cell is None or cell != cell  # only NaN differs from itself


def _whole_number(cell: str, place: str) -> str:
    """An id that was stored as a float. Above 2^53 it has lost digits, so it is refused and not passed on wrong."""
    if not cell:
        return cell
    value = float(cell)
    if not value.is_integer() or abs(value) >= 2**53:
        raise DataError(
            "an id column is stored as a float that is no exact whole number",
            where=place,
            fix="write id columns as text",
            private=[f"{cell} ({place})"],
        )
    return str(int(value))
