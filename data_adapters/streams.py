"""Large tables, a row at a time: an EHR's laboratory table does not fit into memory as text."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from forgetmi.delimited import base_suffix, find_file, open_text
from forgetmi.errors import DataError, MissingDependencyError, did_you_mean

_INTEGER = re.compile(r"(-?[0-9]+)(\.0*)?")
Row = tuple[str, list[str]]


def stream_table(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    optional: Sequence[str] = (),
    *,
    delimiter: str | None = None,
) -> Iterator[Row]:
    """The rows of a CSV, TSV (``.gz`` too) or Parquet file: ``file:row`` and the cells of the columns, in their order.

    Column names are compared in lower case. Cells are text, exactly as written, blank where missing; an optional
    column that the file lacks is blank throughout.

    Args:
        path: the file. Where it is missing, the same name with ``.gz`` added or taken away is tried.
        columns: the columns that must be there.
        optional: columns that are read where the file has them.
        delimiter: between cells; by default what the file's name says.

    Raises:
        DataError: missing, unreadable or not UTF-8 file, one without a column, or a row of another width.
        MissingDependencyError: Parquet without pyarrow.
    """
    found = find_file(path)
    if base_suffix(found) == ".parquet":
        yield from _stream_parquet(found, columns, optional)
    else:
        yield from _stream_delimited(found, columns, optional, delimiter)


def positions(header: Sequence[str], columns: Sequence[str], optional: Sequence[str], where: str) -> list[int | None]:
    """Where each column stands in a header, compared in lower case; ``None`` for an optional one that is not there.

    Raises:
        DataError: required columns are missing (all are named), or a name stands there twice.
    """
    names = [name.strip().lower() for name in header]
    missing = [name for name in columns if name not in names]
    if missing:
        raise DataError(
            f"{where} has no column {', '.join(map(repr, missing))}. {did_you_mean(missing[0], names)}",
            where=f"{where}:1",
        )
    wanted = [*columns, *optional]
    if twice := sorted({name for name in wanted if names.count(name) > 1}):
        raise DataError(f"{where} has two columns of one name: {', '.join(twice)}", where=f"{where}:1")
    return [names.index(name) if name in names else None for name in wanted]


def whole_id(cell: str, place: str) -> str:
    """An integer id as text: ``10000032``, ``-5`` and, where a program made a float of it, ``10000032.0``.

    Raises:
        DataError: it is no whole number, or a float so large that it has lost digits.
    """
    text = cell.strip()
    if not text:
        return ""
    match = _INTEGER.fullmatch(text)
    if match is None or (match[2] and abs(int(match[1])) >= 2**53):
        raise DataError(
            "an id is no exact whole number",
            where=place,
            expected="an integer; above 2^53 a float has lost digits and would name somebody else",
            fix="export the id columns as integers or text",
            private=[f"{place}: {cell!r}"],
        )
    return str(int(match[1]))


def _stream_delimited(
    path: Path, columns: Sequence[str], optional: Sequence[str], delimiter: str | None
) -> Iterator[Row]:
    delimiter = delimiter or {".csv": ",", ".tsv": "\t"}.get(base_suffix(path))
    if delimiter is None:
        raise DataError(f"{path.name} is no table", expected="a name that ends in .csv, .tsv or .parquet")
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        start = 1
        try:
            header = next(reader, None)
            if header is None:
                raise DataError(f"{path.name} is empty", where=str(path.parent))
            where = positions(header, columns, optional, path.name)
            width = len(header)
            start = reader.line_num + 1
            for row in reader:
                place, start = f"{path.name}:{start}", reader.line_num + 1
                if not row:
                    continue
                if len(row) != width:
                    raise DataError(
                        f"a row of {path.name} has {len(row)} cells", where=place, expected=f"{width} cells"
                    )
                yield place, ["" if at is None else row[at] for at in where]
        except csv.Error as error:
            raise DataError(
                f"{path.name} cannot be split into cells: {error}",
                where=f"{path.name}:{start}",
                fix="check for a quotation mark that is opened and not closed",
            ) from error


def _stream_parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError("Reading a Parquet file", "parquet") from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            where = positions(names, columns, optional, path.name)
            number = 0
            for batch in file.iter_batches(columns=[names[at] for at in where if at is not None]):
                read = {name: as_text(batch.column(name).to_pylist()) for name in batch.schema.names}
                cells = [[""] * len(batch) if at is None else read[names[at]] for at in where]
                for row in zip(*cells, strict=True):
                    number += 1
                    yield f"{path.name}:{number}", list(row)
    except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:  # text that is no UTF-8
        raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error


def as_text(values: Sequence[object]) -> list[str]:
    """Cells as text; ``None`` and NaN as blanks."""
    return ["" if value is None or value != value else str(value) for value in values]
