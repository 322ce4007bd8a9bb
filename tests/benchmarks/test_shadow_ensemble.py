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
    assert 1e-12 < case["difference"] <= 1e-4  # rounding in single precision
    assert case["double"] <= 1e-12
    assert set(case["seconds"]) == {"ensemble", "house loop", "bare loop"}
    assert "| late | 64 |" in (tmp_path / "shadow_ensemble.md").read_text()


def test_other_weights_are_seen(bench, monkeypatch):
    real = bench.bare_loop
    monkeypatch.setitem(
        bench.SIDES, "bare loop", lambda heads, loader, trains, recipe: real(heads, loader, trains[::-1], recipe)
    )
    assert bench.main(["--quick", "--models", "3"]) == 1


def test_rounding_that_grows_is_told_and_not_judged(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "compare", lambda *case: {**worked(), "difference": 6e-3, "double": 2e-13})
    assert bench.main(["--quick"]) == 0
    assert "| 6e-03 | 2e-13 |" in capsys.readouterr().out
    monkeypatch.setattr(bench, "compare", lambda *case: {**worked(), "difference": 1e-11, "double": 2e-10})
    assert bench.main(["--quick"]) == 1


def test_double_is_added_to_results_that_are_there(bench, tmp_path):
    with pytest.raises(SystemExit):
        bench.main(["--double", "--results", str(tmp_path)])
    results = {"models": 2, "turns": 1, "cases": [worked()], "machine": "a machine", "load": "load 0", "target": ""}
    (tmp_path / "shadow_ensemble.json").write_text(json.dumps(results))
    assert bench.main(["--double", "--results", str(tmp_path)]) == 0
    (case,) = json.loads((tmp_path / "shadow_ensemble.json").read_text())["cases"]
    assert {name: case[name] for name in worked()} == worked()
    assert case["double"] <= 1e-12
    assert f"| 3e-05 | {case['double']:.0e} |" in (tmp_path / "shadow_ensemble.md").read_text()


def worked() -> dict:
    """A case of two models and two epochs of two steps."""
    seconds = {side: [{"1": 1.0}] for side in ("ensemble", "house loop", "bare loop")}
    ratios = {"house loop": [2.0], "bare loop": [2.0]}
    counts = {"fusion": "gate", "width": 64, "models": 2, "weights": 10, "steps": 4}
    ratio = {name: found[0] for name, found in ratios.items()}
    return {**counts, "seconds": seconds, "ratio": ratio, "ratios": ratios, "difference": 3e-5}
