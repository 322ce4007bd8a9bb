"""FHIR R4 bulk exports: reports, documents and observations, with one person's several ids brought together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.events import Aggregate, Events, Note
from forgetmi.data_adapters.fhir_resources import (
    Key,
    Resources,
    attachment_text,
    code_of,
    items,
    text,
    token,
    value_of,
)
from forgetmi.data_adapters.label_table import LabelTable
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import RecordDataset

_LABEL_IDS = ("patient", "visit", "study", "sample")
# What was entered wrongly, or taken back, says nothing about the patient.
_WITHDRAWN = {"entered-in-error", "cancelled", "superseded"}


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

    def __post_init__(self) -> None:
        problems = []
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            problems.append("modalities: name text, tabular or both, each once")
        if self.unit == "note" and "text" not in self.modalities:
            problems.append("unit: a record that is a note needs the modality text")
        if self.labels is not None and self.labels.ids not in _LABEL_IDS:
            problems.append(f"labels.ids: {self.labels.ids!r} is unknown. {did_you_mean(self.labels.ids, _LABEL_IDS)}")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the export. Nothing is written. Lines that cannot be used are counted with ``file:line``.

        Raises:
            DataError: no file, an unreadable one, no Patient, several servers without ``base_url``, one Patient.id with
                two dates of birth, or a label table that does not fit.
        """
        resources = Resources(self.root, self.base_url)
        found = _Found()
        for identifier, resource, place in resources:
            found.add(identifier, resource, place)
        events = Events(self.unit, self.aggregate)
        people = _People(found.patients, resources, events)
        found.settle_repeated(people)
        studies, study_aliases = _studies(found, people)
        visits = self._visits(found, people, events)
        if "text" in self.modalities:
            self._notes(found, people, events, visits, studies, study_aliases)
        if "tabular" in self.modalities:
            self._observations(found, people, events, visits)
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
        return events.dataset(self, modalities=self.modalities, labels=self.labels, aliases=aliases)

    def _visits(self, found: _Found, people: _People, events: Events) -> dict[str, str]:
        """Encounter id to patient."""
        visits: dict[str, str] = {}
        for identifier, resource, place in found.of("Encounter", events):
            patient = people.subject(resource.get("subject"), place)
            if patient is None:
                continue
            visits[identifier] = patient
            start = text(resource, "period", "start")
            row = {"encounter_class": text(resource, "class", "code")}
            events.add_visit(identifier, patient, row, place, {"VisitDate": start[:10]} if start else {})
        return visits

    def _visit(self, reference: Any, patient: str, people: _People, visits: dict[str, str], place: str) -> str:
        key = people.resources.key(reference)
        if key is None or key[0] != "Encounter" or key[1] not in visits:
            return ""
        if visits[key[1]] != patient:
            raise DataError(
                "a resource names the Encounter of another patient",
                where=place,
                expected="an Encounter of the resource's own subject",
                fix="if both ids are one person, the export lacks a Patient.link between them",
                private=[f"{place}: Encounter/{key[1]}"],
            )
        return key[1]

    def _notes(
        self,
        found: _Found,
        people: _People,
        events: Events,
        visits: dict[str, str],
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
                visit = next((v for r in encounters if (v := self._visit(r, patient, people, visits, place))), "")
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
                    study_aliases += [(accession, study) for accession in _accessions(resource)]
                events.notes.append(Note(f"{kind}/{identifier}", patient, visit, time, words, place, study))

    def _study_uids(
        self, references: list[Any], patient: str, people: _People, studies: dict[str, tuple[str, str]], place: str
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
        self, kind: str, resource: dict[str, Any], found: _Found, people: _People, events: Events, place: str
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

    def _observations(self, found: _Found, people: _People, events: Events, visits: dict[str, str]) -> None:
        wanted = None if self.codes is None else set(self.codes)
        for _, resource, place in found.of("Observation", events):
            patient = people.subject(resource.get("subject"), place)
            if patient is None:
                continue
            visit = self._visit(resource.get("encounter"), patient, people, visits, place)
            time = text(resource, "effectiveDateTime") or text(resource, "effectivePeriod", "start")
            time = time or text(resource, "effectiveInstant") or text(resource, "issued")
            for part in (resource, *items(resource, "component")):
                name = code_of(part.get("code"))
                value, unit = value_of(part)
                if name and value is not None and (wanted is None or name in wanted):
                    # The unit is part of the name: mg/dL and mmol/L of one code are not one column.
                    events.add_value(patient, visit, f"{name} [{unit}]" if unit else name, time, value)


@dataclass
class _Found:
    """Resources by type, those that are read."""

    patients: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    binaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    _others: dict[str, dict[str, tuple[dict[str, Any], str]]] = field(default_factory=dict)
    _repeated: list[tuple[str, str, dict[str, Any], str]] = field(default_factory=list)

    def add(self, identifier: str, resource: dict[str, Any], place: str) -> None:
        kind = resource["resourceType"]
        if kind == "Patient":
            self.patients.append((identifier, resource, place))
        elif kind == "Binary":
            self.binaries[identifier] = {k: resource[k] for k in ("contentType", "data") if k in resource}
        elif kind in ("Encounter", "ImagingStudy", "DiagnosticReport", "DocumentReference", "Observation"):
            if identifier in self._others.setdefault(kind, {}):
                self._repeated.append((kind, identifier, resource, place))
            else:
                self._others[kind][identifier] = (resource, place)
        elif "subject" in resource or "patient" in resource:
            self.unread[kind] += 1

    def of(self, kind: str, events: Events) -> Iterator[tuple[str, dict[str, Any], str]]:
        """The resources of a type that were not taken back."""
        for identifier, (resource, place) in self._others.get(kind, {}).items():
            if (status := text(resource, "status")) in _WITHDRAWN:
                events.skipped.append((f"{kind} is {status}", place))
            else:
                yield identifier, resource, place

    def settle_repeated(self, people: _People) -> None:
        """Of one type and id, the first counts, where all are about one person.

        Raises:
            DataError: they are not.
        """
        for kind, identifier, resource, place in self._repeated:
            first, first_place = self._others[kind][identifier]
            if people.find(first.get("subject")) != people.find(resource.get("subject")):
                raise DataError(
                    f"one {kind}.id stands for two patients' resources: the export may mix two systems",
                    where=place,
                    expected=f"one resource for each {kind}.id",
                    fix="give each system's export its own folder",
                    private=[f"{first_place}, {place}: {kind}/{identifier}"],
                )
            people.events.skipped.append((f"{kind} repeated (the same id)", place))


class _People:
    """Patients, with linked ones as one person."""

    def __init__(self, patients: list[tuple[str, dict[str, Any], str]], resources: Resources, events: Events) -> None:
        if not patients:
            raise DataError(
                "the export holds no Patient resource",
                where=str(resources.root),
                expected="a file with the Patient resources: they say which ids are one person",
                fix="export the type Patient as well",
                private=[f"{place}: {reason}" for reason, place in resources.skipped[:10]],
            )
        self.resources, self.events = resources, events
        self._parent = {identifier: identifier for identifier, _, _ in patients}
        self._replaced: set[str] = set()
        self._tokens: dict[Key, set[str]] = {}
        births: dict[str, str] = {}
        for identifier, resource, place in patients:
            birth = text(resource, "birthDate")
            if birth and births.setdefault(identifier, birth) != birth:
                raise DataError(
                    "one Patient.id stands for two dates of birth: the export may mix two systems",
                    where=place,
                    expected="one person for each Patient.id",
                    fix="give each system's export its own folder",
                    private=[f"{place}: Patient/{identifier}"],
                )
            for item in items(resource, "identifier"):
                if value := text(item, "value"):
                    self._tokens.setdefault((text(item, "system"), value), set()).add(identifier)
            self._link(identifier, resource, place)
        # The id that remains: one that no other replaces; among several, the first in order.
        remaining: dict[str, str] = {}
        for identifier in sorted(self._parent, key=lambda i: (i in self._replaced, i)):
            remaining.setdefault(self._root(identifier), identifier)
        self._canonical = {identifier: remaining[self._root(identifier)] for identifier in self._parent}
        for identifier, resource, place in sorted(patients, key=lambda p: self._canonical[p[0]] == p[0]):
            birth = text(resource, "birthDate")[:4]
            row = {"gender": text(resource, "gender"), "birth_year": float(birth) if birth.isdecimal() else None}
            known = {name: value for name, value in row.items() if value not in (None, "")}
            events.add_patient(self._canonical[identifier], known, place)
        merged = len(self._canonical) - len(remaining)
        if merged:
            events.messages.append(f"{merged} Patient resources are linked to another one: they are the same people")

    def _link(self, identifier: str, resource: dict[str, Any], place: str) -> None:
        for link in items(resource, "link"):
            key = self.resources.key(link.get("other"))
            if key is None or (key[0] == "Patient" and key[1] not in self._parent):
                self.events.skipped.append(("Patient.link leads out of the export", place))
            elif key[0] == "Patient":
                kind = text(link, "type")
                self._parent[self._root(identifier)] = self._root(key[1])
                self._replaced |= {identifier} if kind == "replaced-by" else {key[1]} if kind == "replaces" else set()

    def _root(self, identifier: str) -> str:
        while self._parent[identifier] != identifier:
            self._parent[identifier] = self._parent[self._parent[identifier]]
            identifier = self._parent[identifier]
        return identifier

    def find(self, reference: Any) -> str | None:
        """The person that a reference means, by id or by identifier."""
        key = self.resources.key(reference)
        identifier = key[1] if key is not None and key[0] == "Patient" else ""
        written = text(reference, "reference")
        if written.startswith("urn:uuid:"):
            # It means the same thing everywhere, also where no Bundle said whose address it is.
            identifier = identifier or written.removeprefix("urn:uuid:")
        if identifier in self._canonical:
            return self._canonical[identifier]
        named = token(reference)
        owners = {self._canonical[i] for i in self._tokens.get(named, ())} if named is not None else set()
        return owners.pop() if len(owners) == 1 else None

    def subject(self, reference: Any, place: str) -> str | None:
        """The person that a resource is about; where there is none, it is counted."""
        person = self.find(reference)
        if person is None:
            key = self.resources.key(reference)
            about = key[0] if key is not None else "Patient"
            reason = "not among the Patients of the export" if about == "Patient" else f"a {about}"
            self.events.skipped.append((f"subject is {reason}", place))
        return person

    def aliases(self) -> list[tuple[str, str]]:
        """Merged ids and identifiers, each with the person's id."""
        pairs = list(self._canonical.items())
        for (system, value), owners in self._tokens.items():
            for owner in owners:
                pairs.append((value, self._canonical[owner]))
                if system:
                    pairs.append((f"{system}|{value}", self._canonical[owner]))
        return pairs


def _studies(found: _Found, people: _People) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str]]]:
    """ImagingStudy id to patient and StudyInstanceUID; and other ids of these studies."""
    studies: dict[str, tuple[str, str]] = {}
    aliases: list[tuple[str, str]] = []
    for identifier, resource, place in found.of("ImagingStudy", people.events):
        patient = people.subject(resource.get("subject"), place)
        uids = [
            text(item, "value").removeprefix("urn:oid:")
            for item in items(resource, "identifier")
            if text(item, "system") == "urn:dicom:uid"
        ]
        if patient is None:
            continue
        if not uids or not uids[0]:
            people.events.skipped.append(("ImagingStudy without a StudyInstanceUID", place))
            continue
        studies[identifier] = (patient, uids[0])
        aliases += [(identifier, uids[0]), *((accession, uids[0]) for accession in _accessions(resource))]
    return studies, aliases


def _accessions(resource: dict[str, Any]) -> list[str]:
    """Accession numbers among the identifiers (HL7 table 0203, code ACSN)."""
    return [
        text(item, "value")
        for item in items(resource, "identifier")
        if any(text(coding, "code") == "ACSN" for coding in items(item.get("type"), "coding")) and text(item, "value")
    ]
