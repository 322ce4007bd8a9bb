"""The benchmark of attacks and statistics: its cases at a small size, peers by their files, its arithmetic."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("membership_script", FOLDER / "membership.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


@pytest.mark.parametrize(
    "case", ["rmia", "lira_online", "lira_online_median", "lira_offline", "lira_one_sided", "roc", "bootstrap"]
)
def test_a_case_finds_what_was_planted(bench, case):
    from membership_bench.measure import measure

    found = measure(case, "ours", None, 20, memory=False)
    again = measure(case, "ours", None, 20, memory=False)
    assert found["outcome"] == again["outcome"] > 0.55
    assert found["seconds"] > 0 and measure(case, "ours", None, 20, memory=True)["mib"] > 0


def test_rmia_needs_little_memory(bench):
    from membership_bench.cases import CASES
    from membership_bench.measure import measure

    assert measure("rmia", "ours", None, 1, memory=True)["mib"] < CASES["rmia"].mib


def test_a_checkout_is_known_by_its_files_and_run_from_there(bench, tmp_path):
    (tmp_path / "run_range_mia.py").touch()
    (tmp_path / "attacks.py").write_text(
        "import numpy as np\n"
        "def run_rmia(index, signals, population, seen, n, a):\n"
        "    assert signals.shape == (500, 66) and population.shape == (125, 66) and n == 32\n"
        "    return np.asarray(seen[:, index], dtype=float)\n"
    )
    out = tmp_path / "out"
    given = ["--quick", "--cases", "rmia", "--peer", str(tmp_path), "--out", str(out)]
    assert bench.main([*given, "--divisor", "20"]) == 0
    sides = json.loads((out / "membership.json").read_text())["results"]["rmia"]
    assert list(sides) == ["ours", "ml_privacy_meter"]
    assert sides["ml_privacy_meter"]["failed"].startswith("AssertionError")  # 1,000 records, and 500 are expected
    assert "not run: AssertionError" in (out / "membership.md").read_text()
    from membership_bench.measure import in_process

    found = in_process(FOLDER / "membership.py", "rmia", "ml_privacy_meter", tmp_path, 20, memory=False)
    assert found["outcome"] == 1.0


def test_a_folder_without_a_known_file_is_refused(bench, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--peer", str(tmp_path)])
    assert "no checkout of ml_privacy_meter" in capsys.readouterr().err


def test_targets(bench):
    from membership_bench.page import fastest, missed

    def side(seconds, mib=1.0):
        return {"seconds": 9.0, "processor_s": seconds, "mib": mib}

    sides = {"ours": side(0.1), "a": side(3.0), "b": side(2.1), "c": {"failed": "no"}}
    assert fastest(sides) == ("b", pytest.approx(21))
    assert missed({"rmia": sides}) == []
    assert "20.0 x b's speed" not in str(missed({"rmia": sides}))
    assert len(missed({"rmia": {**sides, "d": side(1.9)}})) == 1
    assert "2 MiB allowed" in missed({"rmia": {"ours": side(0.1, 2.1)}})[0]
    assert missed({"roc": {"ours": side(1.0), "a": side(0.9)}})
    assert missed({"roc": {"ours": {"failed": "why"}}})
