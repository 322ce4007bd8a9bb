"""LUME, the data of SemEval-2025 task 4 (Ramakrishna et al. 2025): documents as sentence completion and questions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from forgetmi.data_adapters.text_files import TextTable, find_set, read_set
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import Record, RecordDataset, Skipped

Task = Literal["Task1", "Task2", "Task3"]
TASKS = ("Task1", "Task2", "Task3")
_ID = re.compile(r"(.+?)(sc|qa)([0-9]+)")


@dataclass(frozen=True)
class Lume:
    """Reads ``forget`` and ``retain`` with ``id, input, output, task`` (JSON lines or Parquet), or the MIA files.

    ``tasks``: ``forget.jsonl`` and ``retain.jsonl`` of the open release, or ``forget_train-00000-of-00001.parquet`` and
    so on of the challenge. ``dialogue`` holds ``prompt`` (input) and ``answer`` (output). ``source_split`` is
    ``forget`` or ``retain`` (the published request is ``query: {source_split: forget}`` at level patient); ``task`` is
    Task1 (stories), Task2 (made-up people with their data) or Task3 (encyclopaedia); ``form`` is ``sc`` (completion)
    or ``qa`` (question).

    ``mia``: ``member.jsonl`` and ``nonmember.jsonl`` with ``document``; records have ``text``, members are train and
    the others test.

    *Our readings:* an id is a document's id followed by ``sc`` or ``qa`` and a number. A document is a patient: in
    Task2 it is one (made-up) person. Quotation marks around a document's id are no part of it. Validation files of the
    challenge are train too, for the published models were trained on them.

    Attributes:
        root: the folder.
        retain_root: where the retain files are, if elsewhere.
        part: tasks or mia.
        parts: of the challenge's files, ``train``, ``validation`` or both. The open release has no such parts.
        tasks: those that are read; rows of others are left out and counted.
        forms: the same for completion and questions.

    Raises:
        ConfigError: an empty list; all of them at once.
    """

    name: ClassVar[str] = "lume"
    summary: ClassVar[str] = "LUME (SemEval-2025 task 4): documents to forget, as sentence completion and questions"
    levels: ClassVar[tuple[str, ...]] = ("patient", "sample")
    license_note: ClassVar[str] = "Apache-2.0 (open release): name Ramakrishna et al. (2025)"

    root: Path
    retain_root: Path | None = None
    part: Literal["tasks", "mia"] = "tasks"
    parts: tuple[Literal["train", "validation"], ...] = ("train",)
    tasks: tuple[Task, ...] = ("Task1", "Task2", "Task3")
    forms: tuple[Literal["sc", "qa"], ...] = ("sc", "qa")

    def __post_init__(self) -> None:
        lists = {"parts": self.parts, "tasks": self.tasks, "forms": self.forms}
        if problems := [f"{k}: name at least one, each once" for k, v in lists.items() if not v or len({*v}) < len(v)]:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the files.

        Raises:
            DataError: a file is missing or malformed, an id has another form or stands there twice, or a document is
                in forget and in retain. The message names file and row.
        """
        skipped: list[tuple[str, str]] = []
        mia = self.part == "mia"
        return RecordDataset(
            self._documents(skipped) if mia else self._tasks(skipped),
            name=self.name,
            levels=("sample",) if mia else self.levels,
            modality_kinds={"text": "text"} if mia else {"dialogue": "dialogue"},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=["each document stands alone" if mia else "a document is taken for a patient"],
        )

    def _tasks(self, skipped: list[tuple[str, str]]) -> list[Record]:
        records: list[Record] = []
        source_of: dict[str, str] = {}
        for source in ("forget", "retain"):
            table = self._table(source)
            table.require(("id", "input", "output", "task"))
            ids = table.ids("id")
            matches = [_ID.fullmatch(name) for name in ids]
            wrong = [bool(name) and match is None for name, match in zip(ids, matches, strict=True)]
            table.refuse("id", wrong, "the document's id, then sc or qa and a number: 1a2b-3csc1")
            table.refuse_repeated("id", ids)
            columns = {"id": ids, **{key: table.texts(key) for key in ("input", "output", "task")}}
            unknown = [bool(task) and task not in TASKS for task in columns["task"]]
            table.refuse("task", unknown, f"one of {', '.join(TASKS)}")
            for row in table.filled(columns, skipped):
                match, task = matches[row], columns["task"][row]
                if match is None or not (document := match[1].strip('" ')):
                    skipped.append(("id names no document", table.places[row]))
                    continue
                if source_of.setdefault(document, source) != source:
                    raise DataError(
                        "a document stands in forget and in retain",
                        where=table.places[row],
                        expected="forget and retain sets without a common document",
                        private=[document],
                    )
                if task not in self.tasks or match[2] not in self.forms:
                    skipped.append(("task or form that was not asked for", table.places[row]))
                    continue
                said = {"source_split": source, "task": task, "form": match[2]}
                values = {"prompt": columns["input"][row], "answer": columns["output"][row]}
                records.append(Record(ids[row], ids[row], document, "", {"dialogue": values}, None, "train", said))
        return records

    def _table(self, source: str) -> TextTable:
        root = Path((self.retain_root or self.root) if source == "retain" else self.root)
        folders = [root, root / "data"]
        names = [source]
        if any(path.name.startswith(f"{source}_") for folder in folders for path in folder.glob("*")):
            names = [f"{source}_{part}" for part in self.parts]
        elif self.parts != ("train",):
            raise DataError(
                "the open release is not divided into parts",
                where=str(root),
                expected=f"{source}_train-00000-of-00001.parquet, or the option parts left out",
            )
        return read_set([path for name in names for path in find_set(folders, [name])], source)

    def _documents(self, skipped: list[tuple[str, str]]) -> list[Record]:
        root = Path(self.root)
        records = []
        for source, split in (("member", "train"), ("nonmember", "test")):
            table = read_set(find_set([root, root / "mia_data", root / "mia"], [source]), source)
            table.require(("document",))
            texts = table.texts("document")
            said = {"source_split": source}
            for row in table.filled({"document": texts}, skipped):
                sample = f"{source}-{row:04d}"
                records.append(Record(sample, sample, sample, "", {"text": texts[row]}, None, split, said))
        return records
