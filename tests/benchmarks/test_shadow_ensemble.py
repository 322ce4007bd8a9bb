"""The benchmark's sides come to the same weights, and a difference would be seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import shadow_ensemble

    monkeypatch.setattr(shadow_ensemble, "RECORDS", 90)
    monkeypatch.setattr(shadow_ensemble, "WIDTHS", {"image": 6, "text": 5})
    return shadow_ensemble


def test_a_quick_run_writes_both_files_only_where_told(bench, tmp_path):
    arguments = ["--quick", "--models", "3", "--epochs", "2"]
    assert bench.main([*arguments, "--results", str(tmp_path)]) == 0
    (case,) = json.loads((tmp_path / "shadow_ensemble.json").read_text())["cases"]
    assert case["models"] == 3
    assert case["difference"] <= 1e-4
    assert set(case["seconds"]) == {"ensemble", "house loop", "bare loop"}
    assert "| late | 64 |" in (tmp_path / "shadow_ensemble.md").read_text()


def test_other_weights_are_seen(bench, monkeypatch):
    real = bench.bare_loop
    monkeypatch.setitem(
        bench.SIDES, "bare loop", lambda heads, loader, trains, recipe: real(heads, loader, trains[::-1], recipe)
    )
    assert bench.main(["--quick", "--models", "3"]) == 1
