"""The benchmark's files are what it says, and a rule that errs would be seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from forgetmi.metrics.roc import auc

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import signals_rates

    return signals_rates


def test_a_quick_run_counts_every_file_and_writes_only_where_told(bench, tmp_path):
    assert bench.main(["--files", "6", "--results", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "signals_rates.json").read_text())
    assert [row["files"] for row in results["rows"].values()] == [6, 3]
    assert all(sum(row["outcomes"].values()) == row["files"] for row in results["rows"].values())
    assert results["rows"]["without leakage"]["attacks"] == ["entropy", "loss", "modified_entropy"]
    # the audit's own statement is the leakage that is planted
    assert results["rows"]["at the limit"]["stated_limit"] == pytest.approx(bench.stated_limit())
    assert "| at the limit | loss | 3 |" in (tmp_path / "signals_rates.md").read_text()


def test_the_planted_auc_is_the_limit_and_none_is_planted_without(bench, monkeypatch):
    monkeypatch.setattr(bench, "MEMBERS", 4000)
    monkeypatch.setattr(bench, "OUTSIDERS", 6000)
    monkeypatch.setattr(bench, "stated_limit", lambda: 0.683)
    planted = bench.at_the_limit(np.random.default_rng(0))
    assert auc(planted["phi"], planted["part"] == "member") == pytest.approx(0.683, abs=0.02)
    none = bench.without_leakage(np.random.default_rng(0))
    right = np.take_along_axis(none[["logit_0", "logit_1", "logit_2"]].to_numpy(), none[["label"]].to_numpy(), 1)[:, 0]
    assert auc(right, none["part"] == "member") == pytest.approx(0.5, abs=0.02)
    assert none.groupby("patient").size().between(1, 3).all()


def test_leakage_that_is_called_none_would_be_seen(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "without_leakage", bench.at_the_limit)
    assert bench.main(["--files", "12", "--results", str(tmp_path)]) == 1
