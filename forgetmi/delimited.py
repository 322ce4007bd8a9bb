"""Delimited text files (CSV, TSV, gzipped or not) as rows of strings with their line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from forgetmi.errors import DataError, ForgetMIError

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_CHUNK = 20_000  # rows


@dataclass(frozen=True)
class Delimited:
    """A delimited file's cells, exactly as written.

    Attributes:
        path: the file that was read (with or without ``.gz``).
        header: column names, stripped, of the columns that were kept. Empty when the file was read with
            ``header=False``.
        rows: one sequence of cells a row, each as long as the header (or as the first row, without one).
        lines: the line on which each row starts; the first line of the file is 1.
    """

    path: Path
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]


def base_suffix(path: Path) -> str:
    """The suffix without ``.gz``, in lower case: ``.csv`` for ``a.csv.gz``."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def first_places(lines: Sequence[str], limit: int = 100) -> list[str]:
    """The first lines of a listing and how many more there are: a wrong column of 377,110 rows is still readable."""
    more = len(lines) - limit
    return [*lines[:limit], *([f"... and {more} more"] if more > 0 else [])]


def find_file(path: str | os.PathLike[str], *, error: type[ForgetMIError] = DataError) -> Path:
    """The path, or the same with ``.gz`` added or taken away, whichever is a file (the given one first).

    Raises:
        DataError: neither is there (or ``error``).
    """
    given = Path(path)
    other = given.with_suffix("") if given.suffix.lower() == ".gz" else given.with_name(f"{given.name}.gz")
    for candidate in (given, other):
        if candidate.is_file():
            return candidate
    raise error(
        f"there is no file {given.name}",
        where=str(given.parent),
        expected=f"{given.name} or {other.name}",
        fix="correct the path, or copy the file there",
    )


def read_delimited(
    path: str | os.PathLike[str],
    *,
    header: bool = True,
    keep: Callable[[Sequence[str]], Sequence[str]] | None = None,
    quoting: bool = True,
    delimiter: str | None = None,
    error: type[ForgetMIError] = DataError,
) -> Delimited:
    """Read a whole file. A byte order mark, CRLF and blank lines are harmless; anything else odd is an error.

    Args:
        path: ``.csv``, ``.tsv``, each also with ``.gz``; where the file is missing, its twin with or without ``.gz``.
        header: whether the first row names the columns.
        keep: from the header to the columns that are kept, all by default: a large table of many columns is not held in
            memory for the sake of two.
        quoting: whether ``"`` quotes a cell (off for files in which it is plain text).
        delimiter: between cells; by default what the file's name says. A file of which it is given may
            begin with lines of comment (``#``).
        error: the error to raise.

    Raises:
        DataError: missing, unreadable, empty or not UTF-8 file, repeated column names, a row with more or fewer cells
            than the header (the first 100 are listed). The message names file and row.
    """
    found = find_file(path, error=error)
    comments = delimiter is not None
    delimiter = delimiter or _DELIMITERS.get(base_suffix(found))
    if delimiter is None:
        raise error(f"{found.name} is no delimited file", expected=f"a name that ends in {', '.join(_DELIMITERS)}")
    style: dict[str, Any] = {
        "delimiter": delimiter,
        "strict": True,
        "quoting": csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
    }
    ragged: list[str] = []
    with open_text(found, error) as stream:
        reader, first, start = _first_row(stream, found, style, error, comments)
        names = _names(found, first, start, error) if header else ()
        kept = names if keep is None else tuple(keep(names))
        pick = _picker(names, kept)
        plain = _plain_rows(reader, len(first), pick)
    rows: list[tuple[str, ...]]
    lines: Sequence[int]
    if plain is not None:
        rows, lines = plain
    else:
        with open_text(found, error) as stream:
            reader, first, start = _first_row(stream, found, style, error, comments)
            rows, lines, ragged = _rows(reader, found, len(first), pick, error)
    if not header:
        rows, lines = [tuple(first), *rows], [start, *lines]
    if ragged:
        raise error(
            f"{len(ragged)} rows of {found.name} have more or fewer cells than its first row",
            where=ragged[0].rpartition(":")[0],
            expected=f"{len(first)} cells, separated by {SEPARATORS.get(delimiter, repr(delimiter))}",
            fix='put cells that hold the separator between quotation marks ("a, b")',
            private=first_places(ragged),
        )
    return Delimited(found, kept, rows, lines)


def _first_row(
    stream: Any, path: Path, style: Mapping[str, Any], error: type[ForgetMIError], comments: bool = False
) -> tuple[Any, list[str], int]:
    """A reader that stands behind the first row that is not blank (nor a comment), that row, and its line."""
    reader = csv.reader(stream, **style)
    start = 1
    try:
        for row in reader:
            if row and not (comments and row[0].startswith("#")):
                return reader, row, start
            start = reader.line_num + 1
    except csv.Error as problem:
        raise _no_cells(path, start, problem, error) from problem
    raise error(f"{path.name} is empty", where=str(path.parent), expected="a header and at least one row")


def _names(path: Path, first: Sequence[str], line: int, error: type[ForgetMIError]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in first)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise error(f"{path.name} has two columns of one name: {', '.join(repeated)}", where=f"{path.name}:{line}")
    return names


def _picker(names: Sequence[str], kept: Sequence[str]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """From a row's cells to those of the columns that are kept."""
    where = [names.index(name) for name in kept]
    if where == list(range(len(names))):
        return tuple  # tuples of text are nothing to the garbage collector, lists are
    if len(where) == 1:
        (only,) = where
        return lambda row: (row[only],)
    pick: Callable[[Sequence[str]], tuple[Any, ...]] = itemgetter(*where)
    return pick


def _rows(
    reader: Any,
    path: Path,
    width: int,
    pick: Callable[[Sequence[str]], tuple[str, ...]],
    error: type[ForgetMIError],
) -> tuple[list[tuple[str, ...]], list[int], list[str]]:
    """Cells and line of each row, and ``file:row: cells`` of rows of another width."""
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    ragged: list[str] = []
    start = reader.line_num + 1
    try:
        for row in reader:
            if len(row) == width:
                rows.append(pick(row))
                lines.append(start)
            elif row:
                ragged.append(f"{path.name}:{start}: {len(row)} cells")
            start = reader.line_num + 1
    except csv.Error as problem:
        raise _no_cells(path, start, problem, error) from problem
    return rows, lines, ragged


def _plain_rows(
    reader: Any, width: int, pick: Callable[[Sequence[str]], tuple[str, ...]]
) -> tuple[list[tuple[str, ...]], range] | None:
    """What :func:`_rows` returns, in half the time; ``None`` unless each row is one line of the right width."""
    rows: list[tuple[str, ...]] = []
    start = reader.line_num + 1
    try:
        while chunk := list(islice(reader, _CHUNK)):
            rows += map(pick, chunk)
            if reader.line_num + 1 - start != len(rows) or {*map(len, chunk)} != {width}:
                return None
    except (csv.Error, IndexError):
        return None
    return rows, range(start, start + len(rows))


def _no_cells(path: Path, line: int, problem: csv.Error, error: type[ForgetMIError]) -> ForgetMIError:
    return error(
        f"{path.name} cannot be split into cells: {problem}",
        where=f"{path.name}:{line}",
        fix="check for a quotation mark that is opened and not closed",
    )


@contextmanager
def open_text(path: Path, error: type[ForgetMIError] = DataError) -> Iterator[io.TextIOBase]:
    """A UTF-8 file (``.gz`` too) for reading; what goes wrong while it is read becomes ``error``."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        # "utf-8-sig" takes away the byte order mark that spreadsheet programs write.
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as problem:
        raise error(
            f"{path.name} is not UTF-8 text",
            where=f"{path.name}:{_first_bad_line(path)}",
            fix="save it as UTF-8 (spreadsheet programs: 'CSV UTF-8')",
        ) from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise error(f"{path.name} cannot be read: {problem}", where=str(path.parent)) from problem


def _first_bad_line(path: Path) -> int:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as stream:
        for line, raw in enumerate(stream, start=1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 1
