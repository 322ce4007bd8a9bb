"""TOFU (Maini et al., COLM 2024): questions and answers about 200 made-up authors, some of whom are to be forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

from forgetmi.data_adapters.text_files import TextTable, find_set, is_text, read_set
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import Record, RecordDataset, Skipped

_SHARES = ("01", "05", "10")
BY_AUTHOR = (
    "full",
    *(f"forget{share}" for share in _SHARES),
    *(f"forget{share}_perturbed" for share in _SHARES),
    *(f"retain{share}" for share in ("99", "95", "90")),
    *(f"holdout{share}" for share in _SHARES),
)
SINGLE = ("retain_perturbed", "real_authors", "real_authors_perturbed", "world_facts", "world_facts_perturbed")
_SPLITS = ("train", "validation", "test")
_MORE = {"paraphrased_question": "paraphrased_prompt", "paraphrased_answer": "paraphrased_answer"}


@dataclass(frozen=True)
class Tofu:
    """Reads TOFU's files, as published (``forget10.json``, ``forget10/train.json`` or Parquet, in one folder).

    A record's ``dialogue`` holds ``prompt`` (the question) and ``answer``; of perturbed sets also
    ``paraphrased_prompt``, ``paraphrased_answer`` and ``perturbed_answers`` (a list of wrong answers). The attribute
    ``source_split`` is the name of the set, so that the published forget set is ``query: {source_split: forget10}`` at
    level patient.

    *Our reading, for the files have no ids:* an author is a patient, and an author's questions stand together, 20 each,
    so that row r (from 0) belongs to author r // 20 of its set. Rows of ``retain_perturbed``, ``real_authors`` and
    ``world_facts`` stand alone: nothing says whose they are.

    Attributes:
        root: the folder.
        train: the sets that the original model was trained on: forget and retain, which make up the full set, or
            ``full`` alone.
        validation, test: sets that it has not seen. By default the published holdout of the same size.
        questions_per_author: of the sets that are ordered by author.

    Raises:
        ConfigError: unknown sets, one set twice, or sets that overlap by their names; all of them at once.
    """

    name: ClassVar[str] = "tofu"
    summary: ClassVar[str] = "TOFU: questions and answers about made-up authors, JSON or Parquet"
    levels: ClassVar[tuple[str, ...]] = ("patient", "sample")
    license_note: ClassVar[str] = (
        "published under the MIT licence, earlier versions under Apache-2.0: name Maini et al. (2024)"
    )

    root: Path
    train: tuple[str, ...] = ("forget10", "retain90")
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ("holdout10",)
    questions_per_author: int = 20

    def __post_init__(self) -> None:
        known = (*BY_AUTHOR, *SINGLE)
        problems = []
        given: list[str] = []
        for split in _SPLITS:
            for name in getattr(self, split):
                if name not in known:
                    problems.append(f"{split}: the set {name!r} is unknown. {did_you_mean(name, known)}")
                elif name in given:
                    problems.append(f"{split}: the set {name} is named twice")
                given.append(name)
        if not given:
            problems.append("train: name at least one set")
        if self.questions_per_author < 1:
            problems.append(f"questions_per_author must be at least 1, not {self.questions_per_author}")
        problems += [
            f"{first} and {second} overlap: name one of them, or a forget and a retain set that make up the full one"
            for first, second in combinations(dict.fromkeys(given), 2)
            if _overlap(first, second)
        ]
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the sets that are named.

        Raises:
            DataError: a set is missing or malformed, its rows do not make whole authors, or an author stands in two
                sets. The message names file and row.
        """
        root = Path(self.root)
        skipped: list[tuple[str, str]] = []
        records: list[Record] = []
        authors: dict[tuple[tuple[str, str], ...], str] = {}
        for split in _SPLITS:
            for name in getattr(self, split):
                table = read_set(find_set([root], [name, *_other_names(name)]), name)
                records += self._records(name, table, split, authors, skipped)
        return RecordDataset(
            records,
            name=self.name,
            levels=self.levels,
            modality_kinds={"dialogue": "dialogue"},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=[
                "an author is taken for a patient: the files have no ids, and every "
                f"{self.questions_per_author} rows are taken for one author's"
            ],
        )

    def _records(
        self,
        name: str,
        table: TextTable,
        split: str,
        authors: dict[tuple[tuple[str, str], ...], str],
        skipped: list[tuple[str, str]],
    ) -> list[Record]:
        table.require(("question", "answer"))
        columns: dict[str, Any] = {"question": table.texts("question"), "answer": table.texts("answer")}
        values: dict[str, Any] = {"prompt": columns["question"], "answer": columns["answer"]}
        if name.endswith("_perturbed"):
            table.require(("perturbed_answer",))
            values |= {_MORE[key]: table.texts(key) for key in _MORE if any(key in row for row in table.objects)}
            values["perturbed_answers"] = columns["perturbed_answer"] = _lists(table, "perturbed_answer")
        group = self.questions_per_author if name in BY_AUTHOR else 1
        if len(table) % group:
            raise DataError(
                f"{table.name} has {len(table)} rows, which do not make whole authors of {group} questions",
                where=table.places[-1],
                expected=f"a multiple of {group}",
                fix="get the file again, or set questions_per_author to what this version of the data has",
            )
        pairs = list(zip(columns["question"], columns["answer"], strict=True))
        for start in range(0, len(pairs), group) if name in BY_AUTHOR else ():
            author = tuple(pairs[start : start + group])
            other = authors.setdefault(author, name)
            if other != name:
                raise DataError(
                    f"an author of {table.name} stands in {other} too",
                    where=table.places[start],
                    expected="sets without a common author",
                    fix="name a forget and a retain set that make up the full one, such as forget10 and retain90",
                )
        said = {"source_split": name}
        return [
            Record(
                f"{name}-{row:04d}",
                f"{name}-{row:04d}",
                f"{name}-author-{row // group:03d}" if name in BY_AUTHOR else f"{name}-{row:04d}",
                "",
                {"dialogue": {key: cells[row] for key, cells in values.items() if cells[row]}},
                None,
                split,
                said,
            )
            for row in table.filled(columns, skipped)
        ]


def _other_names(name: str) -> list[str]:
    """What the set's file was called at first."""
    if name == "full":
        return ["all_dataset"]
    return [f"{name}_dataset"] if re.fullmatch(r"(forget|retain)\d\d", name) else []


def _overlap(first: str, second: str) -> bool:
    """Whether two sets have common authors, by their names."""
    kinds = [re.fullmatch(r"(full|forget|retain|holdout)(\d\d)?(_perturbed)?", name) for name in (first, second)]
    if None in kinds:
        return False
    (a, n, _), (b, m, _) = (match.groups() for match in kinds if match is not None)
    if "full" in (a, b):
        return {a, b} <= {"full", "forget", "retain"}
    if a == b:
        return True  # forget01 is part of forget05, and so on
    return {a, b} == {"forget", "retain"} and None not in (n, m) and int(n) + int(m) != 100


def _lists(table: TextTable, key: str) -> list[list[str]]:
    """A list of texts a row; an empty one where it has none."""
    values = [row.get(key) for row in table.objects]
    wrong = [
        v is not None
        and not (
            isinstance(v, Sequence) and not isinstance(v, str) and all(is_text(text) and text.strip() for text in v)
        )
        for v in values
    ]
    table.refuse(key, wrong, "a list of texts")
    return [list(value or ()) for value in values]
