"""The people of a FHIR export, what is about them, and the imaging studies that join them to DICOM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from forgetmi.data_adapters.events import Events
from forgetmi.data_adapters.fhir_resources import Key, Resources, items, text, token
from forgetmi.errors import DataError

# What was entered wrongly, or taken back, says nothing about the patient.
_WITHDRAWN = {"entered-in-error", "cancelled", "superseded"}


@dataclass
class Found:
    """Resources by type.

    Attributes:
        read: the types that are kept, beside Patient and Binary: others would fill the memory for nothing.
        patients: id, resource and ``file:line``.
        binaries: id to content.
        unread: how many resources of other types are about somebody.
    """

    read: Collection[str]
    patients: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    binaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    _others: dict[str, dict[str, tuple[dict[str, Any], str]]] = field(default_factory=dict)
    _repeated: list[tuple[str, str, dict[str, Any], str]] = field(default_factory=list)

    def add(self, identifier: str, resource: dict[str, Any], place: str) -> None:
        """One resource."""
        kind = resource["resourceType"]
        if kind == "Patient":
            self.patients.append((identifier, resource, place))
        elif kind == "Binary":
            self.binaries[identifier] = {k: resource[k] for k in ("contentType", "data") if k in resource}
        elif kind in self.read:
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

    def settle_repeated(self, people: People) -> None:
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


class People:
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


def studies_of(found: Found, people: People) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str]]]:
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
        aliases += [(identifier, uids[0]), *((accession, uids[0]) for accession in accessions(resource))]
    return studies, aliases


def accessions(resource: dict[str, Any]) -> list[str]:
    """Accession numbers among the identifiers (HL7 table 0203, code ACSN)."""
    return [
        text(item, "value")
        for item in items(resource, "identifier")
        if any(text(coding, "code") == "ACSN" for coding in items(item.get("type"), "coding")) and text(item, "value")
    ]
