"""Notes and measurements of an electronic health record, gathered into records of a note, a visit or a patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forgetmi.data_adapters.aliases import unambiguous
from forgetmi.data_adapters.base import Adapter
from forgetmi.data_adapters.label_table import LabelTable
from forgetmi.errors import DataError
from forgetmi.records import Record, RecordDataset, Skipped

Unit = Literal["note", "visit", "patient"]
Aggregate = Literal["last", "first", "mean"]
_LEVELS: dict[Unit, tuple[str, ...]] = {
    "note": ("patient", "study", "sample", "modality"),
    "visit": ("patient", "study", "sample", "modality"),
    "patient": ("patient", "modality"),
}


@dataclass(frozen=True, slots=True)
class Note:
    """A text about a patient.

    Attributes:
        note_id, patient, visit: ids; ``visit`` may be blank. ``study``: the study that it reports on, else blank.
        time: ISO 8601; it orders the notes of a record.
        place: ``file:row``.
    """

    note_id: str
    patient: str
    visit: str
    time: str
    text: str
    place: str
    study: str = ""


class Events:
    """What an export holds, on its way to records.

    A record's text: the note, or the notes of the visit (the patient) in the order of their times, a blank line between
    them. Its row: what is known of the patient, and each measurement of the visit (of the patient) by name; several
    values become the last one in time, the first one, or the mean.

    Args:
        unit: what a record is.
        aggregate: what several values of one measurement become.
    """

    def __init__(self, unit: Unit, aggregate: Aggregate) -> None:
        self.unit, self.aggregate = unit, aggregate
        self.patients: dict[str, dict[str, Any]] = {}
        self.visits: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {}  # patient, row, attributes
        self.notes: list[Note] = []
        self.skipped: list[tuple[str, str]] = []
        self.messages: list[str] = []
        self._values: dict[str, dict[str, tuple[str, Any, int]]] = {}
        self._places: dict[tuple[str, str], str] = {}
        self._stray = 0

    def add_patient(self, patient: str, row: Mapping[str, Any], place: str) -> None:
        """A patient, what is known of them, and ``file:row``; what a second row says is added."""
        self.patients.setdefault(patient, {}).update(row)
        self._places.setdefault(("patient", patient), place)

    def add_new_patient(self, patient: str, row: Mapping[str, Any], place: str) -> None:
        """As :meth:`add_patient`, of a table with one row a patient.

        Raises:
            DataError: there is one of that id already.
        """
        if patient in self.patients:
            raise DataError(
                "one patient stands on two rows",
                where=place,
                expected="one row a patient",
                private=[f"{patient}: {self._places['patient', patient]}, {place}"],
            )
        self.add_patient(patient, row, place)

    def add_visit(
        self, visit: str, patient: str, row: Mapping[str, Any], place: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        """A visit, what is known of it, ``file:row``, and what a query may ask for.

        Raises:
            DataError: there is one of that id already.
        """
        if visit in self.visits:
            raise DataError(
                "one visit stands on two rows", where=place, private=[f"{self._places['visit', visit]}, {place}"]
            )
        self.visits[visit] = (patient, dict(row), dict(attributes or {}))
        self._places["visit", visit] = place

    def visit_of(self, patient: str, visit: str, place: str) -> str:
        """The visit that a row names; blank where it is none of those that were added.

        Raises:
            DataError: it is another patient's: to go on would mix two people's data.
        """
        owner = self.visits.get(visit)
        if owner is None:
            return ""
        if owner[0] != patient:
            raise DataError(
                "a row names the visit of another patient",
                where=place,
                expected="visits that belong to the row's own patient",
                fix="correct the row; if both ids are one person, the source must say so",
                private=[f"{place}: patient {patient}, visit of {owner[0]}"],
            )
        return visit

    def add_value(self, patient: str, visit: str, name: str, time: str, value: Any) -> None:
        """A measurement. One without a visit counts only where a record is a patient."""
        owner = patient if self.unit == "patient" else visit
        if not owner:
            self._stray += 1
            return
        row = self._values.setdefault(owner, {})
        known = row.get(name)
        if known is None:
            row[name] = (time, value, 1)
        elif self.aggregate == "mean" and isinstance(value, float) and isinstance(known[1], float):
            row[name] = (time, known[1] + (value - known[1]) / (known[2] + 1), known[2] + 1)
        elif (time >= known[0]) if self.aggregate != "first" else (time < known[0]):
            row[name] = (time, value, 1)

    def dataset(
        self,
        adapter: Adapter,
        *,
        modalities: Sequence[str],
        labels: LabelTable | Mapping[str, Any] | None,
        classes: Sequence[str] = (),
        aliases: Mapping[str, Iterable[tuple[str, str]]] | None = None,
    ) -> RecordDataset:
        """The records.

        Args:
            adapter: whose name and licence note the dataset gets.
            modalities: ``text``, ``tabular`` or both.
            labels: a table of labels, or visit id (where a record is a patient, patient id) to label.
            classes: of labels by id.
            aliases: level to (other id, canonical id); other ids that could mean two are left out and counted.

        Raises:
            DataError: no record, or a label table that does not fit.
        """
        others: dict[str, dict[str, str]] = {}
        for level, pairs in (aliases or {}).items():
            canonical = self.patients if level == "patient" else {*self.visits, *(n.study for n in self.notes)}
            others[level], dropped = unambiguous(pairs, canonical)
            if dropped:
                self.messages.append(
                    f"{dropped} other ids of a {level} lead to several, or are another {level}'s own id: a request "
                    "must name the id of this source"
                )
        if self._stray:
            self.messages.append(f"{self._stray} measurements belong to no visit: they are in no record")
        drafts = self._drafts()
        names: tuple[str, ...] = tuple(classes)
        found: list[Any] = [None] * len(drafts)
        splits = ["train"] * len(drafts)
        if isinstance(labels, LabelTable):
            level = "patient" if labels.ids == "patient" else "study"
            known_as: dict[str, list[str]] = {}
            for other, target in others.get(level, {}).items():
                known_as.setdefault(target, []).append(other)
            ids = [{"patient": d.patient, "visit": d.visit, "study": d.study}.get(labels.ids, d.sample) for d in drafts]
            joined = labels.join([(i, *known_as.get(i, ())) for i in ids], [d.patient for d in drafts])
            names, found, splits = joined.classes, joined.labels, joined.splits
            self.messages += joined.notes
        elif labels is not None:
            found = [labels.get(draft.patient if self.unit == "patient" else draft.visit) for draft in drafts]
        records = []
        for draft, label, split in zip(drafts, found, splits, strict=True):
            values = {"text": draft.text, "tabular": draft.row}
            if labels is not None and label is None:
                self.skipped.append(("no label", draft.place))
            elif all(values[name] is None for name in modalities):
                self.skipped.append((f"no {' and no '.join(modalities)}", draft.place))
            else:
                kept = {name: values[name] for name in modalities}
                records.append(
                    Record(draft.sample, draft.study, draft.patient, "", kept, label, split, draft.attributes)
                )
        return RecordDataset(
            records,
            name=adapter.name,
            levels=_LEVELS[self.unit],
            classes=names,
            modality_kinds={name: name for name in modalities},
            license_note=adapter.license_note,
            skipped=Skipped.collect(self.skipped),
            notes=self.messages,
            aliases=others,
        )

    def _drafts(self) -> list[_Draft]:
        if self.unit == "note":
            return [self._of_note(note) for note in self.notes]
        notes: dict[str, list[Note]] = {}
        stray = 0
        for note in self.notes:
            owner = note.patient if self.unit == "patient" else note.visit
            stray += not owner
            notes.setdefault(owner, []).append(note)
        if stray:
            self.messages.append(f"{stray} notes belong to no visit: they are in no record")
        drafts = []
        for owner in self.patients if self.unit == "patient" else self.visits:
            patient, row, attributes = (owner, {}, {}) if self.unit == "patient" else self.visits[owner]
            visit = "" if self.unit == "patient" else owner
            texts = [n.text for n in sorted(notes.get(owner, ()), key=lambda n: (n.time, n.note_id))]
            text, values = "\n\n".join(texts) or None, self._row(patient, owner, row)
            place = self._places[self.unit, owner]
            drafts.append(_Draft(owner, owner, patient, visit, text, values, attributes, place))
        return drafts

    def _of_note(self, note: Note) -> _Draft:
        _, row, attributes = self.visits.get(note.visit, (note.patient, {}, {}))
        attributes = {**attributes, **({"NoteDate": note.time[:10]} if note.time else {})}
        study = note.study or note.visit or note.note_id
        values = self._row(note.patient, note.visit, row)
        return _Draft(note.note_id, study, note.patient, note.visit, note.text, values, attributes, note.place)

    def _row(self, patient: str, owner: str, more: Mapping[str, Any]) -> dict[str, Any] | None:
        values = {name: value for name, (_, value, _) in self._values.get(owner, {}).items()}
        row = {**self.patients.get(patient, {}), **more, **values}
        return {name: value for name, value in row.items() if value not in (None, "")} or None


@dataclass(frozen=True, slots=True)
class _Draft:
    sample: str
    study: str
    patient: str
    visit: str
    text: str | None
    row: dict[str, Any] | None
    attributes: dict[str, str]
    place: str


def number_or_text(cell: str) -> float | str | None:
    """A cell as a number where it is one, else as text; ``None`` where it is blank."""
    text = cell.strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text
