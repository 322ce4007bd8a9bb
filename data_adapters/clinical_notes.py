"""The notes of another adapter as texts for language models: whose they are stays, everything but the text goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from forgetmi.data_adapters.base import Adapter
from forgetmi.data_adapters.text_files import pieces, word_problems
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.options import build_options
from forgetmi.records import Record, RecordDataset, Skipped
from forgetmi.values import SectionedText


@dataclass(frozen=True)
class ClinicalNotes:
    """Reads notes with an adapter of hospital data (``mimic_iv``, ``omop``, ``fhir``, ``mimic_cxr``, ``openi``, ...).

    Records keep their ids, splits and attributes, and the source its other ids of persons, so that a patient is
    forgotten by the same request as in any other model of the hospital. Labels and other modalities are left out. Where
    a study repeats one text (a report on each of its films), one record is kept.

    With ``prompt`` and ``answer`` (sections of the text: ``[indication]`` and ``[findings, impression]``) a record is a
    ``dialogue`` of a prompt and its answer; else it is the whole ``text``.

    Attributes:
        source: the adapter's name.
        options: its options; those that read the notes alone (``modalities: [text]``) save time.
        text: the modality that holds the notes.
        prompt, answer: sections, each in the order of the note.
        chunk_words: cut notes into records of at most so many words; whole by default.

    Raises:
        ConfigError: options that do not fit together, here or in the source; all of them at once.
    """

    name: ClassVar[str] = "clinical_notes"
    summary: ClassVar[str] = "the notes of another adapter (MIMIC, OMOP, FHIR, Open-i, ...) for language models"
    levels: ClassVar[tuple[str, ...]] = ("institution", "patient", "study", "sample", "section")
    license_note: ClassVar[str] = "what the licence and use agreement of the notes' source forbid"

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    text: str = "text"
    prompt: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    chunk_words: int | None = None

    def __post_init__(self) -> None:
        problems = word_problems(self.chunk_words)
        if bool(self.prompt) != bool(self.answer):
            problems.append("give sections for prompt and for answer, or for neither")
        if both := sorted({*self.prompt} & {*self.answer}):
            problems.append(f"prompt and answer share {', '.join(both)}: the answer would stand in its own prompt")
        if self.prompt and self.chunk_words is not None:
            problems.append("chunk_words is for whole notes: a prompt and its answer are not cut")
        if self.source == self.name:
            problems.append("source: name an adapter that reads notes")
        else:
            try:
                _adapter(self)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)

    @classmethod
    def inner_options(cls, values: Mapping[str, Any], convert: Callable[[Any, Any, str], Any]) -> dict[str, Any]:
        """Not yet checked options, with those of the source converted: its paths are relative too.

        Args:
            values: the options as given.
            convert: (adapter class, its options, their key) to its options.
        """
        from forgetmi.data_adapters import ADAPTERS

        options = values.get("options")
        if not isinstance(options, Mapping) or values.get("source") not in ADAPTERS:
            return dict(values)
        return {**values, "options": convert(ADAPTERS[values["source"]], options, "options")}

    def load(self) -> RecordDataset:
        """Read the source and its notes.

        Raises:
            DataError: what the source's adapter says; it has no such modality or section, or no record with a text.
        """
        data = _adapter(self).load()
        if data.modality_kinds.get(self.text) != "text":
            texts = [name for name, kind in data.modality_kinds.items() if kind == "text"]
            raise DataError(f"{data.name} has no text {self.text!r}. {did_you_mean(self.text, texts)}")
        known = data.sections.get(self.text, ())
        unknown = [name for name in (*self.prompt, *self.answer) if name not in known]
        if unknown:
            raise DataError(f"{data.name} has no section {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
        whole = not self.prompt and self.chunk_words is None
        skipped: list[tuple[str, str]] = []
        records = list(self._records(data, skipped))
        mine = Skipped.collect(skipped)
        counts = Counter(data.skipped.counts) + Counter(mine.counts)
        pieces_of = () if self.chunk_words is None else ("study",)  # a note and its pieces
        return RecordDataset(
            records,
            name=data.name,
            levels=[*(level for level in data.levels if level != "modality"), *pieces_of],
            modality_kinds={"dialogue": "dialogue"} if self.prompt else {"text": "text"},
            license_note=data.license_note,
            skipped=Skipped(dict(counts), {**data.skipped.examples, **mine.examples}),
            notes=data.notes,
            aliases=data.aliases,
            sections={"text": known} if whole else None,
        )

    def _records(self, data: RecordDataset, skipped: list[tuple[str, str]]) -> Iterator[Record]:
        seen: set[tuple[str, str, str]] = set()
        for record in data:
            text = record.value(self.text)
            if text is None or not text.strip():
                skipped.append(("no note", record.sample_id))
                continue
            if (key := (record.patient_id, record.study_id, str(text))) in seen:
                skipped.append(("the same note of the same study", record.sample_id))
                continue
            seen.add(key)
            if self.prompt:
                parts = {"prompt": _sections(text, self.prompt), "answer": _sections(text, self.answer)}
                if blank := [name for name, part in parts.items() if part is None]:
                    skipped.append((f"no section for the {blank[0]}", record.sample_id))
                    continue
                yield replace(record, modalities={"dialogue": parts}, label=None)
                continue
            if self.chunk_words is None:
                yield replace(record, modalities={"text": text}, label=None)
                continue
            for sample, piece in pieces(record.sample_id, str(text), self.chunk_words):
                yield replace(record, sample_id=sample, modalities={"text": piece}, label=None)


def _adapter(notes: ClinicalNotes) -> Adapter:
    from forgetmi.data_adapters import ADAPTERS

    built: Adapter = build_options(ADAPTERS[notes.source], notes.options, where=f"options (adapter {notes.source})")
    return built


def _sections(text: Any, names: Sequence[str]) -> str | None:
    """The text of these sections; ``None`` where it has none of them."""
    kept = text.keep_only(names) if isinstance(text, SectionedText) else None
    return None if kept is None else str(kept)
