"""What people declare is shown as declared, and nothing else."""

from __future__ import annotations

import datetime
import json

import pytest
from pydantic import ValidationError

from forgetmi.audit.case import Case
from forgetmi.config import CaseConfig


def test_nothing_is_declared_by_default():
    assert set(Case().to_json().values()) == {None}


def test_a_day_is_read_from_yaml_and_from_a_written_config():
    for given in (datetime.date(2027, 1, 31), "2027-01-31"):
        case = CaseConfig.model_validate({"expiry": given})
        assert json.loads(json.dumps(case.to_json()))["expiry"] == "2027-01-31"


@pytest.mark.parametrize(
    "wrong",
    [{"prior": 0.0}, {"prior": 1.0}, {"regime": "gdpr"}, {"subjects": 0}, {"subjects": "3"}, {"release_type": "api"},
     {"expiry": "soon"}, {"patient": "x"}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        CaseConfig.model_validate(wrong)


def test_a_legal_judgement_is_not_quoted():
    with pytest.raises(ValidationError, match="no legal judgement"):
        CaseConfig.model_validate({"dpo_advice": "This is GDPR-Compliant."})
