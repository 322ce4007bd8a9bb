"""Commands: help, exit codes, the next command, and what an error says where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import forgetmi
from forgetmi.cli import app
from forgetmi.errors import DataError
from forgetmi.runs import pipeline
from tests.runs.tiny_source import FORGOTTEN, tiny_settings, write_source

COMMANDS = (
    "demo", "check", "train", "unlearn", "shadows", "audit", "run", "report", "compare", "evaluate", "semeval", "ls",
    "init",
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def config(source, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(source, run__folder=str(tmp_path / "out"))))
    return path


def _call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def _stub(monkeypatch, decision=None, error=None):
    """A pipeline that only says what it was asked for."""
    asked = {}

    def run(config, **options):
        asked.update(options, config=config)
        if error is not None:
            raise error
        folder = config.run.folder
        evidence = {} if decision is None else {"verdict": {"decision": decision}}
        return pipeline.RunResult(folder, folder / "report.html" if decision else None, evidence)

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr("forgetmi.audit.report.render_summary", lambda evidence: evidence["verdict"]["decision"])
    return asked


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command):
    done = _call(command, "--help")
    assert done.exit_code == 0
    assert f"forgetmi {command}" in done.output


def test_help_lists_the_commands_and_the_exit_codes():
    done = _call("--help")
    assert all(command in done.output for command in COMMANDS)
    assert "3 done" in done.output


@pytest.mark.parametrize(("decision", "code"), [("pass", 0), ("inconclusive", 0), ("fail", 3)])
def test_run_ends_with_the_verdict(config, monkeypatch, decision, code):
    _stub(monkeypatch, decision)
    done = _call("run", "-c", config)
    assert done.exit_code == code
    assert decision in done.output
    assert "next: forgetmi report --run" in done.output


@pytest.mark.parametrize("decision", ["pass", "fail", "inconclusive"])
def test_demo_ends_with_0_whenever_there_is_a_report(monkeypatch, tmp_path, decision):
    asked = _stub(monkeypatch, decision)
    done = _call("demo", "--out", tmp_path / "d", "unlearning.method=fine_tune", "audit.retrains=2")
    assert done.exit_code == 0, done.output
    assert asked["config"].run.folder == tmp_path / "d"
    assert (asked["config"].method.name, asked["config"].retrains) == ("fine_tune", 2)


def test_options_reach_the_pipeline(config, monkeypatch):
    asked = _stub(monkeypatch)
    done = _call("train", "-c", config, "--resume", "--no-progress", "--limit", 7, "training.lr=1e-4")
    assert done.exit_code == 0, done.output
    assert (asked["until"], asked["resume"], asked["overwrite"], asked["progress"]) == ("original", True, False, False)
    assert (asked["config"].run.limit, asked["config"].training.lr) == (7, 1e-4)
    assert f"next: forgetmi unlearn --config {config} training.lr=1e-4" in done.output
    done = _call("unlearn", "-c", config)
    assert asked["until"] == "unlearned"
    assert "next: forgetmi audit --run" in done.output


@pytest.mark.parametrize("command", ["run", "train", "unlearn", "check"])
def test_a_bad_config_is_2_and_lists_everything(config, command):
    done = _call(command, "-c", config, "trainng.lr=1", "training.lrr=2", "data.adapter=x")
    assert done.exit_code == 2
    for word in ("3 settings are wrong", "Did you mean 'training'", "Did you mean 'lr'", "unknown adapter 'x'"):
        assert word in done.stderr
    assert "Traceback" not in done.output


def test_usage_is_2(config):
    assert _call("run").exit_code == 2
    assert _call("run", "-c", config, "--limit", "0").exit_code == 2
    assert _call("nonsense").exit_code == 2


def test_a_failure_is_1_and_only_its_public_part_is_logged(config, monkeypatch, tmp_path):
    _stub(monkeypatch, error=DataError("2 films cannot be read", private=["SECRET-p01"]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.jsonl").touch()
    done = _call("run", "-c", config)
    assert done.exit_code == 1
    assert "SECRET-p01" in done.stderr
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert "2 films cannot be read" in log
    assert "SECRET" not in log


def test_an_unexpected_error_is_one_line_here_and_its_place_in_the_log(config, monkeypatch, tmp_path):
    _stub(monkeypatch, error=KeyError("SECRET-p01"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.jsonl").touch()
    done = _call("run", "-c", config)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == "unexpected error: KeyError: 'SECRET-p01'"
    assert len(done.stderr.splitlines()) == 2
    (entry,) = map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())
    assert entry["chain"][0]["type"] == "KeyError"
    assert any(frame.endswith(" run") for frame in entry["chain"][0]["frames"])
    assert "SECRET" not in json.dumps(entry)


def test_without_a_log_the_traceback_is_shown(config, monkeypatch):
    _stub(monkeypatch, error=KeyError("x"))
    assert "Traceback" in _call("run", "-c", config).stderr


def test_ctrl_c_is_one_line_and_130(config, monkeypatch):
    _stub(monkeypatch, error=KeyboardInterrupt())
    done = _call("run", "-c", config)
    assert done.exit_code == 130
    assert len(done.stderr.splitlines()) == 1
    assert "interrupted" in done.stderr


def test_a_dry_run_and_a_check_write_nothing(config, source, tmp_path):
    before = {path for folder in (tmp_path, source) for path in folder.rglob("*")}
    dry = _call("run", "-c", config, "--dry-run")
    checked = _call("check", "-c", config, "--read")
    assert (dry.exit_code, checked.exit_code) == (0, 0), dry.output + checked.output
    assert {path for folder in (tmp_path, source) for path in folder.rglob("*")} == before
    assert "original: to be trained" in dry.output
    assert "retrained: 2, 0 of them kept" in dry.output
    assert "every value of every record can be read" in checked.output
    assert f"next: forgetmi run --config {config}" in checked.output


def test_check_counts_and_names_nobody(config, tmp_path):
    done = _call("check", "-c", config, "--json", tmp_path / "found.json")
    assert done.exit_code == 0, done.output
    assert "SECRET" not in done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["splits"]["train"]["patients"] == 28
    assert found["splits"]["train"]["labels"] == {"no": 26, "yes": 26}
    assert found["splits"]["test"] == {**found["splits"]["test"], "patients": 14, "present": {"image": 14, "text": 14}}
    assert found["request"]["parts"]["forget"] == {"patients": 4, "studies": 8, "samples": 8}


def test_check_reads_everything_and_counts_what_fails(config, source, tmp_path):
    broken = write_source(tmp_path / "broken")
    (broken / "film3.png").write_bytes((broken / "film3.png").read_bytes()[:40])
    done = _call("check", "-c", config, "--read", f"data.path={broken / 'records.csv'}")
    assert done.exit_code == 1
    assert "1 values of records.csv cannot be used" in done.stderr
    assert "film3.png" in done.stderr


def test_an_unknown_patient_is_1_with_its_place(config, tmp_path):
    (tmp_path / "forget.csv").write_text("patient_id\nSECRET-p01\nSECRET-p77\n")
    done = _call("run", "-c", config, f"request.file={tmp_path / 'forget.csv'}")
    assert done.exit_code == 1
    assert "SECRET-p77 (forget.csv:3)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_report_without_a_run_is_1(tmp_path):
    done = _call("report", "--run", tmp_path)
    assert done.exit_code == 1
    assert "run.json is missing" in done.stderr


def test_audit_without_an_unlearned_model_is_2(tmp_path):
    done = _call("audit", "--run", tmp_path)
    assert done.exit_code == 2
    assert "holds no unlearned model" in done.stderr


def test_the_commands_one_after_the_other(config, tmp_path):
    """train, unlearn, audit and report, as their own hints say; a moved folder can be audited again."""
    for words in (("train", "-c", config), ("unlearn", "-c", config)):
        done = _call(*words, "--no-progress")
        assert done.exit_code == 0, done.output
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    done = _call("audit", "--run", moved, "--no-progress")
    assert done.exit_code in (0, 3), done.output
    assert done.output.count("kept") == 2
    first = (moved / "report.html").read_text()
    (moved / "report.html").unlink()
    assert _call("report", "--run", moved).exit_code == 0
    assert (moved / "report.html").read_text() == first


KINDS = ["methods", "attacks", "adapters", "models", "encoders", "tasks", "metrics", "presets", "benchmarks"]


@pytest.mark.parametrize("kind", KINDS)
def test_ls_lists_what_there_is(kind):
    done = _call("ls", kind)
    assert done.exit_code == 0, done.output
    registry = {"methods": forgetmi.METHODS, "adapters": forgetmi.ADAPTERS}.get(kind, ())
    assert all(name in done.output for name in registry)
    assert "next: forgetmi" in done.output


def test_ls_of_something_else_is_2():
    done = _call("ls", "mehods")
    assert done.exit_code == 2
    assert "Did you mean 'methods'" in done.stderr


def test_init_writes_once(tmp_path):
    done = _call("init", tmp_path / "mine")
    assert done.exit_code == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"run.yaml", "run.sbatch", "README.md"}
    assert "next: forgetmi check --config" in done.output
    (tmp_path / "mine" / "run.yaml").write_text("mine")
    done = _call("init", tmp_path / "mine")
    assert done.exit_code == 2
    assert (tmp_path / "mine" / "run.yaml").read_text() == "mine"


def test_the_config_of_a_language_model_that_init_writes_runs(tmp_path):
    """Only what no template can know is changed: the model's folder, for a small one; and fewer, smaller steps."""
    assert _call("init", tmp_path / "notes", "--language").exit_code == 0
    rows = [
        {"patient_id": f"p{n}", "note_id": f"n{n}", "prompt": f"Patient {n}", "answer": f"clear lungs {n % 3}"}
        for n in range(30)
    ]
    (tmp_path / "notes" / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = yaml.safe_load((tmp_path / "notes" / "run.yaml").read_text())
    written["request"] = {"draw": {"patients": 3, "seed": 0}}  # whoever the drawn split has trained on
    del written["model"]["path"]
    written["model"]["config"] = {"model_type": "gpt2", "n_positions": 512, "n_embd": 8, "n_layer": 1, "n_head": 1}
    written["model"]["modalities"]["dialogue"]["vocab_size"] = 270
    written["run"]["key_file"] = str(tmp_path / "site.key")
    (tmp_path / "notes" / "run.yaml").write_text(yaml.safe_dump(written))
    asked = ["-c", tmp_path / "notes" / "run.yaml"]
    done = _call("check", *asked)
    assert done.exit_code == 0, done.output
    done = _call("unlearn", *asked, "training.epochs=1", "unlearning.fit.epochs=1", "--no-progress")
    assert done.exit_code == 0, done.output


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_real_ctrl_c_leaves_nothing_half_written(config, tmp_path):
    words = [sys.executable, "-m", "forgetmi.cli", "run", "-c", str(config), "--no-progress", "training.epochs=100000"]
    # A shell's background job ignores Ctrl-C, and its children with it.
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heard)
    checkpoint = tmp_path / "out" / "checkpoints" / "original"
    deadline = time.monotonic() + 300  # a busy machine
    while not list(checkpoint.glob("*.pt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".part")]
    assert not (tmp_path / "out" / "models").exists()


def test_the_ids_of_an_inline_request_are_nowhere(source, tmp_path):
    path = tmp_path / "run.yaml"
    settings = tiny_settings(
        source, request={"level": "patient", "ids": list(FORGOTTEN)}, run__folder=str(tmp_path / "o")
    )
    path.write_text(yaml.safe_dump(settings))
    done = _call("train", "-c", path, "--no-progress")
    assert done.exit_code == 0, done.output
    assert "SECRET" not in done.output
    assert not [p for p in Path(tmp_path / "o").rglob("*") if p.is_file() and b"SECRET" in p.read_bytes()]
