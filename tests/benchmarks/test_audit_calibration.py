"""The calibration benchmark: one audit, and the sums that its page shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import audit_calibration as benchmark

SMALL = benchmark.Setting("small", (12, 30, 12, 20), 60, 0.2)


@pytest.fixture(scope="module")
def audit():
    with pytest.MonkeyPatch.context() as patch:
        options = benchmark.AuditOptions(attacks=("loss", "calibrated"), published_svc=False, n_bootstrap=200)
        patch.setattr(benchmark, "OPTIONS", options)
        return benchmark.one_audit(SMALL, 0)


def test_an_audit_judges_every_candidate(audit):
    assert set(audit["decisions"]) == {
        "original",
        "half forgotten",
        "over-forgotten",
        *(f"held-out retrained {i}" for i in range(benchmark.HELD_OUT)),
    }
    assert set(audit["decisions"].values()) <= {"pass", "fail", "inconclusive"}
    assert audit["true_auc"] > audit["null_auc"]


def test_rates_count_what_failed(audit):
    alarm = {**audit, "decisions": {**audit["decisions"], "held-out retrained 0": "fail", "original": "pass"}}
    clear = dict.fromkeys(audit["decisions"], "pass") | {"original": "fail"}
    row = benchmark.summary(SMALL, [alarm, {**audit, "decisions": clear}])
    others = sum(audit["decisions"][f"held-out retrained {i}"] == "fail" for i in range(1, benchmark.HELD_OUT))
    assert row["false_alarms"] == 1 + others and row["held_out"] == 2 * benchmark.HELD_OUT
    assert row["original"] == {"pass": 1, "fail": 1} and row["power"] == 0.5
    overall = benchmark.judged([{**row, "detectable": True}])
    assert overall["power"] == 0.5 and not overall["power_reached"]
    assert overall["false_alarm_share"] == row["false_alarms"] / row["held_out"]
    assert benchmark.judged([{**row, "detectable": False}])["power"] is None
    page = benchmark.page(
        {"quick": True, "audits": 2, "minutes": 1.0, "machine": {"cores": 2}, "settings": [row], "overall": overall}
    )
    assert "| NO |" in page
