"""``forgetmi compare``: the same question side by side, another question apart, and no first place for a ruin."""

from __future__ import annotations

import copy
import json
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from forgetmi.audit import arrays
from forgetmi.audit.compare import compare_runs, differences, read_runs
from forgetmi.audit.compare_report import render_comparison
from forgetmi.audit.evidence import build_audit
from forgetmi.audit.report import Values
from forgetmi.audit.schema import validate_document
from forgetmi.cli import app
from forgetmi.errors import AuditError, ConfigError
from forgetmi.files import write_json
from forgetmi.metrics.roc import auc
from tests.audit.conftest import QUICK
from tests.audit.synthetic import World, run_document
from tests.audit.test_report import EXPLAINED, Page


def constant(name, logits, labels, rng):
    return np.zeros_like(logits) + rng.normal(0, 1e-3, logits.shape)


MODELS = {
    "good": {},
    "kept": {"forget_memory": 2.5},
    "ruin": {"change": constant},
    "over": {"forget_memory": -2.5},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four unlearned models of one world, each in a run folder of its own."""
    folder = tmp_path_factory.mktemp("runs")
    world = World(sizes={"retain": 100, "validation": 30, "test": 200})
    original, _, retrained = world.trio(2)
    for number, (name, change) in enumerate(MODELS.items()):
        unlearned = world.model("unlearned", seed=50 + number, seconds=9.0, **change)
        made = build_audit(original, unlearned, retrained, world.parts, world.context, QUICK, 5)
        (folder / name).mkdir()
        write_json(folder / name / "evidence.json", made.evidence)
        write_json(folder / name / "run.json", run_document(made.evidence, name=name))
        (folder / name / arrays.FILE).write_bytes(made.arrays)
    return folder


@pytest.fixture
def copies(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs")


def edit(folder, kind, **changes):
    """Set values of a document by path: ``request__digest="..."``."""
    path = folder / f"{kind}.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        *steps, last = key.split("__")
        inner = document
        for step in steps:
            inner = inner[step]
        inner[last] = value
    path.write_text(json.dumps(document))


def call(*words):
    done = CliRunner().invoke(app, ["compare", *map(str, words)], env={"COLUMNS": "200"})
    assert "Traceback" not in done.output
    return done


def test_a_ruined_model_is_flagged_and_never_first(runs):
    document = compare_runs([runs / name for name in ("ruin", "over", "kept", "good")])
    (group,) = document["groups"]
    assert [run["name"] for run in group["runs"]] == ["good", "kept", "ruin", "over"]
    found = {run["name"]: run for run in group["runs"]}
    assert found["good"]["decision"] == "pass"
    assert found["good"]["flags"] == []
    assert "usefulness lost" in found["ruin"]["flags"]
    assert any("over-forgotten" in flag for flag in found["over"]["flags"])
    assert found["kept"]["flags"] == ["still remembered"]
    assert [found[name]["destroyed"] for name in ("good", "kept", "ruin", "over")] == [False, False, True, True]


def test_figures_are_those_of_the_runs_and_differences_are_paired(runs):
    document = compare_runs([runs / "good", runs / "kept"])
    (group,) = document["groups"]
    for run in group["runs"]:
        evidence = json.loads((runs / run["name"] / "evidence.json").read_text())
        assert run["criteria"]["loss_auc"]["unlearned"] == evidence["criteria"]["loss_auc"]["unlearned"]
        assert run["known"] == evidence["people"]["known"]["unlearned"]
    one, two = read_runs([runs / "good", runs / "kept"])
    first, second = (arrays.load_arrays(run.folder, run.evidence) for run in (one, two))
    values = [auc(a["loss/unlearned/scores"], a["loss/member"].astype(bool)) for a in (first, second)]
    pair = next(pair for pair in group["paired"] if pair["figure"] == "loss_auc")
    assert (pair["first"], pair["second"]) == ("kept", "good")
    assert pair["value"] == pytest.approx(values[1] - values[0])
    assert 0 < pair["low"] <= pair["value"] <= pair["high"]
    # the same patients: narrower than the two intervals put together
    ends = [run["criteria"]["loss_auc"]["unlearned"] for run in group["runs"]]
    assert pair["high"] - pair["low"] < sum(end["high"] - end["low"] for end in ends)


def test_without_the_arrays_nothing_is_paired_and_that_is_said(copies):
    (copies / "kept" / arrays.FILE).unlink()
    (group,) = compare_runs([copies / "good", copies / "kept"])["groups"]
    assert group["paired"] == []
    assert "is missing" in group["not_paired"]


OTHER = {
    "another request": ("run", {"request__digest": "e" * 64}, "request differs"),
    "other data": ("run", {"data__fingerprint": "e" * 64}, "data differs"),
    "another key": ("run", {"key_fingerprint": "00"}, "the site's keys differ, so that requests cannot be told alike"),
    "another option": ("evidence", {"options__people_fpr": 0.1}, "option people_fpr: 0.1 instead of 0.05"),
    "another definition": (
        "evidence",
        {"attacks__loss__definition": "something else"},
        "definition of loss differs",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_question_is_kept_apart_and_the_difference_said(copies, case):
    kind, changes, word = OTHER[case]
    edit(copies / "kept", kind, **changes)
    document = compare_runs([copies / name for name in ("kept", "good", "ruin")])
    assert [run["name"] for run in document["groups"][0]["runs"]] == ["good", "ruin"]
    assert [run["name"] for run in document["alone"]] == ["kept"]
    assert word in document["apart"][0]["differs"]
    done = call(copies / "good", copies / "kept")
    assert done.exit_code == 1
    assert "no two of these runs can be compared" in done.stderr
    assert word in " ".join(done.stderr.split())


def test_a_figure_may_differ_and_a_question_may_not():
    question = {"site's key": "a", "data": "x", "option n": 1, "definition of loss": "d"}
    assert differences(question, dict(question)) == []
    other = {"site's key": "a", "data": "y", "option n": 2, "definition of rmia": "d"}
    assert differences(question, other) == [
        "data differs",
        "option n: 2 instead of 1",
        "definition of loss is known of one only",
        "definition of rmia is known of one only",
    ]


def test_every_number_on_the_page_stands_in_the_document(runs):
    document = compare_runs([runs / name for name in MODELS])
    page = Page(render_comparison(document))
    values = Values({}, {}, html=True, compare=document)
    assert len(page.keys) > 100
    for key in page.keys:
        values.at(key)
    assert not page.links
    assert not [line for line in re.sub(EXPLAINED, "", page.free).splitlines() if re.search(r"\d", line)]
    assert validate_document(json.loads(json.dumps(document, allow_nan=False)), "compare") == document
    text = render_comparison(document)
    assert text.index("good") < text.index("kept") < text.index("ruin")
    assert "compliant" not in text.lower()


def test_the_command_prints_and_saves(runs, tmp_path):
    done = call(runs / "ruin", runs / "good", "--out", tmp_path / "c.html", "--out", tmp_path / "c.json")
    assert done.exit_code == 0, done.output
    assert done.output.index("PASS") < done.output.index("FAIL")
    assert "usefulness lost" in re.sub(r"\s+", " ", done.output)
    assert json.loads((tmp_path / "c.json").read_text())["schema"] == "forgetmi.compare/1"
    assert "<h1>Forgetting audits side by side" in (tmp_path / "c.html").read_text()
    assert "next: forgetmi" in done.output


def test_what_cannot_be_compared(runs, tmp_path):
    assert call(runs / "good").exit_code == 2
    assert call(runs / "good", runs / "good").exit_code == 2
    assert call(runs / "good", runs / "kept", "--out", tmp_path / "c.pdf").exit_code == 2
    (tmp_path / "empty").mkdir()
    done = call(runs / "good", tmp_path / "empty")
    assert done.exit_code == 1
    assert "run.json is missing" in done.stderr
    (tmp_path / "signals").mkdir()
    (tmp_path / "signals" / "exposure.json").write_text("{}")
    assert "audit of a file of signals" in call(runs / "good", tmp_path / "signals").stderr
    with pytest.raises(ConfigError):
        read_runs([])
    broken = copy.deepcopy(json.loads((runs / "good" / "run.json").read_text()))
    broken["extra"] = 1
    shutil.copytree(runs / "good", tmp_path / "broken")
    (tmp_path / "broken" / "run.json").write_text(json.dumps(broken))
    with pytest.raises(AuditError, match="not a valid run document"):
        read_runs([runs / "good", tmp_path / "broken"])


def test_folders_of_one_name_are_told_apart(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs / "good", tmp_path / name / "run")
    assert [one.name for one in read_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"])] == ["a/run", "b/run"]
