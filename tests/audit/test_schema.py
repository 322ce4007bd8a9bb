"""The published JSON Schemas are those of the code."""

from __future__ import annotations

import json

import pytest

from forgetmi.audit.schema import SCHEMA_FOLDER, VERSIONS, json_schema, validate_document
from forgetmi.errors import AuditError
from tests.audit.synthetic import run_document


@pytest.mark.parametrize("kind", list(VERSIONS))
def test_the_committed_schema_is_in_step(kind):
    committed = (SCHEMA_FOLDER / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema(kind), "run: python -m forgetmi.audit.schema"
    assert json.loads(committed)["properties"]["schema"]["const"] == VERSIONS[kind]


def test_documents_survive_being_written_and_read(evidence):
    run = validate_document(run_document(evidence), "run")
    assert validate_document(json.loads(json.dumps(run, allow_nan=False)), "run") == run
    assert validate_document(json.loads(json.dumps(evidence, allow_nan=False)), "evidence") == evidence


@pytest.mark.parametrize(
    "change",
    [{"schema": "forgetmi.run/2"}, {"seed": 1.5}, {"extra": 1}, {"request": {"level": "ward", "n_ids": 0}}],
)
def test_documents_of_another_shape_are_refused(evidence, change):
    with pytest.raises(AuditError, match="not a valid run document"):
        validate_document({**run_document(evidence), **change}, "run")
