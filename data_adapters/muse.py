"""MUSE (Shi et al., ICLR 2025): news articles and books, some of which are to be forgotten, and what tests it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from forgetmi.data_adapters.text_files import TextTable, find_set, pieces, read_set, word_problems
from forgetmi.errors import ConfigError
from forgetmi.records import Record, RecordDataset, Skipped

Part = Literal["raw", "knowmem", "verbmem", "privleak", "scal", "sust"]
Retain = Literal["retain1", "retain2"]
_QUESTIONS = {"knowmem": ("question", "answer"), "verbmem": ("prompt", "gt")}
_FORMER = {"retain_qa": "retain2_qa", "retain_qa_icl": "retain2_qa_icl", "retain": "retain2"}
STEPS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Muse:
    """Reads one part of MUSE-News or MUSE-Books as published: ``raw/forget.json``, ``.txt``, Parquet in parts.

    The attribute ``source_split`` is the name of the file, so that the published forget set is ``query: {source_split:
    forget}`` at level study. ``raw`` is for training and unlearning; the others test what became of it.

    ============  ===================================  ==========================================================
    part          records                              files: split
    ============  ===================================  ==========================================================
    ``raw``       ``text``                             forget, retain1, retain2: train; holdout: test
    ``scal``      ``text``; ``step`` says how many     forget_N: train; retain1, retain2, holdout as in ``raw``
    ``sust``      ``text``; four requests in a row     forget_1 to forget_4: train; the others as in ``raw``
    ``privleak``  ``text``                             forget, retain: train; holdout: test
    ``knowmem``   ``dialogue`` (prompt and answer)     forget_qa, retain_qa and their ``_icl`` (few-shot): train
    ``verbmem``   ``dialogue`` (prompt and ``gt``)     forget: train
    ============  ===================================  ==========================================================

    *Our reading:* train is what the published target model has seen: forget, retain1 and retain2 ("train" of the
    source holds these). A document is a study; nothing says who wrote it.

    Attributes:
        root: the folder MUSE-News or MUSE-Books.
        part: see above.
        step: of ``scal``, 1 to 4: its forget sets lie in each other, so that two of them would stand on both sides.
        retain: the retain sets of ``raw`` that are read; the published methods regularise with retain1 alone.
        chunk_words: cut documents into records of at most so many words (a book is one text of a million); whole by
            default.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "muse"
    summary: ClassVar[str] = "MUSE-News and MUSE-Books: documents to forget, and questions about them"
    levels: ClassVar[tuple[str, ...]] = ("study", "sample")
    license_note: ClassVar[str] = (
        "published under CC BY 4.0, but the news articles and books in it belong to others: not to be passed on"
    )

    root: Path
    part: Part = "raw"
    step: Literal[1, 2, 3, 4] | None = None
    retain: tuple[Retain, ...] = ("retain1", "retain2")
    chunk_words: int | None = None

    def __post_init__(self) -> None:
        problems = word_problems(self.chunk_words)
        if (self.part == "scal") != (self.step is not None):
            problems.append(f"step (1 to 4) belongs to part scal, which needs it; part is {self.part}")
        if self.chunk_words is not None and self.part in _QUESTIONS:
            problems.append(f"chunk_words is for documents; {self.part} holds questions")
        if len(set(self.retain)) < len(self.retain):
            problems.append("retain: name each set once")
        if not self.retain and self.part in ("raw", "scal", "sust"):
            problems.append(f"retain: part {self.part} needs retain1, retain2 or both")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the part's files.

        Raises:
            DataError: a file is missing or malformed; the message names file and row.
        """
        skipped: list[tuple[str, str]] = []
        records: list[Record] = []
        for part, name, split in self._files():
            names = [name, *([_FORMER[name]] if name in _FORMER else [])]
            table = read_set(find_set([Path(self.root) / part], names), f"{part}/{name}")
            make = self._questions if part in _QUESTIONS else self._documents
            records += make(table, f"{part}-{name}", name, split, skipped)
        questions = self.part in _QUESTIONS
        return RecordDataset(
            records,
            name=self.name,
            levels=("sample",) if questions else self.levels,
            modality_kinds={"dialogue": "dialogue"} if questions else {"text": "text"},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=["each question stands alone" if questions else "a document is taken for a study of its own"],
        )

    def _files(self) -> Sequence[tuple[str, str, str]]:
        """(part, file, split) of what is read."""
        if self.part == "knowmem":
            names = ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")
            return [(self.part, name, "train") for name in names]
        if self.part == "verbmem":
            return [(self.part, "forget", "train")]
        if self.part == "privleak":
            return [(self.part, name, "train") for name in ("forget", "retain")] + [(self.part, "holdout", "test")]
        forget = {
            "raw": [("raw", "forget")],
            "scal": [("scal", f"forget_{self.step}")],
            "sust": [("sust", f"forget_{step}") for step in STEPS],
        }[self.part]
        train = [*forget, *(("raw", name) for name in self.retain)]
        return [(part, name, "train") for part, name in train] + [("raw", "holdout", "test")]

    def _documents(
        self, table: TextTable, prefix: str, source: str, split: str, skipped: list[tuple[str, str]]
    ) -> Iterator[Record]:
        table.require(("text",))
        texts = table.texts("text")
        said = {"source_split": source}
        for row in table.filled({"text": texts}, skipped):
            document = f"{prefix}-{row:05d}"
            for sample, piece in pieces(document, texts[row], self.chunk_words):
                yield Record(sample, document, document, "", {"text": piece}, None, split, said)

    def _questions(
        self, table: TextTable, prefix: str, source: str, split: str, skipped: list[tuple[str, str]]
    ) -> Iterator[Record]:
        keys = _QUESTIONS[self.part]
        table.require(keys)
        columns = {key: table.texts(key) for key in keys}
        prompts, answers = columns.values()
        said = {"source_split": source}
        for row in table.filled(columns, skipped):
            sample = f"{prefix}-{row:05d}"
            values = {"prompt": prompts[row], "answer": answers[row]}
            yield Record(sample, sample, sample, "", {"dialogue": values}, None, split, said)
