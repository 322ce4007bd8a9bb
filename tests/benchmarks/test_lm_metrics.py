"""The benchmark's sides come to the same values, and a difference would be seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import lm_metrics
    from lm_metrics_bench import extraction

    monkeypatch.setitem(extraction.MODEL, "n_embd", 16)
    return lm_metrics


def test_a_quick_run_writes_both_files_only_where_told_and_keeps_other_parts(bench, tmp_path, monkeypatch):
    class Other:
        @staticmethod
        def page(found):
            return [f"kept: {found['kept']}"]

    monkeypatch.setitem(bench.PARTS, "other", Other)
    (tmp_path / "lm_metrics.json").write_text(json.dumps({"other": {"kept": 7, "machine": "another"}}))
    arguments = ["--quick", "--parts", "extraction"]
    assert bench.main([*arguments, "--results", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "lm_metrics.json").read_text())
    assert found["other"] == {"kept": 7, "machine": "another"}
    random, trained = found["extraction"]["cases"]
    assert (random["model"], trained["model"]) == ("random weights", "lightly trained")
    for case in (random, trained):
        assert case["difference"]["EL"] <= 1e-12 and case["difference"]["accuracy"] <= 1e-12
        assert 0 < case["decoded"] <= case["offsets"] == 6 * 23
        assert set(case["seconds"]) == {"package", "one by one", "together"}
    text = (tmp_path / "lm_metrics.md").read_text()
    assert "| random weights |" in text and "kept: 7" in text


def test_other_values_and_a_slow_side_are_seen(bench, monkeypatch):
    from lm_metrics_bench import extraction

    real = extraction.by_package

    def other(model, texts):
        found = real(model, texts)
        return replace(found, values=np.where(found.values == 0, 1e-6, found.values))

    monkeypatch.setattr(extraction, "by_package", other)
    monkeypatch.setattr(extraction, "TARGET", 1e9)
    problems = extraction.broken(extraction.measure(quick=True))
    assert sum("EL differs" in problem for problem in problems) == 2
    assert sum("times as fast" in problem for problem in problems) == 2
