"""``run.json`` says what was really done."""

from __future__ import annotations

import json

import pytest

import forgetmi
from forgetmi.config import load_config
from forgetmi.runs.documents import _noise
from forgetmi.runs.prepare import prepare
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
