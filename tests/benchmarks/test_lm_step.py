"""The benchmark of language-model steps: all sides compute the same losses, and the script writes what can be read."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip
METHODS = ("npo", "npo_kl", "dpo", "grad_diff", "rmu", "flat")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("lm_step_script", FOLDER / "lm_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setting(bench):
    from lm_bench.data import Setting

    return Setting("npo", records=5, batch_size=3, epochs=2, network=TINY, layer=0)


@pytest.mark.parametrize("method", METHODS)
def test_both_sides_compute_the_same_losses(setting, method, tmp_path):
    """Step after step, so that gradients are the same too: of 5 records in batches of 3, twice, one answer is drawn."""
    from lm_bench.sides import prepare

    setting = replace(setting, method=method)
    found = {}
    for side in ("ours", "published"):
        run, n_steps, n_tokens = prepare(side, setting, None, tmp_path)
        found[side] = (run(), n_steps, n_tokens)
    ours, published = found["ours"], found["published"]
    assert ours[0] == pytest.approx(published[0], rel=1e-4, abs=1e-5) and len(ours[0]) == 4
    assert ours[1:] == published[1:] and ours[1] == 4
    assert len({round(loss, 6) for loss in ours[0]}) == 4


def test_tokens_are_counted_without_padding(setting, tmp_path):
    from lm_bench.data import count_tokens, make_job, make_method, rows_of, steps

    job = make_job(replace(setting, length=16))
    batches = next(iter(steps(setting, job, make_method(setting, tmp_path))))
    assert count_tokens(batches) == 2 * 3 * 16
    assert all(len(row["labels"]) == 16 for row in rows_of(batches["forget"]))
    ragged = next(iter(steps(setting, make_job(setting), make_method(setting, tmp_path))))
    places = sum(batch.inputs["text"]["input_ids"].numel() for batch in ragged.values())
    assert count_tokens(ragged) < places


def figures(seconds, added):
    return {"seconds": seconds, "cpu_seconds": seconds / 2, "steps": 2, "tokens": 100, "peak_mib": 900 + added,
            "added_mib": added}  # fmt: skip


def test_ratios_are_of_one_turn_and_goals_are_judged(bench, tmp_path):
    turns = {"ours": iter((1.0, 4.0, 10.0)), "peer": iter((2.0, 6.0, 11.0)), "published": iter((3.0, 3.0, 3.0))}
    asked = []

    def run_one(job):
        asked.append((job["side"], job["setting"]["method"]))
        added = {"ours": 50, "peer": 100, "published": 80}[job["side"]]
        return figures(next(turns[job["side"]]) if job["setting"]["method"] == "npo" else 1.0, added)

    given = ["--peer", str(tmp_path), "--methods", "npo", "flat", "--out", str(tmp_path)]
    assert bench.main(given, run_one) == 0
    assert asked[:4] == [("peer", "npo"), ("ours", "npo"), ("published", "flat"), ("ours", "flat")]
    content = json.loads((tmp_path / "lm_step.json").read_text())["speed"]
    found = content["summary"]["npo"]
    assert found["times_faster"] == 1.5 and found["share_added"] == 0.5 and found["ours"]["tokens_per_second"] == 25
    assert content["summary"]["flat"]["against"] == "published"
    page = (tmp_path / "lm_step.md").read_text()
    assert "reached by all; at most 60 % of the memory that the run adds: reached by all" in page
    assert str(tmp_path) not in page and str(tmp_path) not in json.dumps(content)

    assert bench.main(["--memory", "--out", str(tmp_path)], lambda job: figures(1.0, 9000)) == 0
    page = (tmp_path / "lm_step.md").read_text()
    assert "Tokens per second" in page and "Goal that ours fits in 8 GB, whole process: missed." in page


def test_a_folder_without_weights_is_refused(bench, tmp_path):
    with pytest.raises(SystemExit):
        bench.main(["--inputs", str(tmp_path)])


@pytest.mark.slow
def test_a_quick_run_goes_through(bench, tmp_path, capsys):
    assert bench.main(["--quick", "--methods", "npo", "--out", str(tmp_path)]) == 0
    assert "A quick run" in (tmp_path / "lm_step.md").read_text() and "NPO" in capsys.readouterr().out
    assert sys.path.count(str(FOLDER)) >= 1
