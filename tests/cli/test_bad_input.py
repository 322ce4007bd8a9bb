"""What goes wrong in a hospital, through the command line: one clear error, and nothing half-written."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.training.trainer import Trainer
from tests.runs.tiny_source import tiny_settings, write_source


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def source(clean, tmp_path):
    return Path(shutil.copytree(clean, tmp_path / "source"))


def call(source, *overrides, command="run", **changes):
    """``forgetmi run`` (or another command) on the source: its exit code and its stderr as one line."""
    settings = tiny_settings(source, run__folder=str(source.parent / "out"), **changes)
    config = source.parent / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(app, [command, "--no-progress", "-c", str(config), *overrides])
    assert "Traceback" not in done.output
    return done.exit_code, " ".join(done.stderr.split())


def edit(path, change):
    """Rewrite a CSV with ``change(rows)``, the header being the first row."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def written(source):
    """What a run left: nothing half-written, and no model that a later command could take for a finished one."""
    out = source.parent / "out"
    found = list(out.rglob("*")) if out.exists() else []
    assert not [path for path in found if path.name.endswith(".part")]
    return {path.relative_to(out).as_posix() for path in found if path.is_file()}


def second_row(column, value):
    def change(rows):
        rows[2][column] = value

    return change


BEFORE_ANYTHING = {
    "an unknown patient": (
        lambda s: (s / "forget.csv").write_text("patient_id\nSECRET-p77\n"),
        ["SECRET-p77", "forget.csv:2"],
    ),
    "an empty request": (lambda s: (s / "forget.csv").write_text("patient_id\n"), ["forget.csv", "empty"]),
    "a request for everybody": (
        lambda s: (s / "forget.csv").write_text("patient_id\n" + "".join(f"SECRET-p{n:02d}\n" for n in range(28))),
        ["every"],
    ),
    "a truncated image": (
        lambda s: (s / "film1.png").write_bytes((s / "film1.png").read_bytes()[:40]),
        ["film1.png"],
    ),
    "an image that is not there": (lambda s: (s / "film1.png").unlink(), ["film1.png"]),
    "a label that the classes do not have": (
        lambda s: edit(s / "records.csv", second_row(4, "maybe")),
        ["maybe", "records.csv:3"],
    ),
    "no column of the name": (
        lambda s: edit(s / "records.csv", lambda rows: rows[0].__setitem__(1, "person")),
        ["patient", "records.csv", "person"],
    ),
    "an id twice": (
        lambda s: edit(s / "records.csv", second_row(0, "SECRET-s00")),
        ["records.csv", "SECRET-s00"],
    ),
    "a patient in two splits": (
        lambda s: edit(s / "records.csv", second_row(5, "test")),
        ["SECRET-p01", "test, train"],
    ),
}


@pytest.mark.parametrize("case", BEFORE_ANYTHING)
def test_it_is_said_before_anything_is_made(source, case):
    spoil, words = BEFORE_ANYTHING[case]
    spoil(source)
    code, said = call(source, data__classes=["no", "yes"])
    assert code == 1, said
    assert said.startswith("error: ")
    assert all(word in said for word in words), said
    assert not any(name.startswith("models/") for name in written(source))


def test_a_missing_report_is_no_error_and_is_counted(source):
    edit(source / "records.csv", second_row(3, ""))
    code, said = call(source, "--dry-run")
    assert code == 0, said
    done = CliRunner().invoke(app, ["check", "-c", str(source.parent / "run.yaml"), "--json", str(source.parent / "c")])
    assert done.exit_code == 0, done.output
    found = json.loads((source.parent / "c").read_text())
    assert found["splits"]["train"]["present"] == {"image": 52, "text": 51}


def test_a_checkpoint_that_cannot_be_read(source, monkeypatch):
    fit = Trainer.fit

    def stopped(self, *args, **options):
        fit(self, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", stopped)
    assert call(source)[0] == 130
    monkeypatch.undo()
    (checkpoint,) = (source.parent / "out" / "checkpoints").rglob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    code, said = call(source, "--resume")
    assert code == 1
    assert checkpoint.name in said
    assert checkpoint.stat().st_size == 100  # it is somebody's to look at
    assert not any(name.startswith("models/") for name in written(source))


def test_a_model_that_cannot_be_read(source):
    folder = source.parent / "original"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"no weights")
    (folder / "config.json").write_text("{")
    code, said = call(source, model={"load": str(folder)})
    assert code in (1, 2), said
    assert str(folder) in said
    assert not any(name.startswith("models/") for name in written(source))


def test_a_full_disk(source, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert call(source, command="train")[0] == 0
    shutil.rmtree(source.parent / "out")  # the site's key stays
    monkeypatch.setattr(os, "fsync", full)
    code, said = call(source)
    assert code == 1, said
    assert "No space left on device" in said
    assert "free some space" in said
    assert not any(name.startswith("models/") for name in written(source))


def test_ctrl_c_in_the_middle_and_the_run_goes_on(source, monkeypatch, caplog):
    step = Trainer.fit
    fits = []

    def second_is_stopped(self, *args, **options):
        fits.append(1)
        if len(fits) == 2:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    monkeypatch.setattr(Trainer, "fit", second_is_stopped)
    code, said = call(source)
    assert code == 130
    assert "interrupted" in said
    found = written(source)
    assert any(name.startswith("models/original/") for name in found)
    assert not any(name.startswith("models/unlearned") for name in found)
    monkeypatch.setattr(Trainer, "fit", step)
    caplog.clear()
    code, said = call(source, "--resume")
    assert code in (0, 3), said
    assert "original: done already, kept" in caplog.text
    assert "report.html" in written(source)
