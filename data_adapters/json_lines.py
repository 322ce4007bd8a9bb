"""Files of JSON: one object a line (``.json``, ``.jsonl``, ``.ndjson``) or one document, each also gzipped."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from forgetmi.delimited import find_file, first_places
from forgetmi.errors import DataError


@dataclass(frozen=True)
class JsonLines:
    """The objects of a file.

    Attributes:
        name: the file's name.
        objects: one a line that is not blank.
        lines: the line of each; the first line of the file is 1.
    """

    name: str
    objects: Sequence[dict[str, Any]]
    lines: Sequence[int]

    @property
    def places(self) -> list[str]:
        """``file:line`` of each object."""
        return [f"{self.name}:{line}" for line in self.lines]


def read_json_lines(path: str | os.PathLike[str]) -> JsonLines:
    """One JSON object a line; blank lines are harmless.

    Args:
        path: the file. Where it is missing, the same name with ``.gz`` added or taken away is tried.

    Raises:
        DataError: missing, unreadable, empty or not UTF-8 file, or lines that are no JSON object (the first 100).
    """
    found = find_file(path)
    objects: list[dict[str, Any]] = []
    lines: list[int] = []
    wrong: list[str] = []
    with _open_text(found) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            value = _parse(line)
            if isinstance(value, dict):
                objects.append(value)
                lines.append(number)
            else:
                wrong.append(f"{found.name}:{number}")
    if wrong:
        raise DataError(
            f"{len(wrong)} lines of {found.name} are no JSON object",
            where=wrong[0],
            expected="one JSON object a line",
            private=first_places(wrong),
        )
    if not objects:
        raise DataError(f"{found.name} is empty", where=str(found.parent), expected="one JSON object a line")
    return JsonLines(found.name, objects, lines)


def read_json(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """A whole file as one JSON value, and the name of the file that was read.

    Raises:
        DataError: missing, unreadable or not UTF-8 file, or no JSON; the message names the line.
    """
    found = find_file(path)
    try:
        with _open_text(found) as stream:
            return json.load(stream), found.name
    except json.JSONDecodeError as error:
        raise DataError(f"{found.name} is no JSON: {error.msg}", where=f"{found.name}:{error.lineno}") from error
    except RecursionError as error:
        raise DataError(f"{found.name} is nested too deeply to be read", where=found.name) from error
    except ValueError as error:
        raise DataError(f"{found.name} cannot be read: {error}", where=found.name) from error


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # also a number of more digits than Python reads
        return None


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix.lower() == ".gz"
            else path.open(encoding="utf-8-sig") as stream
        ):
            yield stream
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text", where=path.name, fix="save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
