"""``run.json``: what a run was asked, what it did, on which data, with what. Versioned; unknown keys are refused.

No field can hold a patient's id: ids come as counts and keyed hashes. ``evidence.json`` has its own models in
:mod:`forgetmi.audit.evidence_schema`. The JSON Schemas in ``schemas/`` are generated from these models
(``python -m forgetmi.audit.schema``), and a test keeps them in step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from forgetmi.audit.case import Case
from forgetmi.audit.document import Count, Document, Seconds, Sha256
from forgetmi.errors import AuditError

VERSIONS = {
    "run": "forgetmi.run/1",
    "evidence": "forgetmi.evidence/2",
    "exposure": "forgetmi.exposure/1",
    "compare": "forgetmi.compare/1",
}
SCHEMA_FOLDER = Path(__file__).parent / "schemas"


class Counts(Document):
    """How many."""

    patients: Count
    studies: Count
    samples: Count


class Environment(Document):
    """What the run ran on."""

    forgetmi: str
    python: str
    platform: str
    packages: dict[str, str] = Field(description="package name to installed version")
    device: str = Field(description="such as 'cpu' or 'cuda: NVIDIA H100'")


class RequestSummary(Document):
    """What was asked, without a single id."""

    level: Literal["institution", "patient", "study", "sample", "modality", "section"]
    source_kind: str = Field(description="csv, json, list, fhir, query, config, drawn: never a path")
    n_ids: Annotated[int, Field(ge=1)]
    digest: Sha256 = Field(description="keyed hash of level and sorted ids (forgetmi.pseudonyms.request_digest)")
    id_level: str | None = Field(default=None, description="what the ids name, where that is not the level")
    modalities: list[str] | None = None
    duplicates: Count = Field(default=0, description="ids that the source repeats")
    notes: list[str] = Field(default=[], description="how the source was understood, without ids")
    remains: list[str] = Field(default=[], description="what the request leaves of the same patients")


class DataSummary(Document):
    """The data, in counts."""

    name: str
    fingerprint: Sha256
    counts: dict[str, Counts] = Field(description="forget, retain, validation, test")
    split: str | None = Field(default=None, description="how the parts were drawn, in words")
    notes: list[str] = Field(default=[], description="what a reader must know first: 'films are rendered, not X-rays'")
    license_note: str | None = None
    skipped: dict[str, Count] = Field(default={}, description="reason to number of records that were not used")
    leftovers: dict[str, Count] = Field(default={}, description="level to what else hangs on the same patients")
    excluded: Count = Field(default=0, description="train records of the same patients, used on neither side")


class ModelEntry(Document):
    """One model's identity and cost."""

    weights_sha256: Sha256
    seconds: Seconds | None = Field(
        default=None, description="wall clock of training (or unlearning); null when not made here"
    )
    path: str | None = Field(default=None, description="relative to the run folder")
    seed: int | None = None
    n_parameters: Count | None = None
    parameters_per_patient: float | None = Field(default=None, description="over the patients that it was trained on")
    peak_memory_mb: float | None = None


class Models(Document):
    """The three models; what does not exist yet is null or empty."""

    original: ModelEntry
    unlearned: ModelEntry | None = None
    retrained: list[ModelEntry] = Field(default=[])


class MethodSummary(Document):
    """How the model was made to forget."""

    name: str
    paper: str | None = None
    summary: str | None = None
    options: dict[str, Any] = Field(default={})


class Stage(Document):
    """One step of the run."""

    name: str
    seconds: Seconds
    peak_memory_mb: float | None = None


class RunDocument(Document):
    """``run.json``."""

    schema_name: Literal["forgetmi.run/1"] = Field("forgetmi.run/1", alias="schema")
    name: str
    created: datetime = Field(description="when the run was first started")
    audited: datetime | None = Field(default=None, description="when its models were last audited")
    seed: int
    environment: Environment
    config_given: dict[str, Any] = Field(description="as written by the user, ids and secrets taken out")
    config_resolved: dict[str, Any]
    request: RequestSummary
    data: DataSummary
    models: Models
    method: MethodSummary
    stages: list[Stage] = Field(default=[])
    key_fingerprint: str | None = Field(
        default=None, description="start of a hash of the site's key: which key, not the key"
    )
    case: Case = Case()


def validate_document(
    document: Mapping[str, Any], kind: Literal["run", "evidence", "exposure", "compare"]
) -> dict[str, Any]:
    """The document, checked and complete with its defaults.

    Raises:
        AuditError: keys are missing, unknown or of the wrong type, or numbers are not finite; all of them are named.
    """
    try:
        return document_models()[kind].model_validate(dict(document)).to_json()
    except ValidationError as error:
        # values are not printed: a document that is wrong may hold what must not be shown
        listed = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)]
        raise AuditError(
            f"{kind}.json is not a valid {kind} document:\n  - " + "\n  - ".join(listed[:20]),
            expected=f"schema {VERSIONS[kind]}",
            fix="make it again with this version of forgetmi",
        ) from error


def document_models() -> dict[str, type[Document]]:
    """Kind to model."""
    from forgetmi.audit.compare_schema import CompareDocument
    from forgetmi.audit.evidence_schema import EvidenceDocument
    from forgetmi.audit.exposure_schema import ExposureDocument

    return {
        "run": RunDocument,
        "evidence": EvidenceDocument,
        "exposure": ExposureDocument,
        "compare": CompareDocument,
    }


def json_schema(kind: str) -> str:
    """The published JSON Schema of a kind of document, as text."""
    schema = document_models()[kind].model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


if __name__ == "__main__":
    for kind_of_document in document_models():
        (SCHEMA_FOLDER / f"{kind_of_document}.schema.json").write_text(json_schema(kind_of_document), encoding="utf-8")
