"""Two runs must not write to one folder at the same time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from forgetmi.errors import ConfigError
from forgetmi.runs import pipeline
from forgetmi.runs.lock import locked
from tests.runs.tiny_source import tiny_settings, write_source


def test_a_folder_is_made_kept_and_freed_without_leaving_a_file(tmp_path):
    folder = tmp_path / "a" / "run"
    with locked(folder):
        assert folder.is_dir() and not list(folder.iterdir())
        with pytest.raises(ConfigError, match="another run is at work") as error, locked(folder):
            pass
        assert "choose another" in str(error.value)
    with locked(folder):
        pass


def test_a_process_that_died_holds_nothing(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from forgetmi.runs.lock import locked\n"
        "with locked(Path(sys.argv[1])): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "run"], env=os.environ, check=False)
    assert done.returncode == 9
    with locked(tmp_path / "run"):
        pass


def test_a_second_run_is_refused_and_changes_nothing(tmp_path):
    settings = tiny_settings(write_source(tmp_path / "source"))
    folder = tmp_path / "taken"
    settings["run"] = {**settings["run"], "folder": str(folder)}
    with locked(folder), pytest.raises(ConfigError, match="another run is at work"):
        pipeline.run(settings, overwrite=True, progress=False)
    assert {path.name for path in folder.iterdir()} <= {"log.jsonl"}
