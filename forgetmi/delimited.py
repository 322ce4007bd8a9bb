"""Delimited text files (CSV, TSV, gzipped or not) as rows of strings with their line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forgetmi.errors import DataError, ForgetMIError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Delimited:
    """A delimited file's cells, exactly as written.

    Attributes:
        path: the file that was read (with or without ``.gz``).
        header: column names, stripped. Empty when the file was read with ``header=False``.
        rows: one list of cells a row, each as long as the header (or as the first row, without one).
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
    quoting: bool = True,
    error: type[ForgetMIError] = DataError,
) -> Delimited:
    """Read a whole file. A byte order mark, CRLF and blank lines are harmless; anything else odd is an error.

    Args:
        path: ``.csv``, ``.tsv``, each also with ``.gz``; where the file is missing, its twin with or without ``.gz``.
        header: whether the first row names the columns.
        quoting: whether ``"`` quotes a cell (off for files in which it is plain text).
        error: the error to raise.

    Raises:
        DataError: missing, unreadable, empty or not UTF-8 file, repeated column names, a row with more or fewer cells
            than the header (the first 100 are listed). The message names file and row.
    """
    found = find_file(path, error=error)
    delimiter = _DELIMITERS.get(base_suffix(found))
    if delimiter is None:
        raise error(f"{found.name} is no delimited file", expected=f"a name that ends in {', '.join(_DELIMITERS)}")
    style = {"delimiter": delimiter, "strict": True, "quoting": csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE}
    rows: list[list[str]] = []
    lines: list[int] = []
    with open_text(found, error) as stream:
        reader = csv.reader(stream, **style)  # type: ignore[arg-type]
        start = 1
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(start)
                start = reader.line_num + 1
        except csv.Error as problem:
            raise error(
                f"{found.name} cannot be split into cells: {problem}",
                where=f"{found.name}:{start}",
                fix="check for a quotation mark that is opened and not closed",
            ) from problem
    if not rows:
        raise error(f"{found.name} is empty", where=str(found.parent), expected="a header and at least one row")
    names = tuple(name.strip() for name in rows.pop(0)) if header else ()
    if header:
        lines.pop(0)
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise error(f"{found.name} has two columns of one name: {', '.join(repeated)}", where=f"{found.name}:1")
    width = len(names) if header else len(rows[0])
    ragged = [
        f"{found.name}:{line}: {len(row)} cells" for line, row in zip(lines, rows, strict=True) if len(row) != width
    ]
    if ragged:
        raise error(
            f"{len(ragged)} rows of {found.name} have more or fewer cells than its first row",
            where=ragged[0].rpartition(":")[0],
            expected=f"{width} cells, separated by {'a tab' if delimiter == chr(9) else 'a comma'}",
            fix='put cells that hold the separator between quotation marks ("a, b")',
            private=first_places(ragged),
        )
    return Delimited(found, names, rows, lines)


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
