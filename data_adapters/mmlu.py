"""MMLU (Hendrycks et al., ICLR 2021): multiple-choice questions of 57 subjects, to measure what a model still knows.

No model is to forget it, so it is no source of a run's records; its questions are read for
:mod:`forgetmi.metrics.multiple_choice`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forgetmi.data_adapters.text_files import TextTable, find_set, is_text, read_set
from forgetmi.data_adapters.wmdp import LETTERS, question_records
from forgetmi.delimited import base_suffix, first_places, read_delimited
from forgetmi.errors import DataError, did_you_mean
from forgetmi.records import Record, RecordDataset, Skipped

_CSV = {"test": "test", "dev": "dev", "validation": "val"}


@dataclass(frozen=True)
class Mmlu:
    """Reads one part of MMLU in either of its published forms.

    CSV: ``test/abstract_algebra_test.csv``, ``dev/..._dev.csv``, ``val/..._val.csv`` in ``root`` or ``root/data``,
    without a header: question, four options, the right one's letter. Or sets with ``question``, ``choices``,
    ``answer`` (index from 0) and ``subject`` as JSON lines or Parquet: ``test.jsonl`` or ``all/test-00000-of-00001.
    parquet``, or one folder a subject.

    A record's ``dialogue`` holds ``prompt``, ``answer`` and ``choices``, its label is the right one's index, and
    ``subject`` is said of it.

    Attributes:
        root: the folder.
        part: ``test``, ``validation``, or ``dev``: five questions a subject, the examples of few-shot prompts.
        subjects: those that are read; all by default. Rows of others are left out and counted.
    """

    root: Path
    part: Literal["test", "dev", "validation"] = "test"
    subjects: tuple[str, ...] = ()

    def load(self) -> RecordDataset:
        """Read the files.

        Raises:
            DataError: a file is missing or malformed, or a subject is not there; the message names file and row.
        """
        skipped: list[tuple[str, str]] = []
        records: list[Record] = []
        there: set[str] = set()
        for name, table in self._tables():
            subjects = [str(row["subject"]) for row in table.objects]
            there |= set(subjects)
            said = [{"source_split": f"mmlu-{self.part}", "subject": subject} for subject in subjects]
            for record in question_records(table, f"mmlu-{self.part}-{name}", said, skipped):
                if not self.subjects or record.attributes["subject"] in self.subjects:
                    records.append(record)
                else:
                    skipped.append(("subject that was not asked for", record.sample_id))
        if missing := [subject for subject in self.subjects if subject not in there]:
            raise DataError(
                f"there is no subject {missing[0]!r}. {did_you_mean(missing[0], there)}", where=str(self.root)
            )
        most = max((len(record.modalities["dialogue"]["choices"]) for record in records), default=0)
        return RecordDataset(
            records,
            name="mmlu",
            levels=("sample",),
            classes=LETTERS[:most],
            modality_kinds={"dialogue": "dialogue"},
            license_note="MIT licence: name Hendrycks et al. (2021)",
            skipped=Skipped.collect(skipped),
            notes=["each question stands alone"],
        )

    def _tables(self) -> Iterator[tuple[str, TextTable]]:
        """A name and rows of each file; every row has a subject."""
        root, folder = Path(self.root), _CSV[self.part]
        for place in (root / folder, root / "data" / folder):
            if files := sorted(path for path in place.glob(f"*_{folder}.csv*") if base_suffix(path) == ".csv"):
                for path in files:
                    subject = path.name.partition(".")[0].removesuffix(f"_{folder}")
                    yield subject, _read_csv(path, subject)
                return
        places = [root, root / "data"]
        inner = [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_dir()]
        alone = [path for path in inner if path.name not in ("all", "data", "auxiliary_train") and self._holds(path)]
        if alone and not any(map(self._holds, [root, root / "data", root / "all", root / "data" / "all"])):
            for path in alone:
                yield path.name, _with_subject(read_set(find_set([path], [self.part]), path.name), path.name)
            return
        yield "all", _with_subject(read_set(find_set(places, [self.part, "all"], [self.part]), self.part), "")

    def _holds(self, folder: Path) -> bool:
        return any(path.is_file() for path in folder.glob(f"{self.part}[.-]*"))


def _read_csv(path: Path, subject: str) -> TextTable:
    table = read_delimited(path, header=False)
    places = [f"{path.name}:{line}" for line in table.lines]
    wrong = [place for place, row in zip(places, table.rows, strict=True) if len(row) != 6]
    if wrong:
        raise DataError(
            f"{len(wrong)} rows of {path.name} are no questions",
            where=wrong[0],
            expected="6 cells: question, four options, the right one's letter",
            private=first_places(wrong),
        )
    objects: list[dict[str, Any]] = [
        {"question": row[0], "choices": list(row[1:5]), "answer": _place(row[5].strip()), "subject": subject}
        for row in table.rows
    ]
    return TextTable(path.name, objects, places)


def _place(letter: str) -> int | str:
    """The index of a letter; anything else as it is, to be refused with its row."""
    return "ABCD".index(letter) if letter in tuple("ABCD") else letter


def _with_subject(table: TextTable, subject: str) -> TextTable:
    """The table, in which a row without a subject has that of its folder."""
    if not subject:
        table.require(("subject",))
    objects = [{**row, "subject": row.get("subject") or subject} for row in table.objects]
    named = TextTable(table.name, objects, table.places)
    named.refuse("subject", [not is_text(row["subject"]) or not row["subject"].strip() for row in objects], "a subject")
    return named
