"""The benchmark of large sources, at a hundredth of the sizes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ingest.py"


@pytest.fixture(scope="module")
def ingest():
    spec = importlib.util.spec_from_file_location("ingest_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_quick_run_measures_both_sources_and_leaves_nothing(ingest, tmp_path):
    assert ingest.main(["--quick", "--folder", str(tmp_path / "scratch"), "--results", str(tmp_path / "results")]) == 0
    found = json.loads((tmp_path / "results" / "ingest.json").read_text())
    mimic, nih = found["results"]
    assert (mimic["records"] + mimic["skipped"], mimic["requested_patients"]) == (3771, 10)
    assert mimic["skipped"] >= 1 and mimic["studies"] == 2278 - 1 and mimic["patients"] <= 653
    assert (nih["records"], nih["patients"], nih["skipped"]) == (1121, 308, 0)
    assert found["machine"]["scale"] == 100
    assert not list((tmp_path / "scratch").iterdir())
    page = (tmp_path / "results" / "ingest.md").read_text()
    assert "--quick" in page and "| mimic_cxr | " in page


def test_the_limits_are_those_of_the_processor_and_of_memory(ingest):
    run = {"adapter": "nih_cxr14", "user_s": 1.5, "system_s": 0.4, "peak_mb": 300, "seconds": 9.0}
    assert not ingest.is_over(run)
    assert ingest.is_over({**run, "system_s": 0.6}) and ingest.is_over({**run, "peak_mb": 1600})
    runs = [{**run, "seconds": s, "peak_mb": s * 100} for s in (3.0, 1.0, 2.0)]
    assert (ingest.median_run(runs)["seconds"], ingest.median_run(runs)["peak_mb"]) == (2.0, 300)
