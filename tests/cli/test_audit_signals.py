"""``forgetmi audit --signals``: a newcomer's way, exit codes, and pages whose every number stands in a document."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from forgetmi.audit.exposure_report import render_exposure
from forgetmi.audit.report import Values, written
from forgetmi.cli import app
from forgetmi.errors import AuditError
from tests.audit.signal_files import as_kind, frame
from tests.audit.test_report import EXPLAINED, Page

QUICK = ("n_bootstrap=200", "n_permutations=999")
WHOLE = ("original", "unlearned", "retrained-1", "retrained-2")
PARTS = {"member": 30, "retain": 40, "population": 30, "nonmember": 80}
FORMS = (
    "number",
    "share",
    "in_100",
    "seconds",
    "signed",
    "points",
    "deviations",
    "text",
    "plain",
    "one_place",
    "json",
    "p",
)


def call(*words):
    done = CliRunner().invoke(app, ["audit", *map(str, words)])
    assert "Traceback" not in done.output
    return done


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """Folders of three audits: people exposed, none found, and a whole file, nothing of which was forgotten."""
    folder = tmp_path_factory.mktemp("audits")
    tables = {
        "exposed": frame(("original", "unlearned"), PARTS, leak={"original": 2.5, "unlearned": 2.0}),
        "none": as_kind(frame(("target",), {"member": 60, "nonmember": 80}), "loss"),
        "whole": frame(WHOLE, PARTS, leak={"original": 2.5, "unlearned": 2.5}, records=2),
    }
    codes = {}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
        done = call("--signals", folder / f"{name}.csv", "--out", folder / name, "--seed", 3, *QUICK)
        codes[name] = done.exit_code
        assert "SECRET" not in done.output
        assert "report:" in done.output
        assert "next: forgetmi" in done.output
    return folder, codes


def documents(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_the_example_runs_at_once(tmp_path):
    path = tmp_path / "example.csv"
    done = call("--signals-template", path)
    assert done.exit_code == 0
    assert f"next: forgetmi audit --signals {path}" in done.output
    assert call("--signals-template", path).exit_code == 2  # it is not written over
    done = call("--signals", path, "--out", tmp_path / "a", *QUICK)
    assert done.exit_code == 0, done.output
    assert "NONE FOUND" in done.output
    (document,) = documents(tmp_path / "a").values()
    looks = [look for one in document["models"]["original"].values() for look in one["looks"]]
    assert min(look["p_adjusted"] for look in looks) < 0.05  # the original of the example does remember
    assert document["source"]["rows"] == 200


def test_it_ends_with_3_where_people_are_found_or_the_verdict_is_fail(audits):
    _, codes = audits
    assert codes == {"exposed": 3, "none": 0, "whole": 3}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("exposed", {"exposure.json", "report.html"}),
        ("none", {"exposure.json", "report.html"}),
        ("whole", {"exposure.json", "evidence.json", "evidence_arrays.npz", "report.html"}),
    ],
)
def test_what_is_written(audits, name, files):
    folder, _ = audits
    assert {path.name for path in (folder / name).iterdir()} == files
    found = documents(folder / name)
    assert found["exposure"]["seed"] == 3
    assert (found["exposure"]["decision"] is None) == (name == "whole")


@pytest.mark.parametrize("name", ["exposed", "none", "whole"])
def test_every_key_on_the_page_leads_into_a_document_and_shows_its_value(audits, name):
    folder, _ = audits
    found = documents(folder / name)
    text = (folder / name / "report.html").read_text()
    page = Page(text)
    values = Values({}, found.get("evidence", {}), html=True, exposure=found["exposure"])
    assert len(page.keys) > 50
    for key, texts in page.keys.items():
        value = values.at(key)
        if isinstance(value, float):
            forms = {written(value, form) for form in FORMS}
            assert all(text in forms for text in texts), (key, texts)
        elif isinstance(value, int) and not isinstance(value, bool):
            assert all(text in (written(value, "count"), str(value)) for text in texts), (key, texts)
    rest = re.sub(EXPLAINED, "", page.free)
    assert [line.strip() for line in rest.splitlines() if re.search(r"\d", line)] == []
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?://|@import|<script|<iframe|url\((?!#)", text)
    assert "compliant" not in text.lower()
    assert "None" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


def test_the_page_says_what_must_be_said(audits):
    folder, _ = audits
    exposed, none, whole = ((folder / name / "report.html").read_text() for name in ("exposed", "none", "whole"))
    for text in (exposed, none):
        assert "not proof of anonymity" in text
        assert "not trained here and not seen here" in text
        assert text.index("EXPOSURE FOUND" if text is exposed else "NONE FOUND") < text.index("What was given")
    assert "can still be told" in exposed
    assert "at least two retrained models" in none
    assert documents(folder / "whole")["evidence"]["verdict"]["decision"] == "fail"
    assert "FAIL" in whole
    assert "they were not trained here" in whole
    assert "differentially private" not in whole  # nobody knows
    assert "patients_restricted" not in whole  # no ids are known: no file can say who they are


def test_rendering_again_gives_the_same_page_and_the_other_page_is_refused(audits):
    folder, _ = audits
    found = documents(folder / "none")["exposure"]
    assert render_exposure(found) == (folder / "none" / "report.html").read_text()
    with pytest.raises(AuditError, match="no decision"):
        render_exposure(documents(folder / "whole")["exposure"])


def test_another_audit_into_the_same_folder_leaves_nothing_of_the_first(audits, tmp_path):
    folder, _ = audits
    out = shutil.copytree(folder / "whole", tmp_path / "out")
    call("--signals", folder / "none.csv", "--out", out, *QUICK)
    assert {path.name for path in out.iterdir()} == {"exposure.json", "report.html"}


def test_nobodys_id_is_in_anything_that_is_written(audits):
    folder, _ = audits
    written_files = [path for path in folder.glob("*/*") if path.is_file()]
    assert len(written_files) == 8
    for path in written_files:
        assert b"SECRET" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_a_bad_file_is_1_and_writes_nothing(tmp_path):
    table = frame(("target",))
    table.loc[3, "p_0"] = 7.0
    table.to_csv(tmp_path / "bad.csv", index=False)
    done = call("--signals", tmp_path / "bad.csv", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "bad.csv:5" in done.stderr
    assert "docs/signals.md" in done.stderr
    assert not (tmp_path / "out").exists()
    assert call("--signals", tmp_path / "nothing.csv").exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--run", "x", "--signals", "y.csv"),
        ("--signals", "y.csv", "--config", "run.yaml"),
        ("--run", "x", "--out", "z"),
        ("--run", "x", "--seed", "1"),
        ("--signals", "y.csv", "levl=0.9"),
        ("--signals", "y.csv", "level=2"),
        ("--signals", "y.csv", "attacks=[los]"),
        ("--signals", "y.csv", "level"),
    ],
)
def test_usage_is_2(words):
    assert call(*words).exit_code == 2


def test_a_run_folder_is_not_written_into(tmp_path):
    as_kind(frame(("target",)), "loss").to_csv(tmp_path / "s.csv", index=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("run: {}")
    done = call("--signals", tmp_path / "s.csv", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "folder of a run" in done.stderr


def test_rounded_probabilities_need_a_floor(tmp_path):
    table = frame(("target",))
    table.loc[3, ["p_0", "p_1", "p_2"]] = [0.0, 1.0, 0.0]
    table.to_csv(tmp_path / "s.csv", index=False)
    done = call("--signals", tmp_path / "s.csv", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "--probability-floor" in done.stderr
    done = call("--signals", tmp_path / "s.csv", "--out", tmp_path / "out", "--probability-floor", "1e-4", *QUICK)
    assert done.exit_code in (0, 3), done.output
    assert "were counted as 0.0001" in (tmp_path / "out" / "report.html").read_text()
