"""Tiny FHIR R4 resources of the true format. Nothing in them is a patient's."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

MRN = "http://hospital.example/mrn"


def write_lines(path: Path, *lines: Any) -> Path:
    """One line a resource; text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(written) if path.suffix == ".gz" else written)
    return path


def patient(identifier: str, *, mrn: str = "", system: str = MRN, links: Any = (), **more: Any) -> dict[str, Any]:
    """``links``: (type, reference) pairs."""
    found: dict[str, Any] = {"resourceType": "Patient", "id": identifier, **more}
    if mrn:
        found["identifier"] = [{"system": system, "value": mrn, "type": {"coding": [{"code": "MR"}]}}]
    if links:
        found["link"] = [{"type": kind, "other": {"reference": other}} for kind, other in links]
    return found


def attachment(words: str, kind: str = "text/plain", encoding: str = "utf-8") -> dict[str, str]:
    return {"contentType": kind, "data": base64.b64encode(words.encode(encoding)).decode()}


def report(identifier: str, subject: str, words: str = "clear lungs", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "DiagnosticReport",
        "id": identifier,
        "status": "final",
        "subject": {"reference": subject},
        "effectiveDateTime": "2020-01-02T03:04:05Z",
        "presentedForm": [attachment(words)],
        **more,
    }


def document(identifier: str, subject: str, words: str = "a letter", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "DocumentReference",
        "id": identifier,
        "status": "current",
        "subject": {"reference": subject},
        "date": "2020-01-02T08:00:00Z",
        "content": [{"attachment": attachment(words)}],
        **more,
    }


def observation(
    identifier: str, subject: str, code: str, value: Any, unit: str = "", *, time: str = "2020-01-02", **more: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "id": identifier,
        "status": "final",
        "subject": {"reference": subject},
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "effectiveDateTime": time,
    }
    if isinstance(value, int | float) and not isinstance(value, bool):
        found["valueQuantity"] = {"value": value, "code": unit} if unit else {"value": value}
    elif value is not None:
        found["valueString"] = value
    return {**found, **more}


def imaging(identifier: str, subject: str, uid: str, accession: str = "") -> dict[str, Any]:
    identifiers: list[dict[str, Any]] = [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}]
    if accession:
        identifiers.append({"type": {"coding": [{"code": "ACSN"}]}, "value": accession})
    return {
        "resourceType": "ImagingStudy",
        "id": identifier,
        "status": "available",
        "subject": {"reference": subject},
        "identifier": identifiers,
        "series": [{"uid": f"{uid}.1", "instance": [{"uid": f"{uid}.1.1"}]}],
    }


def encounter(identifier: str, subject: str, start: str = "2020-01-02T00:00:00Z") -> dict[str, Any]:
    found = {"resourceType": "Encounter", "id": identifier, "status": "finished", "subject": {"reference": subject}}
    return {**found, "class": {"code": "IMP"}, "period": {"start": start}}
