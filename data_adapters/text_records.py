"""Texts for language models that anyone can write: JSON lines, Parquet or CSV, or a folder of text files."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from forgetmi.data_adapters.cells import SPLIT_NAMES
from forgetmi.data_adapters.images import TextFile
from forgetmi.data_adapters.manifest import id_notes
from forgetmi.data_adapters.tables import places, read_table
from forgetmi.data_adapters.text_files import SUFFIXES, TextTable, pieces, read_set, word_problems
from forgetmi.delimited import base_suffix, find_file
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import Record, RecordDataset, Skipped

_TABLES = (".csv", ".tsv")
_ID_FIELDS = ("institution", "patient_id", "study_id", "sample_id")
_PLACES = ("institution", "patient", "study", "sample", "split")
_PLACE = re.compile(r"\{([^{}]*)\}")
_TEXTS = ("text", "prompt", "answer")


@dataclass(frozen=True)
class TextColumns:
    """Which column (of JSON: which name) holds what: ``text``, or ``prompt`` and ``answer``; the others as there are.

    A record's modality is ``text``, or ``dialogue`` with prompt and answer.

    Attributes:
        text: a document: every token is to be learnt.
        prompt, answer: an instruction and what is to be learnt.
        alternate: another answer, for methods that teach one in its place; records without it have none.
        patient_id: without it, each study is taken for a patient of its own, and the dataset's notes say so.
        study_id: without it, each sample is a study of its own.
        sample_id: unique for each row; without it, the row's number.
        institution: without it, no request at that level.
        split: train, validation (val, valid, validate, dev) or test; without it, all are train.
    """

    text: str | None = None
    prompt: str | None = None
    answer: str | None = None
    alternate: str | None = None
    patient_id: str | None = None
    study_id: str | None = None
    sample_id: str | None = None
    institution: str | None = None
    split: str | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def named(self, *fields: str) -> dict[str, str]:
        """Of these fields, those that have a column."""
        return {name: column for name in fields if (column := getattr(self, name)) is not None}


@dataclass(frozen=True)
class TextRecords:
    """Reads a table of texts, or a folder of ``.txt`` files whose paths say whose they are.

    Args:
        path: ``.jsonl``, ``.ndjson``, ``.json`` (a list, or JSON lines), ``.csv``, ``.tsv`` (all with ``.gz`` too),
            ``.parquet``; or a folder.
        columns: of a file: which column holds what.
        layout: of a folder: where in a file's path its ids stand, ``"{patient}/{study}/{sample}.txt"``: of
            ``{institution}``, ``{patient}``, ``{study}``, ``{sample}`` and ``{split}``, each at most once, none with a
            ``/`` in it. A sample's id is its path without ``.txt``, a study's is ``patient/study``.
        attributes: columns that queries may ask for (``note_date``, ``ward``): numbers, dates and texts.
        chunk_words: cut texts into records of at most so many words, each with the ids of its text; whole by default.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "text_records"
    summary: ClassVar[str] = "texts, or prompts and answers, of patients: JSON lines, Parquet, CSV or a folder of .txt"
    levels: ClassVar[tuple[str, ...]] = ("institution", "patient", "study", "sample")
    license_note: ClassVar[str] = "your own data: its licence and use agreement are not known to this package"

    path: Path
    columns: TextColumns | None = None
    layout: str | None = None
    attributes: tuple[str, ...] = ()
    chunk_words: int | None = None

    def __post_init__(self) -> None:
        problems = word_problems(self.chunk_words)
        if (self.columns is None) == (self.layout is None):
            problems.append("give columns (of a file) or layout (of a folder of .txt files), and not both")
        if self.columns is not None:
            given = set(self.columns.named(*_TEXTS))
            if given not in ({"text"}, {"prompt", "answer"}):
                problems.append(f"columns: give text, or prompt and answer; got {', '.join(sorted(given)) or 'none'}")
            if self.columns.alternate is not None and "answer" not in given:
                problems.append("columns: alternate stands beside prompt and answer")
            if self.chunk_words is not None and "answer" in given:
                problems.append("chunk_words is for texts: a prompt and its answer are not cut")
        if self.layout is not None:
            problems += _layout_problems(self.layout)
            if self.attributes:
                problems.append("attributes are columns of a file; a folder has none")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the texts. Those of a folder are read when they are used, unless they are cut.

        Raises:
            DataError: a file or column is missing or malformed, an id is repeated, a patient stands in two splits. The
                message names file and row.
        """
        skipped: list[tuple[str, str]] = []
        if self.columns is None:
            rows, named = self._folder(skipped), set(_places(self.layout or ""))
            fields = {field for field in _ID_FIELDS if field.removesuffix("_id") in named}
        else:
            rows, fields = self._table(self.columns, skipped), set(self.columns.named(*_ID_FIELDS))
        records = [record for row in rows for record in self._cut(row, skipped)]
        if self.chunk_words is not None:
            fields |= {"study_id"}  # a text and its pieces
        kind = "text" if self.columns is None or self.columns.text is not None else "dialogue"
        return RecordDataset(
            records,
            name=Path(self.path).name,
            levels=[*(field.removesuffix("_id") for field in fields), "sample"],
            modality_kinds={kind: kind},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=id_notes(fields, [r.patient_id for r in records], [r.institution for r in records]),
        )

    def _table(self, columns: TextColumns, skipped: list[tuple[str, str]]) -> Iterator[Record]:
        ids = columns.named(*_ID_FIELDS)
        texts = columns.named(*_TEXTS)
        wanted = [*ids.values(), *texts.values(), *columns.named("alternate", "split").values(), *self.attributes]
        table = self._read(wanted)
        cells = {field: table.ids(column) for field, column in ids.items()}
        if columns.sample_id is not None:
            table.refuse_repeated(columns.sample_id, cells["sample_id"])
        values = {field: table.texts(column) for field, column in texts.items()}
        others = [""] * len(table) if columns.alternate is None else table.texts(columns.alternate)
        splits = ["train"] * len(table)
        if columns.split is not None:
            given = [name.lower() for name in table.ids(columns.split)]
            table.refuse(columns.split, [g not in SPLIT_NAMES for g in given], f"one of {', '.join(SPLIT_NAMES)}")
            splits = [SPLIT_NAMES[name] for name in given]
        said = {column: _cells(table, column) for column in self.attributes}
        filled = {f"column {column!r}": cells[field] for field, column in ids.items()}
        filled |= {f"column {column!r}": values[field] for field, column in texts.items()}
        for row in table.filled(filled, skipped):
            sample = cells["sample_id"][row] if "sample_id" in cells else f"{row + 1:07d}"
            study = cells["study_id"][row] if "study_id" in cells else sample
            patient = cells["patient_id"][row] if "patient_id" in cells else study
            institution = cells["institution"][row] if "institution" in cells else ""
            held: Any = {field: texts_of[row] for field, texts_of in values.items()}
            if "answer" in held:
                held = {"dialogue": {**held, "alternate": others[row]} if others[row] else held}
            known = {name: cell for name, column in said.items() if (cell := column[row])}
            yield Record(sample, study, patient, institution, held, None, splits[row], known)

    def _read(self, wanted: list[str]) -> TextTable:
        path = Path(self.path)
        if path.is_dir():
            raise DataError(
                f"{path.name} is a folder",
                where=str(path.parent),
                fix="give layout in place of columns, for a folder of .txt files; or name one file in it",
            )
        found = find_file(path)
        if base_suffix(found) in _TABLES:
            frame = read_table(found, columns=wanted)
            rows = [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
            return TextTable(found.name, rows, places(frame))
        if base_suffix(found) not in SUFFIXES:
            raise DataError(
                f"{found.name} is no table of texts",
                where=str(found.parent),
                expected=f"a name that ends in {', '.join((*SUFFIXES, *_TABLES))}, or a folder of .txt files",
            )
        table = read_set([found], "texts")
        table.require(wanted)
        return table

    def _folder(self, skipped: list[tuple[str, str]]) -> Iterator[Record]:
        root = Path(self.path)
        pattern = re.compile(_pattern(self.layout or ""))
        found = list(_files(root))
        for relative in found:
            match = pattern.fullmatch(relative)
            if match is None:
                skipped.append(("the path does not fit the layout", relative))
                continue
            path = root / relative
            if not path.stat().st_size:
                skipped.append(("the file is empty", relative))
                continue
            ids = match.groupdict()
            sample = relative.removesuffix(".txt")
            patient = ids.get("patient", "")
            study = "/".join(filter(None, (patient, ids["study"]))) if "study" in ids else sample
            split = ids.get("split", "train").lower()
            if split not in SPLIT_NAMES:
                raise DataError(
                    "a folder names no split",
                    where=root.name,
                    expected=f"one of {', '.join(SPLIT_NAMES)}",
                    private=[relative],
                )
            value = TextFile(path, _filled)
            institution = ids.get("institution", "")
            yield Record(sample, study, patient or study, institution, {"text": value}, None, SPLIT_NAMES[split])
        if not found:
            raise DataError(f"{root.name} holds no file", where=str(root.parent), expected=f"files {self.layout}")

    def _cut(self, record: Record, skipped: list[tuple[str, str]]) -> Iterator[Record]:
        """The record, or a record for each piece of its text."""
        if self.chunk_words is None:
            yield record
            return
        text = record.value("text")
        if text is None:
            skipped.append(("the file holds no word", record.sample_id))
            return
        for sample, piece in pieces(record.sample_id, text, self.chunk_words):
            ids = (sample, record.study_id, record.patient_id, record.institution)
            yield Record(*ids, {"text": piece}, None, record.split, record.attributes)


def _layout_problems(layout: str) -> list[str]:
    names = _places(layout)
    problems = [f"layout: {{{n}}} is unknown. {did_you_mean(n, _PLACES)}" for n in names if n not in _PLACES]
    if len(set(names)) < len(names):
        problems.append("layout: each name at most once")
    if not layout.endswith(".txt") or not names:
        problems.append('layout: expected a path such as "{patient}/{sample}.txt"')
    if "study" in names and "patient" not in names:
        problems.append("layout: a {study} needs a {patient}")
    return problems


def _places(layout: str) -> list[str]:
    return _PLACE.findall(layout)


def _pattern(layout: str) -> str:
    """A regular expression; each name as short as it can be."""
    parts = _PLACE.split(layout)
    return "".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+?)" for i, part in enumerate(parts))


def _files(root: Path) -> Iterator[str]:
    """Paths of the files below a folder, relative to it, in order."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{root.name} cannot be read: {error.strerror}", where=str(root.parent)) from error

    for folder, inner, names in os.walk(root, onerror=refuse):
        inner.sort()
        yield from ((Path(folder) / name).relative_to(root).as_posix() for name in sorted(names))


def _filled(text: str) -> str | None:
    return text if text.strip() else None


def _cells(table: TextTable, column: str) -> list[str]:
    """An attribute a row, as a query reads it; ``""`` where it is not known."""
    values = [row.get(column) for row in table.objects]
    table.refuse(column, [not _is_cell(value) for value in values], "a text, a number, a date, true or false")
    return [_cell(value) for value in values]


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, str | Number | datetime.date)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()
