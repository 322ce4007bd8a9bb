"""Measured and declared figures: hand-worked combinations, and none where nothing is declared."""

from __future__ import annotations

import pytest

from forgetmi.audit.declared import combine, precision
from forgetmi.audit.evidence_sections import DeclaredEvidence
from forgetmi.metrics.intervals import clopper_pearson


def evidence(found=18, accused=15):
    def model(tp, fp):
        return {"found": tp, "accused": fp, "low": 0, "high": 0, "share": tp / 30}

    known = {"original": model(found, accused), "unlearned": model(0, 0), "retrained": [model(2, 14), model(1, 15)]}
    people = {"patients": 30, "outsiders": 300, "level": 0.95, "known": known}
    return {"people": people, "options": {"people_fpr": 0.05, "headline": "loss"}}


def test_precision_is_bayes():
    assert precision(0.1, 0.6, 0.05) == pytest.approx(0.06 / 0.105)
    assert precision(0.3, 0.05, 0.05) == pytest.approx(0.3)  # an attack that sees nothing leaves the prior
    assert precision(0.3, 0.2, 0.0) == 1.0
    assert precision(0.3, 0.0, 0.0) is None


def test_a_case_worked_by_hand():
    found = combine({"prior": 0.1, "subjects": 1000, "records_per_subject": 2.0}, evidence())
    original = found["combined"]["original"]
    assert original["precision"] == pytest.approx(0.571428571)
    assert original["exposed_subjects"] == pytest.approx(60.0)
    assert original["exposed_records"] == pytest.approx(120.0)
    tpr, fpr = clopper_pearson(18, 30, 0.975), clopper_pearson(15, 300, 0.975)
    assert original["precision_low"] == pytest.approx(precision(0.1, tpr.low, fpr.high))
    assert original["precision_high"] == pytest.approx(precision(0.1, tpr.high, fpr.low))
    assert original["precision_low"] < original["precision"] < original["precision_high"]
    assert found["combined"]["unlearned"]["precision"] is None  # nobody is named
    assert found["combined"]["unlearned"]["exposed_subjects"] == 0.0
    DeclaredEvidence.model_validate(found)


def test_nothing_is_combined_when_no_prior_is_declared():
    found = combine({"subjects": 1000, "sensitivity": "a psychiatric diagnosis"}, evidence())
    assert found["combined"] is None
    assert "case.prior" in found["reason"]
    assert found["measured"]["original"]["tpr"] == pytest.approx(0.6)
    assert found["sensitivity"] == "a psychiatric diagnosis"
    DeclaredEvidence.model_validate(found)


def test_without_subjects_only_the_precision_follows():
    original = combine({"prior": 0.01}, evidence())["combined"]["original"]
    assert original["precision"] == pytest.approx(0.006 / (0.006 + 0.0495))
    assert original["exposed_subjects"] is original["exposed_records"] is None
