"""What one source of a join adds to the records of its base, and what of it matches nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from forgetmi.data_adapters.persons import Persons, study_keys
from forgetmi.delimited import first_places
from forgetmi.errors import DataError
from forgetmi.records import Label, RecordDataset


class Link:
    """A source beside the base.

    Args:
        name, data: the source and its records.
        base_name, base: the base and its records.
        persons: who is the same person in both.
        by: ``patient`` or ``study``.
        first_of_several: of several records of a patient (or study) that hold one modality, take the first in the order
            of ids; otherwise they are refused.

    Attributes:
        matched: how many base records it adds something to.
        skipped: its records that are used nowhere: (reason, sample id).
        notes: how it was joined, in counts.

    Raises:
        DataError: ``by`` is ``study`` and one of the two has no study ids, or a study has different patients in the two
            sources; or there are several records for one.
    """

    def __init__(
        self,
        name: str,
        data: RecordDataset,
        base_name: str,
        base: RecordDataset,
        persons: Persons,
        *,
        by: str,
        first_of_several: bool,
    ) -> None:
        self.name, self.data, self.by = name, data, by
        people = [persons.of(base_name, record.patient_id) for record in base]
        mine = [persons.of(name, record.patient_id) for record in data]
        if by == "study":
            self._rows = self._by_study(base_name, base, people, mine)
        else:
            found: dict[int, list[int]] = defaultdict(list)
            for position, person in enumerate(mine):
                found[person].append(position)
            self._rows = [found.get(person, []) for person in people]
        # modality -> the records that hold it, for each base record
        self._holders = [
            {m: [p for p in rows if data[p].modalities.get(m) is not None] for m in data.modality_kinds}
            for rows in self._rows
        ]
        if not first_of_several:
            self._refuse_several()
        self.matched = sum(map(bool, self._rows))
        self.skipped = self._unused(base_name, set(people), mine)
        self.notes = [
            f"{name} is joined by {by}: {self.matched} of {len(base)} records of {base_name} have something in it, "
            f"{len(self.skipped)} of its {len(data)} records are used nowhere"
        ]
        if first_of_several:
            self.notes.append(f"{name}: of several records the first in the order of ids is taken, not of time")

    def _by_study(self, base_name: str, base: RecordDataset, people: list[int], mine: list[int]) -> list[list[int]]:
        """Its records of the same study, for each base record."""
        for name, levels in ((base_name, base.levels), (self.name, self.data.levels)):
            if "study" not in levels:
                raise DataError(
                    f"{self.name} cannot be joined to {base_name} by study: {name} has no study ids",
                    fix="join it by patient",
                )
        theirs: dict[str, set[int]] = defaultdict(set)
        for position, keys in enumerate(study_keys(self.data)):
            for key in keys:
                theirs[key].add(position)
        rows = [sorted({p for key in keys for p in theirs.get(key, ())}) for keys in study_keys(base)]
        strangers = {
            base[index].study_id for index, found in enumerate(rows) if any(mine[p] != people[index] for p in found)
        }
        if strangers:
            raise DataError(
                f"{len(strangers)} studies belong to one patient in {base_name} and to another in {self.name}",
                expected="one patient for each study",
                fix="find out whose they are; if the study ids only look alike, join by patient",
                private=first_places(sorted(strangers)),
            )
        return rows

    def _refuse_several(self) -> None:
        wrong = {
            self.data[found[0]].patient_id for holders in self._holders for found in holders.values() if len(found) > 1
        }
        if wrong:
            raise DataError(
                f"{len(wrong)} patients of {self.name} have several records for one {self.by}, and nothing says which "
                "one belongs to a record of the base (records have no common clock)",
                fix=f"let its adapter make one record a {self.by} (EHR sources: unit), join by study, or choose "
                "several: first (in the order of ids; the others are left out and counted)",
                private=first_places(sorted(wrong)),
            )

    def _unused(self, base_name: str, people: set[int], mine: list[int]) -> list[tuple[str, str]]:
        used = {found[0] for holders in self._holders for found in holders.values() if found}
        linked = {position for rows in self._rows for position in rows}
        unused = []
        for position, record in enumerate(self.data):
            if position in used:
                continue
            if mine[position] not in people:
                reason = f"its patient is not in {base_name}"
            elif position not in linked:
                reason = f"its study is not in {base_name}"
            elif any(value is not None for value in record.modalities.values()):
                reason = f"another record of the same {self.by} was taken"
            else:
                reason = "it holds no modality"
            unused.append((f"{self.name}: {reason}", record.sample_id))
        return unused

    def values(self, index: int) -> dict[str, Any]:
        """Modality to value for a base record; ``None`` where the source has none for it."""
        return {
            modality: self.data[found[0]].modalities[modality] if found else None
            for modality, found in self._holders[index].items()
        }

    def label(self, index: int) -> Label:
        """The label of its records for a base record; ``None`` where there is none.

        Raises:
            DataError: they have several.
        """
        found = {self.data[p].label for p in self._rows[index]} - {None}
        if len(found) > 1:
            raise DataError(
                f"records of {self.name} for one {self.by} have different labels",
                fix="prepare one label for each, join by study, or take the labels of another source",
                private=[self.data[p].sample_id for p in self._rows[index]],
            )
        return next(iter(found), None)
