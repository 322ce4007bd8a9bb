"""``run.json`` says what was really done."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

import forgetmi
from forgetmi.cli import app
from forgetmi.config import load_config
from forgetmi.methods import METHODS
from forgetmi.runs import documents, stages
from forgetmi.runs.documents import _noise
from forgetmi.runs.prepare import prepare
from forgetmi.runs.redact import resolved
from tests.runs.tiny_source import tiny_settings, write_source

FORGET_MI = {"method": "forget_mi", "fit": {"epochs": 1, "batch_size": 16}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


def _prepared(source, **unlearning):
    return prepare(load_config(tiny_settings(source, unlearning=unlearning)))


def test_the_noise_that_was_made_is_written_without_a_word_of_a_text(source):
    result = forgetmi.run(tiny_settings(source, unlearning={**FORGET_MI, "noise": {"text": {"level": 0.25}}}))
    prepared = prepare(load_config(result.folder / "config.yaml"))
    learned = prepared.modalities["text"].default_noise
    noise = json.loads((result.folder / "run.json").read_text())["method"]["options"]["noise"]
    assert noise["image"] == {"mean": 0.0, "sd": 0.1, "rescale_max": False}
    assert (noise["text"]["level"], noise["text"]["max_keywords"]) == (0.25, 2)
    for option in ("keywords", "synonyms"):
        assert noise["text"][option]["count"] == len(getattr(learned, option))
    assert noise["text"]["keywords"]["count"] > 0
    written = (result.folder / "run.json").read_text()
    assert not [word for word in learned.keywords if f'"{word}"' in written]
    assert "sd: 0.1" in (result.folder / "report.html").read_text()


def test_other_words_have_another_hash_and_the_key_matters(source, tmp_path):
    def hashed(key, **text):
        settings = tiny_settings(source, unlearning={"method": "forget_mi", "noise": {"text": text}}, run__key_file=key)
        return _noise(prepare(load_config(settings)))["noise"]["text"]["keywords"]["keyed_hash"]

    key, other = str(tmp_path / "a.key"), str(tmp_path / "b.key")
    assert hashed(key) == hashed(key)
    assert len({hashed(key), hashed(key, keywords=["clear"]), hashed(key, keywords=["large"]), hashed(other)}) == 4


def test_no_noise_and_methods_without(source):
    assert _noise(_prepared(source, method="forget_mi", preset="no_noise")) == {"noise": "none"}
    assert _noise(_prepared(source, method="fine_tune")) == {}
    assert _noise(_prepared(source, method="guarded", noise=0.1)) == {}  # on gradients, and in the options already


def test_the_noise_of_a_stage_is_found(source):
    staged = {
        "method": "rum",
        "methods": ["nothing", "forget_mi"],
        "options": {"forget_mi": {"noise": {"image": {"sd": 0.3}}}},
    }
    assert _noise(_prepared(source, **staged))["noise"]["image"]["sd"] == 0.3


@pytest.mark.parametrize("name", METHODS)
def test_the_written_config_asks_for_the_same_method(source, tmp_path, name):
    config = load_config(tiny_settings(source, unlearning={"method": name}))
    settings = resolved(config, lambda identifier: identifier)
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump(settings))
    again = load_config(written)
    assert again.method.name == name
    assert resolved(again, lambda identifier: identifier) == settings


DOCUMENTS = {"run.json", "evidence.json", "report.html", "model_card.md"}


def _broken_off(*args, **options):
    raise KeyboardInterrupt


def _there(folder):
    return DOCUMENTS & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("change", ["audit__n_bootstrap", "unlearning"])
def test_documents_of_other_settings_do_not_outlive_a_broken_off_run(source, tmp_path, monkeypatch, change):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    folder = forgetmi.run(settings, progress=False).folder
    assert _there(folder) == DOCUMENTS
    value = 300 if change == "audit__n_bootstrap" else {"method": "fine_tune", "fit": {"epochs": 2, "batch_size": 16}}
    changed = tiny_settings(source, run__folder=str(tmp_path / "run"), **{change: value})
    with monkeypatch.context() as patched:
        patched.setattr(stages, "audit", _broken_off)
        with pytest.raises(KeyboardInterrupt):
            forgetmi.run(settings, progress=False)  # the same settings: what is there is true
        assert _there(folder) == DOCUMENTS
        with pytest.raises(KeyboardInterrupt):
            forgetmi.run(changed, resume=True, progress=False)
    assert _there(folder) == set()
    forgetmi.run(changed, resume=True, progress=False)
    assert _there(folder) == DOCUMENTS


def test_documents_of_a_model_that_is_made_again_go(source, tmp_path, monkeypatch):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    folder = forgetmi.run(settings, progress=False).folder
    (folder / "stages" / "unlearned.json").unlink()
    monkeypatch.setattr(stages, "audit", _broken_off)
    with pytest.raises(KeyboardInterrupt):
        forgetmi.run(settings, progress=False)
    assert _there(folder) == set()


def test_an_audit_made_again_keeps_what_the_user_gave_and_when(source, tmp_path, monkeypatch):
    times = iter(f"2026-01-0{day}T00:00:00+00:00" for day in range(1, 10))
    monkeypatch.setattr(documents, "now", lambda: next(times))
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    folder = forgetmi.run(settings, progress=False).folder

    def written():
        return json.loads((folder / "run.json").read_text())

    first = written()
    assert "n_keywords" not in json.dumps(first["config_given"])  # a default that nobody gave
    assert first["created"] < first["audited"]
    done = CliRunner().invoke(app, ["audit", "--no-progress", "--run", str(folder)])
    assert done.exit_code in (0, 3), done.output
    again = written()
    assert (again["config_given"], again["created"]) == (first["config_given"], first["created"])
    assert again["audited"] > first["audited"]
    done = CliRunner().invoke(app, ["audit", "--no-progress", "--run", str(folder), "audit.n_bootstrap=300"])
    assert done.exit_code in (0, 3), done.output
    given = first["config_given"]
    assert written()["config_given"] == {**given, "audit": {**given["audit"], "n_bootstrap": 300}}
    assert written()["created"] == first["created"]
    forgetmi.run(settings, overwrite=True, progress=False)
    assert written()["created"] > again["audited"]
