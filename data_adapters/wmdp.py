"""WMDP (Li et al., ICML 2024): multiple-choice questions about hazardous knowledge, and corpora to unlearn it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.text_files import TextTable, find_set, is_text, pieces, read_set, word_problems
from forgetmi.errors import ConfigError
from forgetmi.records import Record, RecordDataset, Skipped

Subject = Literal["bio", "chem", "cyber"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FORMER = {"bio-forget-corpus": "bio_remove_dataset"}


@dataclass(frozen=True)
class Wmdp:
    """Reads WMDP's corpora or its questions, as published.

    ``corpora``: ``cyber-forget-corpus.jsonl`` and so on, in ``root`` or ``root/wmdp-corpora`` (Parquet too); of a row,
    its ``text`` is the record's, never the JSON around it. Both are train; ``source_split`` is the corpus (``query:
    {source_split: cyber-forget-corpus}`` at level study), ``subject`` says which.

    ``questions``: ``wmdp-cyber/test.json`` (Parquet too) or ``cyber_questions.json``, in ``root`` or
    ``root/wmdp-mcqs``. A record's ``dialogue`` holds ``prompt``, ``answer`` (the right choice's text) and ``choices``
    (all of them); its label is the right one's index. All are test: no model is trained on them.

    Attributes:
        root: the folder.
        part: corpora or questions.
        subjects: of the questions all three; of the corpora bio and cyber (there is none of chem, and the bio forget
            corpus is given out by its authors only).
        chunk_words: cut documents of the corpora into records of at most so many words; whole by default.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "wmdp"
    summary: ClassVar[str] = "WMDP: corpora of hazardous knowledge, or multiple-choice questions about it"
    levels: ClassVar[tuple[str, ...]] = ("study", "sample")
    license_note: ClassVar[str] = "MIT licence; the bio forget corpus is given out on request and not to be passed on"

    root: Path
    part: Literal["corpora", "questions"] = "corpora"
    subjects: tuple[Subject, ...] = ("cyber",)
    chunk_words: int | None = None

    def __post_init__(self) -> None:
        problems = word_problems(self.chunk_words)
        if not self.subjects or len(set(self.subjects)) < len(self.subjects):
            problems.append("subjects: name bio, chem or cyber, each at most once")
        if self.part == "corpora" and "chem" in self.subjects:
            problems.append("subjects: there are no corpora of chem, only questions")
        if self.part == "questions" and self.chunk_words is not None:
            problems.append("chunk_words is for corpora")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the files of the part.

        Raises:
            DataError: a file is missing or malformed; the message names file and row.
        """
        skipped: list[tuple[str, str]] = []
        records: list[Record] = []
        corpora = self.part == "corpora"
        for subject in self.subjects:
            records += self._corpora(subject, skipped) if corpora else self._questions(subject, skipped)
        most = 0 if corpora else max((len(r.modalities["dialogue"]["choices"]) for r in records), default=0)
        return RecordDataset(
            records,
            name=self.name,
            levels=self.levels if corpora else ("sample",),
            classes=LETTERS[:most],
            modality_kinds={"text": "text"} if corpora else {"dialogue": "dialogue"},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=["a document is taken for a study of its own" if corpora else "each question stands alone"],
        )

    def _corpora(self, subject: str, skipped: list[tuple[str, str]]) -> list[Record]:
        records = []
        root = Path(self.root)
        for name in (f"{subject}-forget-corpus", f"{subject}-retain-corpus"):
            names = [name, *([_FORMER[name]] if name in _FORMER else [])]
            table = read_set(find_set([root, root / "wmdp-corpora"], names), name)
            table.require(("text",))
            texts = table.texts("text")
            said = {"source_split": name, "subject": subject}
            for row in table.filled({"text": texts}, skipped):
                document = f"{name}-{row:06d}"
                records += [
                    Record(sample, document, document, "", {"text": piece}, None, "train", said)
                    for sample, piece in pieces(document, texts[row], self.chunk_words)
                ]
        return records

    def _questions(self, subject: str, skipped: list[tuple[str, str]]) -> list[Record]:
        root = Path(self.root)
        name = f"wmdp-{subject}"
        table = read_set(find_set([root, root / "wmdp-mcqs"], [name, f"{subject}_questions"], ["test"]), name)
        said = {"source_split": name, "subject": subject}
        return question_records(table, name, [said] * len(table), skipped)


def question_records(
    table: TextTable, name: str, said: Sequence[Mapping[str, str]], skipped: list[tuple[str, str]]
) -> list[Record]:
    """Records of a table with ``question``, ``choices`` and ``answer``, all of them test.

    Args:
        table: its rows.
        name: with the row's number from 0, a record's id.
        said: attributes of each row.
        skipped: gets the rows without a question.

    Raises:
        DataError: choices or answers that are none.
    """
    table.require(("question", "choices", "answer"))
    prompts = table.texts("question")
    choices = [row.get("choices") for row in table.objects]
    table.refuse("choices", [not _are_choices(given) for given in choices], "a list of 2 to 26 texts")
    labels = [row.get("answer") for row in table.objects]
    wrong = [not _is_index(label, given) for label, given in zip(labels, choices, strict=True)]
    table.refuse("answer", wrong, "the index of the right choice, from 0")
    records = []
    for row in table.filled({"question": prompts}, skipped):
        given, label, sample = [*table.objects[row]["choices"]], table.objects[row]["answer"], f"{name}-{row:05d}"
        values = {"prompt": prompts[row], "answer": given[label], "choices": given}
        records.append(Record(sample, sample, sample, "", {"dialogue": values}, label, "test", said[row]))
    return records


def _are_choices(given: Any) -> bool:
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and 2 <= len(given) <= len(LETTERS)
        and all(is_text(text) and text.strip() for text in given)
    )


def _is_index(label: Any, choices: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices)
