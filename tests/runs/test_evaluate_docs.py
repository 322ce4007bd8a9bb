"""The commands of docs/evaluate.md, run as they stand there on small folders, and its list of options."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.runs.benchmarks import BENCHMARKS
from forgetmi.runs.benchmarks.base import Benchmark
from tests.data_adapters.text_sets import author, perturbed, write_lines
from tests.runs.benchmark_files import write_benchmarks, write_models

PAGE = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^forgetmi (evaluate .*)$", PAGE, re.MULTILINE)
FOLDERS = {"TOFU": "tofu", "MUSE-News": "muse", "LUME": "lume", "WMDP": "wmdp", "MMLU": "mmlu", "SafeRLHF": "safe",
           "before": "random", "after": "trained"}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What the page names: models, folders, files. TOFU's authors have 20 questions."""
    root = write_models(write_benchmarks(tmp_path_factory.mktemp("page")))
    for name, of in FOLDERS.items():
        if name != of:
            shutil.copytree(root / of, root / f"copy of {of}")
            (root / f"copy of {of}").rename(root / name)
    write_lines(root / "TOFU" / "forget10_perturbed.json", perturbed(author("Ada Quill", 2) * 10))
    for name in ("forget", "retain", "unseen"):
        rows = [{"text": f"red town {name} {n}", "patient_id": f"{name}{n // 2}"} for n in range(6)]
        write_lines(root / f"{name}.jsonl", rows)
    return root


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{n}" for n in range(len(COMMANDS))])
def test_a_command_runs_as_it_stands(command, place, monkeypatch):
    monkeypatch.chdir(place)
    shorter = ["n_bootstrap=200", *(["decoding.max_new_tokens=8"] if "tofu" in command or "lume" in command else [])]
    done = CliRunner().invoke(app, [*shlex.split(command), *shorter])
    assert done.exit_code == 0, done.output
    for path in re.findall(r"saved: (\S+),", done.output):
        assert json.loads(Path(path).read_text())["schema"] in PAGE


def test_every_benchmark_and_every_option_of_its_own_is_named():
    assert len(COMMANDS) == 9
    shared = {field.name for field in dataclasses.fields(Benchmark)}
    rows = {row[0]: row for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)}
    assert set(rows) == set(BENCHMARKS)
    for name, (_, said) in rows.items():
        own = {field.name for field in dataclasses.fields(BENCHMARKS[name])} - shared
        named = set(re.findall(r"`(\w+)`", rows["wmdp"][1] if name == "mmlu" else said.rpartition(" | ")[2]))
        assert own == named, name
    assert all(f"`{name}`" in PAGE for name in shared)
