"""Records: one sample of one study of one patient, and the datasets that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from forgetmi.errors import DataError, did_you_mean
from forgetmi.values import LazyValue, only_sections

LEVELS = ("institution", "patient", "study", "sample", "modality", "section")
ALIAS_LEVELS = ("patient", "study")
SPLITS = ("train", "validation", "test")
_ID_NAMES = ("sample_id", "study_id", "patient_id", "institution")
Label = int | tuple[float | None, ...] | None


@dataclass(frozen=True, slots=True)
class Record:
    """One sample.

    Attributes:
        sample_id, study_id, patient_id, institution: identifiers, always strings. A dataset's ``levels`` says which
            of them are real; the others repeat the finer one (a study that is taken for a patient) or are ``""``.
        modalities: name to value, to a :class:`LazyValue`, or to ``None`` when the modality is missing.
        label: class index (multiclass, ordinal), one value a label with ``None`` where unknown (multilabel), or
            ``None`` (no label).
        split: ``"train"``, ``"validation"`` or ``"test"``.
        attributes: what the source says about the record and a query may ask for: ``StudyDate`` (YYYYMMDD),
            ``Manufacturer``, ``ViewPosition``, ... A blank or absent one is not known.
    """

    sample_id: str
    study_id: str
    patient_id: str
    institution: str
    modalities: Mapping[str, Any]
    label: Label
    split: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = (self.sample_id, self.study_id, self.patient_id, self.institution)
        sample, study, patient, institution = ids
        if not type(sample) is type(study) is type(patient) is type(institution) is str:  # half a million times
            for name, value in zip(_ID_NAMES, ids, strict=True):
                if not isinstance(value, str):
                    raise DataError(
                        f"{name} must be a string, not {type(value).__name__}",
                        fix="read id columns as text: a number loses leading zeros and precision",
                    )
        if not self.sample_id or not self.patient_id:
            raise DataError("a record needs a sample_id and a patient_id; one of them is empty")
        if self.split not in SPLITS:
            raise DataError(f"split {self.split!r} is unknown", expected=f"one of {', '.join(SPLITS)}")

    def value(self, name: str) -> Any:
        """The value of a modality, read now if it is lazy; ``None`` when it is missing."""
        value = self.modalities.get(name)
        return value.load() if isinstance(value, LazyValue) else value

    def keep_only(self, names: Iterable[str]) -> Record:
        """This record with every other modality missing."""
        kept = set(names)
        return replace(self, modalities={k: v if k in kept else None for k, v in self.modalities.items()})

    def keep_sections(self, parts: Mapping[str, Sequence[str]]) -> Record:
        """This record with these sections of these texts, everything else missing.

        Args:
            parts: modality name to the sections that stay.

        Raises:
            DataError: one of the modalities is not kept in sections.
        """
        kept = {k: only_sections(v, parts[k]) if k in parts else None for k, v in self.modalities.items()}
        return replace(self, modalities=kept)


@dataclass(frozen=True)
class Skipped:
    """Rows or files that an adapter did not turn into records: counted and named, never dropped silently.

    Attributes:
        counts: reason to number.
        examples: reason to at most ten places (``file:row``) for the person who wants to look. Places may hold ids:
            they are for the terminal, not for reports.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many rows or files were skipped."""
        return sum(self.counts.values())

    @classmethod
    def collect(cls, places: Iterable[tuple[str, str]]) -> Skipped:
        """From ``(reason, place)`` pairs."""
        counts: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for reason, place in places:
            counts[reason] += 1
            if len(shown := examples.setdefault(reason, [])) < 10:
                shown.append(place)
        return cls(dict(counts), {reason: tuple(shown) for reason, shown in examples.items()})


class RecordDataset(Sequence[Record]):
    """Records in a fixed order: by patient, study, sample.

    Args:
        records: in any order.
        name: the source's name, for messages and reports.
        levels: the request levels that the source can support (a subset of :data:`LEVELS`). ``"section"`` is among
            them exactly when ``sections`` names some.
        classes: names of the label's classes (or of the labels, when multilabel), in index order.
        modality_kinds: modality name to kind (``"image"``, ``"volume"``, ``"text"``, ``"tabular"``, ``"signal"``,
            ``"tokens"``).
        license_note: what the source's licence or use agreement forbids, in a sentence.
        skipped: what was left out, and why.
        notes: facts that every report on this dataset must show ("films are rendered, not X-rays").
        aliases: ``aliases[level][other id] = canonical id`` with level ``"patient"`` or ``"study"``: other ids under
            which the source knows the same person or study (a medical record number, an accession number, the id of a
            merged patient). The canonical id is the one that the records carry. It may have no record here.
        sections: text modality to the names of the sections that its values
            (:class:`~forgetmi.values.SectionedText`) may have.

    Raises:
        DataError: a sample id occurs twice, a patient stands in two splits, or an alias is at another level, leads to
            another alias, or is itself the id of a different person or study.
    """

    def __init__(
        self,
        records: Iterable[Record],
        *,
        name: str,
        levels: Iterable[str],
        classes: Sequence[str] = (),
        modality_kinds: Mapping[str, str] | None = None,
        license_note: str = "",
        skipped: Skipped | None = None,
        notes: Sequence[str] = (),
        aliases: Mapping[str, Mapping[str, str]] | None = None,
        sections: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._records = tuple(sorted(records, key=attrgetter("patient_id", "study_id", "sample_id")))
        self.name = name
        self.sections = {modality: tuple(names) for modality, names in (sections or {}).items() if names}
        supported = {*levels} - {"section"} | ({"section"} if self.sections else set())
        self.levels = tuple(level for level in LEVELS if level in supported)
        self.classes = tuple(classes)
        self.modality_kinds = dict(modality_kinds or {})
        self.license_note = license_note
        self.skipped = skipped or Skipped()
        self.notes = tuple(notes)
        self.aliases = {level: dict(pairs) for level, pairs in (aliases or {}).items()}
        self._check()
        self._check_aliases()

    def _check(self) -> None:
        if not self._records:
            raise DataError(f"{self.name} holds no record", fix="check the folder and what was skipped")
        if len({r.sample_id for r in self._records}) < len(self._records):
            repeated = [i for i, n in Counter(r.sample_id for r in self._records).items() if n > 1]
            raise DataError(
                f"{len(repeated)} sample ids of {self.name} occur more than once",
                expected="one row a sample",
                private=repeated[:20],
            )
        pairs = {(record.patient_id, record.split) for record in self._records}
        splits: dict[str, set[str]] = {}
        for patient, split in pairs if len(pairs) > len({patient for patient, _ in pairs}) else ():
            splits.setdefault(patient, set()).add(split)
        leaking = [
            f"{patient}: {', '.join(sorted(found))}" for patient, found in sorted(splits.items()) if len(found) > 1
        ]
        if leaking:
            raise DataError(
                f"{len(leaking)} patients of {self.name} stand in more than one split",
                expected="splits that are disjoint by patient",
                fix="split by patient (see split_by_patient), or correct the split column",
                private=leaking[:20],
            )

    def _check_aliases(self) -> None:
        """An alias that could mean two people would forget the wrong one."""
        if unknown := set(self.aliases) - set(ALIAS_LEVELS):
            raise DataError(
                f"aliases of {self.name} are given at level {', '.join(sorted(map(repr, unknown)))}",
                expected=f"levels {' and '.join(ALIAS_LEVELS)}",
            )
        for level, pairs in self.aliases.items():
            if not pairs:
                continue
            used = {getattr(record, f"{level}_id") for record in self._records}
            wrong = [alias for alias, target in pairs.items() if alias != target and (alias in used or target in pairs)]
            if wrong:
                raise DataError(
                    f"{len(wrong)} other {level} ids of {self.name} are also the id of a different {level}, or lead to "
                    "another alias",
                    expected="ids that mean one thing each",
                    fix="leave such ids out of the aliases, so that a request must name the canonical id",
                    private=wrong[:20],
                )

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]

    def indices(self, split: str) -> tuple[int, ...]:
        """Positions of a split's records."""
        return tuple(i for i, record in enumerate(self._records) if record.split == split)

    def patients(self, indices: Iterable[int] | None = None) -> frozenset[str]:
        """The patients of these records (of all, by default)."""
        chosen = self._records if indices is None else (self._records[i] for i in indices)
        return frozenset(record.patient_id for record in chosen)

    def with_records(self, records: Iterable[Record], *, notes: Sequence[str] | None = None) -> RecordDataset:
        """The same source with other records (a new split, a subset)."""
        return RecordDataset(
            records,
            name=self.name,
            levels=self.levels,
            classes=self.classes,
            modality_kinds=self.modality_kinds,
            license_note=self.license_note,
            skipped=self.skipped,
            notes=self.notes if notes is None else notes,
            aliases=self.aliases,
            sections=self.sections,
        )

    def section_parts(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Modality to sections, from ``"text.impression"``, or ``"impression"`` where one modality alone has it.

        Raises:
            DataError: there is no such section, or several modalities have it.
        """
        known: dict[str, list[tuple[str, str]]] = {}
        for modality, sections in self.sections.items():
            for section in sections:
                for name in (section, f"{modality}.{section}"):
                    known.setdefault(name, []).append((modality, section))
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            if len(meant := known.get(name, [])) != 1:
                problem = "stands in several modalities: write modality.section" if meant else "is unknown"
                raise DataError(f"section {name!r} of {self.name} {problem}. {did_you_mean(name, known)}")
            modality, section = meant[0]
            if section not in found.setdefault(modality, []):
                found[modality].append(section)
        return {modality: tuple(sections) for modality, sections in found.items()}
