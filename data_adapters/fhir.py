"""FHIR R4 bulk exports: reports, documents and observations, with one person's several ids brought together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.diagnoses import Diagnoses
from forgetmi.data_adapters.events import Aggregate, Events, Note
from forgetmi.data_adapters.fhir_people import Found, People, accessions, studies_of
from forgetmi.data_adapters.fhir_resources import Resources, attachment_text, code_of, items, text, value_of
from forgetmi.data_adapters.label_table import LabelTable
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import RecordDataset

# Of Condition.verificationStatus: nobody has confirmed these.
_UNCERTAIN = {"unconfirmed", "provisional", "differential"}
_LABEL_IDS = ("patient", "visit", "study", "sample")


@dataclass(frozen=True)
class Fhir:
    """Reads FHIR R4 bulk data (``.ndjson``, ``.ndjson.gz``). The type of a resource is what its line says.

    Ids: patient = Patient.id (of linked ones, the id that replaces the others; the others and all identifiers, as
    ``value`` and as ``system|value``, are aliases); sample = ``DiagnosticReport/1``, ``DocumentReference/1``, or the
    Encounter's or Patient's id; study = the StudyInstanceUID of the ImagingStudy that a report is about, as in DICOM
    (accession numbers are aliases), else the Encounter.

    Args:
        root: the export's folder, or one file.
        unit: what a record is: ``note`` (a report or document), ``visit`` (an Encounter) or ``patient``.
        modalities: ``text``, ``tabular`` (gender, year of birth, observations), or both.
        notes: the resources whose text is read.
        codes: names of observations to read (LOINC codes, or ``system|code``); by default all.
        aggregate: what several values of one observation become: ``last``, ``first`` or ``mean``.
        base_url: the server of this export, where absolute references name several.
        labels: a table of labels keyed by ``patient`` (any id of the person), ``visit``, ``study`` or ``sample``.
        diagnoses: in place of ``labels``: label name to codes with their system, for a multilabel target of the visit
            (of the patient, where that is the unit): ``{"heart failure": ["http://hl7.org/fhir/sid/icd-10-cm|I50"]}``
            means every ICD-10-CM code that starts with I50. A Condition that is unconfirmed, provisional or a
            differential diagnosis makes the label unknown; a refuted one makes it 0. Without any Condition there is no
            label.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "fhir"
    summary: ClassVar[str] = "a FHIR R4 bulk export: reports, documents, observations; linked patients are one person"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality")
    license_note: ClassVar[str] = "your own data: its use agreement is not known to this package"

    root: Path
    unit: Literal["note", "visit", "patient"] = "note"
    modalities: tuple[Literal["text", "tabular"], ...] = ("text", "tabular")
    notes: tuple[Literal["DiagnosticReport", "DocumentReference"], ...] = ("DiagnosticReport", "DocumentReference")
    codes: tuple[str, ...] | None = None
    aggregate: Aggregate = "last"
    base_url: str | None = None
    labels: LabelTable | None = None
    diagnoses: Mapping[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        problems = []
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            problems.append("modalities: name text, tabular or both, each once")
        if self.unit == "note" and "text" not in self.modalities:
            problems.append("unit: a record that is a note needs the modality text")
        if self.labels is not None and self.labels.ids not in _LABEL_IDS:
            problems.append(f"labels.ids: {self.labels.ids!r} is unknown. {did_you_mean(self.labels.ids, _LABEL_IDS)}")
        if self.labels is not None and self.diagnoses is not None:
            problems.append("give labels or diagnoses, not both")
        for name, codes in (self.diagnoses or {}).items():
            if not codes or not all(code.partition("|")[2].strip() for code in codes):
                problems.append(f"diagnoses.{name}: expected codes such as system|I50, got {list(codes)}")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the export. Nothing is written. Lines that cannot be used are counted with ``file:line``.

        Raises:
            DataError: no file, an unreadable one, no Patient, several servers without ``base_url``, one Patient.id with
                two dates of birth, or a label table that does not fit.
        """
        resources = Resources(self.root, self.base_url)
        found = Found(self._read)
        for identifier, resource, place in resources:
            found.add(identifier, resource, place)
        events = Events(self.unit, self.aggregate)
        people = People(found.patients, resources, events)
        found.settle_repeated(people)
        studies, study_aliases = studies_of(found, people)
        coded = _visits(found, people, events)
        if "text" in self.modalities:
            self._notes(found, people, events, studies, study_aliases)
        if "tabular" in self.modalities:
            self._observations(found, people, events)
        labels: Any = self.labels if self.diagnoses is None else self._diagnoses(found, people, events, coded)
        resources.require_one_server()
        events.skipped += resources.skipped
        if resources.deletions:
            events.messages.append(
                f"{resources.deletions} entries ask for a deletion: they are a forget request, and no data"
            )
        unread = {kind: n for kind, n in found.unread.items() if n}
        if unread:
            listed = ", ".join(f"{kind} ({n})" for kind, n in sorted(unread.items()))
            events.messages.append(f"resources that hold these patients too and were not read: {listed}")
        aliases = {"patient": people.aliases(), "study": study_aliases}
        return events.dataset(
            self, modalities=self.modalities, labels=labels, classes=tuple(self.diagnoses or ()), aliases=aliases
        )

    @property
    def _read(self) -> set[str]:
        """The types of resources that are kept."""
        read = {"Encounter", "ImagingStudy"}
        read |= {"Observation"} if "tabular" in self.modalities else set()
        read |= {*self.notes} if "text" in self.modalities else set()
        return read | ({"Condition"} if self.diagnoses is not None else set())

    def _notes(
        self,
        found: Found,
        people: People,
        events: Events,
        studies: dict[str, tuple[str, str]],
        study_aliases: list[tuple[str, str]],
    ) -> None:
        seen: dict[tuple[str, str, str, str], str] = {}
        for kind in self.notes:
            for identifier, resource, place in found.of(kind, events):
                patient = people.subject(resource.get("subject"), place)
                if patient is None:
                    continue
                words = self._words(kind, resource, found, people, events, place)
                if not words:
                    continue
                context = resource.get("context") if kind == "DocumentReference" else None
                encounters = items(context, "encounter") if kind == "DocumentReference" else [resource.get("encounter")]
                visit = next((v for r in encounters if (v := _visit(r, patient, people, place))), "")
                time = next((t for n in ("effectiveDateTime", "date", "issued") if (t := text(resource, n))), "")
                time = time or text(resource, "effectivePeriod", "start")
                # Servers show one report both as DiagnosticReport and as DocumentReference.
                same = (patient, visit, time[:10], words)
                if seen.setdefault(same, kind) != kind:
                    events.skipped.append(("same text, day and visit as a DiagnosticReport", place))
                    continue
                pictures = items(context, "related") if kind == "DocumentReference" else items(resource, "imagingStudy")
                uids = self._study_uids(pictures, patient, people, studies, place)
                study = uids[0] if uids else ""
                if study:
                    study_aliases += [(accession, study) for accession in accessions(resource)]
                events.notes.append(Note(f"{kind}/{identifier}", patient, visit, time, words, place, study))

    def _study_uids(
        self, references: list[Any], patient: str, people: People, studies: dict[str, tuple[str, str]], place: str
    ) -> list[str]:
        uids = []
        for reference in references:
            key = people.resources.key(reference)
            if key is None or key[0] != "ImagingStudy" or key[1] not in studies:
                continue
            owner, uid = studies[key[1]]
            if owner != patient:
                raise DataError(
                    "a report names the ImagingStudy of another patient",
                    where=place,
                    fix="if both ids are one person, the export lacks a Patient.link between them",
                    private=[f"{place}: ImagingStudy/{key[1]}"],
                )
            uids.append(uid)
        return uids

    def _words(
        self, kind: str, resource: dict[str, Any], found: Found, people: People, events: Events, place: str
    ) -> str:
        """The text of a report or document: its attachments, else a report's conclusion."""
        attachments = items(resource, "presentedForm")
        if kind == "DocumentReference":
            attachments = [a for c in items(resource, "content") if isinstance(a := c.get("attachment"), dict)]
        parts, reasons = [], []
        for attachment in attachments:
            if "data" not in attachment:
                stored = found.binaries.get(people.resources.binary(text(attachment, "url")) or "")
                if stored is None:
                    reasons.append("attachment is stored elsewhere")
                    continue
                attachment = {"contentType": text(attachment, "contentType"), **stored}
            words, reason = attachment_text(attachment)
            if words:
                parts.append(words)
            else:
                reasons.append(reason)
        words = "\n\n".join(dict.fromkeys(parts)) or (
            text(resource, "conclusion") if kind == "DiagnosticReport" else ""
        )
        if not words:
            events.skipped.append((f"{kind}: {reasons[0] if reasons else 'no text'}", place))
        return words

    def _observations(self, found: Found, people: People, events: Events) -> None:
        wanted = None if self.codes is None else set(self.codes)
        for _, resource, place in found.of("Observation", events):
            patient = people.subject(resource.get("subject"), place)
            if patient is None:
                continue
            visit = _visit(resource.get("encounter"), patient, people, place)
            time = text(resource, "effectiveDateTime") or text(resource, "effectivePeriod", "start")
            time = time or text(resource, "effectiveInstant") or text(resource, "issued")
            for part in (resource, *items(resource, "component")):
                name = code_of(part.get("code"))
                value, unit = value_of(part)
                if name and value is not None and (wanted is None or name in wanted):
                    # The unit is part of the name: mg/dL and mmol/L of one code are not one column.
                    events.add_value(patient, visit, f"{name} [{unit}]" if unit else name, time, value)

    def _diagnoses(
        self, found: Found, people: People, events: Events, coded: Mapping[str, str]
    ) -> dict[str, tuple[float | None, ...]]:
        """Visit (patient) to a value a label."""
        diagnoses = Diagnoses(self.diagnoses or {})
        stray = 0
        for identifier, resource, place in found.of("Condition", events):
            patient = people.subject(resource.get("subject"), place)
            if patient is None:
                continue
            visit = _visit(resource.get("encounter"), patient, people, place)
            visit = visit or events.visit_of(patient, coded.get(identifier, ""), place)
            owner = patient if self.unit == "patient" else visit
            status = {text(coding, "code") for coding in items(resource.get("verificationStatus"), "coding")}
            if "entered-in-error" in status:
                events.skipped.append(("Condition is entered-in-error", place))
            elif not owner:
                stray += 1
            elif "refuted" in status:
                diagnoses.add(owner, "")
            else:
                for coding in items(resource.get("code"), "coding"):
                    code = f"{text(coding, 'system')}|{text(coding, 'code')}"
                    diagnoses.add(owner, code, certain=not status & _UNCERTAIN)
        if stray:
            events.messages.append(f"{stray} Conditions belong to no visit: they label no record")
        return diagnoses.labels()


def _visits(found: Found, people: People, events: Events) -> dict[str, str]:
    """Gather the Encounters; returns Condition id to the Encounter that lists it as its diagnosis."""
    coded: dict[str, str] = {}
    for identifier, resource, place in found.of("Encounter", events):
        patient = people.subject(resource.get("subject"), place)
        if patient is None:
            continue
        start = text(resource, "period", "start")
        row = {"encounter_class": text(resource, "class", "code")}
        events.add_visit(identifier, patient, row, place, {"VisitDate": start[:10]} if start else {})
        for diagnosis in items(resource, "diagnosis"):
            key = people.resources.key(diagnosis.get("condition"))
            if key is not None and key[0] == "Condition":
                coded.setdefault(key[1], identifier)
    return coded


def _visit(reference: Any, patient: str, people: People, place: str) -> str:
    """The Encounter that a resource names, where it is one of its own patient."""
    key = people.resources.key(reference)
    return people.events.visit_of(patient, key[1], place) if key is not None and key[0] == "Encounter" else ""
