"""What a request makes of a dataset: forget, retain, validation and test, disjoint by patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forgetmi.errors import RequestError
from forgetmi.records import Record, RecordDataset

PARTS = ("forget", "retain", "validation", "test")


@dataclass(frozen=True)
class Partition:
    """Positions in a dataset, by part. Build it with :func:`forgetmi.requests.resolve`.

    Attributes:
        dataset: the records.
        forget, retain: what the request names of the train split, and the rest of it.
        validation, test: the other splits, without the request's patients.
        level: the request's level.
        modalities: for a request at level ``modality``, the modalities to be forgotten, and at level ``section`` the
            sections; else ``None``. Then a forget record holds these only.
        excluded: train records of the same patients that a narrower request did not name: used on neither side.
        leftovers: what else hangs on the same patients: level name to count ("records of the same patients that the
            request does not name: 12").
    """

    dataset: RecordDataset
    forget: tuple[int, ...]
    retain: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    level: str
    modalities: tuple[str, ...] | None = None
    excluded: tuple[int, ...] = ()
    leftovers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise :class:`RequestError` unless the parts are non-empty and disjoint by patient."""
        if not self.forget:
            raise RequestError("the request leaves nothing to forget")
        if not self.retain:
            raise RequestError("the request covers the whole train split: nothing is left to retain")
        seen: dict[str, str] = {}
        for part in PARTS:
            for patient in self.patients(part):
                if patient in seen:
                    raise RequestError(
                        f"a patient stands in {seen[patient]} and in {part}",
                        expected="parts that are disjoint by patient",
                        private=[patient],
                    )
                seen[patient] = part

    def patients(self, part: str) -> frozenset[str]:
        """The patients of a part."""
        return self.dataset.patients(self.indices(part))

    def indices(self, part: str) -> tuple[int, ...]:
        """The positions of a part's records."""
        indices: tuple[int, ...] = getattr(self, part)
        return indices

    @property
    def train(self) -> tuple[int, ...]:
        """What the original was trained on, as far as it is used here: forget, retain and excluded, in order."""
        return tuple(sorted((*self.forget, *self.retain, *self.excluded)))

    def forget_records(self) -> dict[int, Record]:
        """The forget records as the request sees them: with the named modalities, or sections, only."""
        records = {index: self.dataset[index] for index in self.forget}
        if self.modalities is None:
            return records
        if self.level == "section":
            parts = self.dataset.section_parts(self.modalities)
            return {index: record.keep_sections(parts) for index, record in records.items()}
        return {index: record.keep_only(self.modalities) for index, record in records.items()}

    def remains(self) -> tuple[str, ...]:
        """What the request leaves of the same patients, in sentences. There is always at least one.

        A narrow request leaks: who knows a patient's other studies can often tell what the forgotten one said.
        """
        said = []
        n = self.leftovers.get("sample", 0)
        if n:
            people, studies = self.leftovers["patient"], self.leftovers["study"]
            said.append(
                f"{people} of the patients concerned keep {_many(n, 'other sample', 'other samples')} in "
                f"{_many(studies, 'study', 'studies')}: what they say of these people is not forgotten"
            )
        for level, word in (("modality", "other modalities"), ("section", "other sections of the same texts")):
            if self.leftovers.get(level):
                said.append(f"{word} of the forget records stay, {self.leftovers[level]} in all")
        if "patient" not in self.dataset.levels and self.level not in ("institution", "patient"):
            said.append("the source does not say which studies are of one person: what else remains is not known")
        return tuple(said) or ("nothing: every record of the patients concerned is to be forgotten",)

    def counts(self) -> dict[str, dict[str, int]]:
        """Part to number of patients, studies and samples."""
        return {part: _count(self.dataset, self.indices(part)) for part in PARTS}


def _many(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"


def _count(dataset: RecordDataset, indices: Iterable[int]) -> dict[str, int]:
    records = [dataset[index] for index in indices]
    return {
        "patients": len({r.patient_id for r in records}),
        "studies": len({(r.patient_id, r.study_id) for r in records}),
        "samples": len(records),
    }
