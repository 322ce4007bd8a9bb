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
        modalities: for a request at level ``modality``, the modalities to be forgotten; else ``None``. Then a forget
            record holds these modalities only.
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
        """The forget records as the request sees them: with the named modalities only, at level ``modality``."""
        records = {index: self.dataset[index] for index in self.forget}
        if self.modalities is None:
            return records
        return {index: record.keep_only(self.modalities) for index, record in records.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Part to number of patients, studies and samples."""
        return {part: _count(self.dataset, self.indices(part)) for part in PARTS}


def _count(dataset: RecordDataset, indices: Iterable[int]) -> dict[str, int]:
    records = [dataset[index] for index in indices]
    return {
        "patients": len({r.patient_id for r in records}),
        "studies": len({(r.patient_id, r.study_id) for r in records}),
        "samples": len(records),
    }
