"""Sets of texts in the forms in which they are published: JSON lines, a JSON list, Parquet (also in parts), plain text.

A published set is one file, or a folder of its name with one file a split; a row is a mapping of names to values. What
is no text is refused with its file and row, and a row without a text is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from forgetmi.data_adapters.json_lines import read_json, read_json_lines
from forgetmi.delimited import base_suffix, first_places, open_text
from forgetmi.errors import DataError, MissingDependencyError, did_you_mean

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_PART = re.compile(r"(.+)-(\d+)-of-(\d+)\.parquet")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class TextTable:
    """The rows of one set.

    Attributes:
        name: the set's name and its files, for messages.
        objects: a mapping a row.
        places: ``file:row`` of each; the first row is 1 (of JSON lines: the line).
    """

    name: str
    objects: Sequence[Mapping[str, Any]]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.objects)

    def require(self, keys: Iterable[str]) -> None:
        """Raise :class:`DataError` where no row has one of the keys; all that are missing are named."""
        known = {key for row in self.objects for key in row}
        missing = [key for key in keys if key not in known]
        if missing:
            raise DataError(
                f"no row of {self.name} has {', '.join(map(repr, missing))}. {did_you_mean(missing[0], known)}",
                where=self.places[0],
                fix="check that this is the file that the option means",
            )

    def texts(self, key: str) -> list[str]:
        """A text a row, exactly as written; ``""`` where it is missing, null or blank.

        Raises:
            DataError: values that are no text (the first 100 are listed).
        """
        values = [row.get(key) for row in self.objects]
        self.refuse(key, [value is not None and not is_text(value) for value in values], "a text")
        return [value if value and value.strip() else "" for value in values]

    def ids(self, key: str) -> list[str]:
        """An id a row, blanks around it taken away; whole numbers are taken as they are written.

        Raises:
            DataError: values that are neither text nor whole numbers (the first 100 are listed).
        """
        values = [row.get(key) for row in self.objects]
        wrong = [not (v is None or is_text(v) or (isinstance(v, int) and not isinstance(v, bool))) for v in values]
        self.refuse(key, wrong, "a text, or a whole number")
        return ["" if value is None else str(value).strip() for value in values]

    def refuse(self, key: str, wrong: Sequence[bool], expected: str) -> None:
        """Raise :class:`DataError` with the rows that are marked (the first 100)."""
        if any(wrong):
            rows = [
                f"{place}: {str(row.get(key))[:60]!r}"
                for row, place, bad in zip(self.objects, self.places, wrong, strict=True)
                if bad
            ]
            raise DataError(
                f"{len(rows)} values of {key!r} in {self.name} cannot be used",
                where=rows[0].partition(": ")[0],
                expected=expected,
                private=first_places(rows),
            )

    def refuse_repeated(self, key: str, ids: Sequence[str]) -> None:
        """Raise :class:`DataError` with the rows whose id stands in another row too; blank ones are passed over."""
        first: dict[str, int] = {}
        again = [bool(name) and first.setdefault(name, i) != i for i, name in enumerate(ids)]
        if any(again):
            rows = [f"{p}: {i}" for p, i, bad in zip(self.places, ids, again, strict=True) if bad]
            raise DataError(
                f"{len(rows)} values of {key!r} in {self.name} occur more than once",
                where=self.places[again.index(True)],
                expected="one row for each",
                private=first_places(rows),
            )

    def filled(self, columns: Mapping[str, Sequence[str]], skipped: list[tuple[str, str]]) -> list[int]:
        """Positions of the rows in which no column is blank; the others are added to ``skipped`` by their reason."""
        kept = []
        for row, cells in enumerate(zip(*columns.values(), strict=True)):
            blank = next((name for name, cell in zip(columns, cells, strict=True) if not cell), None)
            if blank is None:
                kept.append(row)
            else:
                skipped.append((f"{blank} is blank", self.places[row]))
        return kept


def find_set(folders: Sequence[Path], names: Sequence[str], splits: Sequence[str] = ("train",)) -> list[Path]:
    """The file (or the parts of one) that holds a set.

    ``NAME.jsonl``, ``.ndjson``, ``.json``, ``.parquet``, ``.txt`` (the first of these that is there; all but Parquet
    also with ``.gz``), ``NAME-00000-of-00002.parquet``, or any of these of the name of a split in a folder ``NAME``.

    Args:
        folders: where to look, in this order.
        names: the set's name and other names that it was published under, in this order.
        splits: what the file in a folder of the set's name is called.

    Raises:
        DataError: it is nowhere (what is there is listed), or parts of it are missing.
    """
    for folder in folders:
        for name in names:
            if found := _named(folder, name):
                return found
            for split in splits:
                if found := _named(folder / name, split):
                    return found
    there = {_stem(path) for folder in folders if folder.is_dir() for path in folder.iterdir()}
    raise DataError(
        f"the set {names[0]} is not there. {did_you_mean(names[0], there)}",
        where=str(folders[0]),
        expected=f"{names[0]}.jsonl, .json or .parquet, or a folder {names[0]} with {splits[0]}.json",
        fix="copy the file there, unpacked; or correct the folder or the name of the set in the configuration",
    )


def read_set(paths: Sequence[Path], name: str) -> TextTable:
    """The rows of a set's file or parts, in their order. A ``.txt`` is one row, its whole content the ``text``.

    Args:
        paths: from :func:`find_set`, or one file that a user names.
        name: the set's name, for messages.

    Raises:
        DataError: unreadable, empty or not UTF-8 file, or one of another form. The message names file and row.
        MissingDependencyError: Parquet without pyarrow.
    """
    objects: list[Mapping[str, Any]] = []
    places: list[str] = []
    for path in paths:
        rows, found = _read(path)
        objects += rows
        places += found
    label = f"{name} ({', '.join(path.name for path in paths)})"
    if not objects:
        raise DataError(f"{label} holds no row", where=str(paths[0].parent))
    return TextTable(label, objects, places)


def pieces(document: str, text: str, words: int | None) -> Iterator[tuple[str, str]]:
    """(sample id, text) of a document's consecutive pieces of at most so many words; joined, they are the text.

    Args:
        document: its id. A piece's id is the document's with ``#`` and its number.
        text: with at least one word.
        words: ``None`` for the whole text under the document's own id.
    """
    if words is None:
        yield document, text
        return
    starts = [match.start() for match in _WORD.finditer(text)][::words]
    cuts = [0, *starts[1:], len(text)]
    for number, (start, end) in enumerate(pairwise(cuts)):
        yield f"{document}#{number:04d}", text[start:end]


def word_problems(words: int | None) -> list[str]:
    """What is wrong with the option ``chunk_words``."""
    return [] if words is None or words > 0 else [f"chunk_words must be at least 1, not {words}"]


def is_text(value: Any) -> bool:
    """Whether a value is text that a tokenizer takes."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # JSON can spell half of a surrogate pair
    except UnicodeEncodeError:
        return False
    return True


def _named(folder: Path, name: str) -> list[Path]:
    """The file of that name and a known suffix, or its parts; nothing where there is none."""
    for suffix in (*SUFFIXES, ".txt"):
        for path in (folder / f"{name}{suffix}", folder / f"{name}{suffix}.gz"):
            if path.is_file():
                return [path]
    matches = [(path, match) for path in sorted(folder.glob("*.parquet")) if (match := _PART.fullmatch(path.name))]
    parts = [(path, match) for path, match in matches if match[1] == name]
    if parts and (len(parts) != int(parts[0][1][3]) or [int(match[2]) for _, match in parts] != [*range(len(parts))]):
        raise DataError(
            f"of {parts[0][1][3]} parts of {name} {len(parts)} are there",
            where=str(folder),
            expected=f"{name}-00000-of-{parts[0][1][3]}.parquet and all that follow",
            private=[path.name for path, _ in parts],
        )
    return [path for path, _ in parts]


def _stem(path: Path) -> str:
    match = _PART.fullmatch(path.name)
    return match[1] if match else path.name.partition(".")[0]


def _read(path: Path) -> tuple[Sequence[Mapping[str, Any]], Sequence[str]]:
    suffix = base_suffix(path)
    if suffix == ".parquet":
        rows = _read_parquet(path)
        return rows, [f"{path.name}:{number}" for number in range(1, len(rows) + 1)]
    if suffix == ".txt":
        with open_text(path) as stream:
            return [{"text": stream.read()}], [f"{path.name}:1"]
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path.name} is no file of texts",
            where=str(path.parent),
            expected=f"a name that ends in {', '.join(SUFFIXES)} or .txt",
            fix="unpack it first" if suffix in (".xz", ".zip", ".zst", ".bz2") else None,
        )
    if suffix == ".json" and _starts_with(path) == "[":
        return _read_list(path)
    lines = read_json_lines(path)
    return lines.objects, lines.places


def _starts_with(path: Path) -> str:
    """The first character that is no blank."""
    with open_text(path) as stream:
        for line in stream:
            if text := line.strip():
                return str(text[0])
    return ""


def _read_list(path: Path) -> tuple[Sequence[Mapping[str, Any]], Sequence[str]]:
    """A JSON document that is a list: of objects, or of texts (taken as ``text``)."""
    values, name = read_json(path)
    places = [f"{name}:{number}" for number in range(1, len(values) + 1)]
    rows = [{"text": value} if isinstance(value, str) else value for value in values]
    wrong = [place for place, row in zip(places, rows, strict=True) if not isinstance(row, Mapping)]
    if wrong:
        raise DataError(
            f"{len(wrong)} items of {name} are neither an object nor a text",
            where=wrong[0],
            expected='a list of objects, such as [{"question": "...", "answer": "..."}]',
            private=first_places(wrong),
        )
    return rows, places


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError("Reading a Parquet file", "parquet") from error
    try:
        names = pq.read_schema(path).names
        if len(set(names)) < len(names):
            raise DataError(f"{path.name} has two columns of one name", where=str(path.parent))
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:  # text that is no UTF-8
        raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
    return rows
