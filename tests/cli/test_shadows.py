"""``forgetmi shadows``: usage, what it says next, and a shadow at a time."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from forgetmi.cli import app
from tests.runs.tiny_source import tiny_settings, write_source


@pytest.fixture
def config(tmp_path):
    source = write_source(tmp_path / "source")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(source, audit__shadows=2, run__folder=str(tmp_path / "out"))))
    return path


def _call(*words):
    return CliRunner().invoke(app, ["shadows", *map(str, words)])


@pytest.mark.parametrize(
    "words",
    [[], ["-c", "a.yaml", "--run", "b"], ["--tasks", "t.json"], ["--tasks", "t.json", "--task", "0", "audit.shadows=2"],
     ["-c", "a.yaml", "--executor", "ensemble", "--submit"]],
)  # fmt: skip
def test_usage_is_2(words):
    done = _call(*words)
    assert done.exit_code == 2
    assert "forgetmi shadows --help" in done.stderr


def test_none_asked_for_and_a_number_that_is_none_are_2(config):
    assert "audit.shadows=64" in _call("-c", config, "audit.shadows=0").stderr
    done = _call("-c", config, "--task", 2)
    assert (done.exit_code, "their numbers are 0 to 1" in done.stderr) == (2, True)


def test_a_dry_run_writes_nothing_and_says_the_command(config, tmp_path):
    before = set(tmp_path.rglob("*"))
    done = _call("-c", config, "--dry-run", "audit.shadows=6", "--executor", "slurm")
    assert done.exit_code == 0, done.output
    assert "shadows: 6, 0 of them kept, executor slurm" in done.output
    assert f"next: forgetmi shadows --config {config} audit.shadows=6 audit.executor=slurm" in done.output
    assert set(tmp_path.rglob("*")) == before


def test_a_script_then_one_task_then_the_rest(config, tmp_path):
    done = _call("-c", config, "--executor", "slurm")
    assert done.exit_code == 0, done.output
    assert "2 shadow models are left to the scheduler" in done.output
    assert f"next: sbatch {tmp_path / 'out' / 'slurm' / 'shadows.sbatch'}" in done.output
    done = _call("--tasks", tmp_path / "out" / "slurm" / "shadows.json", "--task", 1)
    assert (done.exit_code, "1 of 2 are to be made" in done.output) == (0, True), done.output
    done = _call("--run", tmp_path / "out", "--executor", "in_process", "--no-progress")
    assert done.exit_code == 0, done.output
    assert "1 of 2 done already" in done.output
    assert f"next: forgetmi run --config {tmp_path / 'out' / 'config.yaml'} --resume" in done.output
    assert "SECRET" not in done.output
