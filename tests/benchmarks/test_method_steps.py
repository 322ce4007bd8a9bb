"""No method takes more passes than its equations need, and the count would show it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from forgetmi.methods import METHODS

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = [
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "cf_k",
    "delete",
    "eu_k",
    "fine_tune",
    "fisher_forgetting",
    "forget_mi",
    "gradient_ascent",
    "influence",
    "l1_sparse",
    "multi_delete",
    "neg_grad_plus",
    "npo",
    "random_labels",
    "salun",
    "scrub",
    "scrub_r",
    "sisa",
    "ssd",
]


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import method_steps

    return method_steps


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_and_no_more(steps, name):
    found = steps.count_passes(name, steps.cases()[name])
    assert found["ok"], found
    assert name in METHODS and set(steps.cases()) == set(NAMES)


def test_one_pass_too_many_for_each_record_is_seen(steps):
    case = steps.cases()["delete"]
    assert not steps.count_passes("delete", replace(case, trained=case.trained - steps.N_FORGET - 1))["ok"]
    assert not steps.count_passes("delete", replace(case, trained=case.trained + 1))["ok"]


def test_results_are_written_and_gradients_agree(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "cases", lambda: {"delete": CASE})
    CASE = steps.Case({"fit": steps.FIT}, 24, 8)
    monkeypatch.setitem(steps.LIMITS, "speedup", 0.0)  # a busy machine says nothing about speed
    assert steps.main(["--quick", "--results", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "method_steps.json").read_text())
    assert results["gradients"]["relative_difference"] <= 1e-6
    page = (tmp_path / "method_steps.md").read_text()
    assert "| `delete` | 24 | 24 | 8 | 8 |" in page and "times** as fast" in page
