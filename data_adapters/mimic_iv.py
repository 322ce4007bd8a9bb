"""MIMIC-IV: admissions, intensive care and emergency stays with their measurements, diagnoses and notes."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.diagnoses import Diagnoses
from forgetmi.data_adapters.events import Aggregate, Events, Note, number_or_text
from forgetmi.data_adapters.label_table import LabelTable
from forgetmi.data_adapters.streams import Row, stream_table, whole_id
from forgetmi.delimited import open_text
from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.records import RecordDataset

_VISITS = {
    # stay: table, id column, its times, what is known of it
    "admission": ("hosp/admissions", "hadm_id", "admittime", ("admission_type", "insurance", "language", "race")),
    "icu_stay": ("icu/icustays", "stay_id", "intime", ("first_careunit",)),
    "ed_stay": ("ed/edstays", "stay_id", "intime", ("arrival_transport",)),
}
_VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity")
_LABEL_IDS = ("patient", "visit", "sample")


@dataclass(frozen=True)
class MimicIV:
    """Reads MIMIC-IV 2 and 3, MIMIC-IV-Note and MIMIC-IV-ED.

    Ids: patient = subject_id (the same as in MIMIC-CXR), study = hadm_id or stay_id, sample = note_id, or the study's.

    Args:
        root: the folder that holds ``hosp/`` and ``icu/``.
        note_root: the one that holds ``note/`` (MIMIC-IV-Note); by default ``root``.
        ed_root: the one that holds ``ed/`` (MIMIC-IV-ED); by default ``root``.
        unit: what a record is: ``visit``, ``note`` or ``patient``.
        visits: what a visit is: ``admission``, ``icu_stay`` or ``ed_stay``.
        modalities: ``text`` (notes; the chief complaint of ``ed_stay``), ``tabular`` (age, sex, measurements), or both.
        notes: ``discharge``, ``radiology``, or both.
        measurements: ``labevents``, ``chartevents`` (of ``icu_stay``), ``triage`` (of ``ed_stay``); by default those
            that fit ``visits``: ``chartevents`` only where they are named, for they are 400 million rows.
        items: itemids to read; by default all (of the full release, several GB of memory).
        aggregate: what several values of one item become: ``last``, ``first`` or ``mean``.
        labels: ``mortality`` (hospital_expire_flag of ``admission``), a table of labels keyed by ``patient``, ``visit``
            or ``sample``, or ``None``.
        diagnoses: in place of ``labels``: label name to ICD prefixes with their version, ``{"heart failure":
            ["10:I50", "9:428"]}``, for a multilabel target of ``admission``. The version is part of the code: 428 is
            heart failure in ICD-9 only.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "mimic_iv"
    summary: ClassVar[str] = "MIMIC-IV hosp, icu, note and ed: measurements and notes of admissions and stays"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality")
    license_note: ClassVar[str] = (
        "PhysioNet credentialed data: its use agreement forbids sharing it, or sending it to others' online services"
    )

    root: Path
    note_root: Path | None = None
    ed_root: Path | None = None
    unit: Literal["visit", "note", "patient"] = "visit"
    visits: Literal["admission", "icu_stay", "ed_stay"] = "admission"
    modalities: tuple[Literal["text", "tabular"], ...] = ("text", "tabular")
    notes: tuple[Literal["discharge", "radiology"], ...] = ("discharge", "radiology")
    measurements: tuple[Literal["labevents", "chartevents", "triage"], ...] | None = None
    items: tuple[str, ...] | None = None
    aggregate: Aggregate = "last"
    labels: Literal["mortality"] | LabelTable | None = None
    diagnoses: Mapping[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        problems = []
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            problems.append("modalities: name text, tabular or both, each once")
        if self.unit == "note" and "text" not in self.modalities:
            problems.append("unit: a record that is a note needs the modality text")
        if (self.labels == "mortality" or self.diagnoses) and self.visits != "admission":
            problems.append("mortality and diagnoses are known of visits: admission only")
        if (self.labels == "mortality" or self.diagnoses) and self.unit == "patient":
            problems.append("mortality and diagnoses belong to an admission: unit must be visit or note")
        if self.labels is not None and self.diagnoses is not None:
            problems.append("give labels or diagnoses, not both")
        if isinstance(self.labels, LabelTable) and self.labels.ids not in _LABEL_IDS:
            problems.append(f"labels.ids: {self.labels.ids!r} is unknown. {did_you_mean(self.labels.ids, _LABEL_IDS)}")
        for name, codes in (self.diagnoses or {}).items():
            wrong = [code for code in codes if code.partition(":")[0] not in ("9", "10") or not code.partition(":")[2]]
            if wrong or not codes:
                problems.append(f"diagnoses.{name}: expected ICD prefixes such as 10:I50 and 9:428, got {list(codes)}")
        wrong_fit = {"chartevents": "icu_stay", "triage": "ed_stay"}
        problems += [
            f"measurements: {name} belong to visits: {wrong_fit[name]}"
            for name in self.measurements or ()
            if self.unit != "patient" and wrong_fit.get(name, self.visits) != self.visits
        ]
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the tables. Nothing is written.

        Raises:
            DataError: a file or column is missing, a row is malformed, an id is no whole number, one visit belongs to
                two patients. The message names file and row.
        """
        events = Events(self.unit, self.aggregate)
        read = {"hosp/patients", _VISITS[self.visits][0]}
        for place, (subject, gender, age) in self._rows("hosp/patients", ("subject_id", "gender", "anchor_age")):
            patient = whole_id(subject, place)
            if not patient:
                events.skipped.append(("subject_id is blank", place))
                continue
            events.add_new_patient(patient, {"gender": gender, "age": number_or_text(age)}, place)
        deaths = self._read_visits(events)
        if "tabular" in self.modalities:
            default = {"admission": ("labevents",), "icu_stay": (), "ed_stay": ("triage",)}[self.visits]
            for name in default if self.measurements is None else self.measurements:
                read.add(self._read_measurements(events, name))
        if "text" in self.modalities:
            read |= self._read_notes(events)
        labels: Any = self.labels
        classes: tuple[str, ...] = ()
        if self.labels == "mortality":
            labels, classes = deaths, ("survived", "died")
        elif self.diagnoses is not None:
            labels, classes = self._diagnoses(events), tuple(self.diagnoses)
            read.add("hosp/diagnoses_icd")
        others = sorted(self._tables_of_patients() - read)
        if others:
            events.messages.append(f"tables that hold these patients too and were not read: {', '.join(others)}")
        return events.dataset(self, modalities=self.modalities, labels=labels, classes=classes)

    def _folder(self, table: str) -> Path:
        part = table.partition("/")[0]
        return {"note": self.note_root, "ed": self.ed_root}.get(part) or self.root

    def _rows(self, table: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[Row]:
        return stream_table(self._folder(table) / f"{table}.csv", columns, optional)

    def _read_visits(self, events: Events) -> dict[str, int]:
        """The visits; and, of admissions, who died."""
        table, key, time, known = _VISITS[self.visits]
        deaths: dict[str, int] = {}
        flag = ("hospital_expire_flag",) if self.visits == "admission" else ()
        for place, cells in self._rows(table, ("subject_id", key, time, *flag), known):
            subject, visit = whole_id(cells[0], place), whole_id(cells[1], place)
            if not self._known(events, subject, place):
                continue
            if not visit:
                events.skipped.append((f"{key} is blank", place))
                continue
            row = dict(zip(known, cells[3 + len(flag) :], strict=True))
            events.add_visit(visit, subject, row, place, {"VisitDate": cells[2][:10]} if cells[2] else {})
            if flag and cells[3].strip() in ("0", "1"):
                deaths[visit] = int(cells[3])
        return deaths

    def _known(self, events: Events, subject: str, place: str) -> bool:
        if subject not in events.patients:
            events.skipped.append(("subject_id is blank" if not subject else "subject_id is not in patients", place))
            return False
        return True

    def _visit_of(self, events: Events, subject: str, visit: str, place: str) -> str:
        """The visit, where it is one of this subject's; of a patient's record every row is a part."""
        return visit if self.unit == "patient" else events.visit_of(subject, visit, place)

    def _read_measurements(self, events: Events, name: str) -> str:
        table = {"labevents": "hosp/labevents", "chartevents": "icu/chartevents", "triage": "ed/triage"}[name]
        key = "hadm_id" if self.visits == "admission" else "stay_id"
        if name == "triage":
            for place, cells in self._rows(table, ("subject_id", "stay_id"), (*_VITALS, "chiefcomplaint")):
                subject, visit = whole_id(cells[0], place), whole_id(cells[1], place)
                if not self._known(events, subject, place):
                    continue
                visit = self._visit_of(events, subject, visit, place)
                for item, cell in zip(_VITALS, cells[2:-1], strict=True):
                    if cell.strip():
                        events.add_value(subject, visit, item, "", number_or_text(cell))
                if "text" in self.modalities and cells[-1].strip():
                    note = f"triage-{whole_id(cells[1], place)}"
                    events.notes.append(Note(note, subject, visit, "", cells[-1], place))
            return table
        if name == "labevents":
            key = "hadm_id"  # a laboratory row knows the admission only, and often not even that
        columns = ("subject_id", key, "itemid", "charttime", "value", "valuenum", "valueuom")
        wanted = None if self.items is None else set(self.items)
        for place, (subject, visit, item, time, value, number, unit) in self._rows(table, columns):
            if wanted is not None and item.strip() not in wanted:
                continue
            subject = whole_id(subject, place)
            if not self._known(events, subject, place):
                continue
            visit = self._visit_of(events, subject, whole_id(visit, place), place)
            known = number_or_text(number) if number.strip() else number_or_text(value)
            if known is not None:
                # The unit is part of the name: mg/dL and mmol/L of one item are not one column.
                column = f"{item.strip()} [{unit.strip()}]" if unit.strip() else item.strip()
                events.add_value(subject, visit, column, time, known)
        return table

    def _read_notes(self, events: Events) -> set[str]:
        if self.visits == "ed_stay" and self.unit != "patient":
            return set()  # its text is the chief complaint; notes know no stay
        for name in self.notes:
            columns = ("note_id", "subject_id", "hadm_id", "charttime", "text")
            for place, (note, subject, visit, time, text) in self._rows(f"note/{name}", columns):
                subject = whole_id(subject, place)
                if not self._known(events, subject, place):
                    continue
                if not note.strip() or not text.strip():
                    events.skipped.append(("note_id or text is blank", place))
                    continue
                admission = whole_id(visit, place)
                if self.visits == "admission":
                    admission = self._visit_of(events, subject, admission, place)
                elif self.unit != "patient":
                    admission = ""
                events.notes.append(Note(note.strip(), subject, admission, time, text, place))
        return {f"note/{name}" for name in self.notes}

    def _diagnoses(self, events: Events) -> dict[str, tuple[float | None, ...]]:
        """A label an admission; the ICD version is part of the code."""
        found = Diagnoses(self.diagnoses or {})
        for place, (subject, visit, code, version) in self._rows(
            "hosp/diagnoses_icd", ("subject_id", "hadm_id", "icd_code", "icd_version")
        ):
            admission = self._visit_of(events, whole_id(subject, place), whole_id(visit, place), place)
            if admission:
                found.add(admission, f"{version.strip()}:{code.strip()}")
        return found.labels()

    def _tables_of_patients(self) -> set[str]:
        """Every table with a subject_id. Those without one (``d_*``, provider, caregiver) are not patient data."""
        found = set()
        for part in ("hosp", "icu", "note", "ed"):
            for path in sorted(self._folder(f"{part}/").joinpath(part).glob("*.csv*")):
                with open_text(path) as stream:
                    header = next(csv.reader(stream), [])
                if "subject_id" in [name.strip().lower() for name in header]:
                    found.add(f"{part}/{path.name.partition('.')[0]}")
        return found
