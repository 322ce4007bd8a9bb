"""The submission of SemEval-2025 task 4: folders in, a folder out, by any method, offline."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.errors import ConfigError, DataError, MethodError
from forgetmi.models.lora import LoraOptions
from forgetmi.semeval import unlearn
from forgetmi.training.seeds import scoped_seed
from tests.data_adapters import text_sets
from tests.modalities.test_dialogue import tokenizer

FIT = {"epochs": 1, "batch_size": 2, "lr": 1e-2}


@pytest.fixture
def folders(tmp_path):
    """Model, forget and retain, each in a folder of its own."""
    made = tokenizer()
    config = GPT2Config(vocab_size=16, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    with scoped_seed(0):
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    named = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=made.backend, **named).save_pretrained(tmp_path / "model")
    for source, rows in text_sets.lume_sets().items():
        text_sets.write_lines(tmp_path / source / f"{source}.jsonl", rows)
    return tmp_path / "model", tmp_path / "out", tmp_path / "forget", tmp_path / "retain"


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


METHODS = {
    "ails": {"fit": FIT},
    "grad_diff": {"fit": FIT},
    "npo": {"fit": FIT},
    "zjuklab": {"fit": FIT, "lora": {"r": 2}},
    "sga": {"fit": FIT, "stop_below": None},
}


@pytest.mark.parametrize("method", METHODS)
def test_any_method_writes_a_model_of_the_same_form(method, folders):
    model, out, _, _ = folders
    before = contents(model)
    assert unlearn(*folders, method=method, options=METHODS[method], device="cpu", progress=False) == out
    assert contents(model) == before, "the model's own folder was written to"
    old, new = weights(model), weights(out)
    assert old.keys() == new.keys() and any(not torch.equal(old[name], new[name]) for name in old)
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= contents(out).keys()
    assert not list(out.parent.glob(".*.part"))


def test_the_same_seed_gives_the_same_weights(folders):
    model, out, forget, retain = folders
    options = {"method": "npo", "options": METHODS["npo"], "device": "cpu", "progress": False, "seed": 3}
    first = weights(unlearn(model, out, forget, retain, **options))
    again = weights(unlearn(model, out.with_name("again"), forget, retain, **options))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_adapter_is_merged_before_it_is_written(folders):
    unlearn(*folders, method="npo", options=METHODS["npo"], lora=LoraOptions(r=2), device="cpu", progress=False)
    old, new = weights(folders[0]), weights(folders[1])
    assert old.keys() == new.keys()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved and all("attn" in name or "mlp" in name for name in moved)


def test_only_forget_documents_are_forgotten(folders, monkeypatch):
    """Gradient ascent sees them all, and nothing else."""
    from forgetmi.batch import Loader

    seen, real = [], Loader.batch
    monkeypatch.setattr(Loader, "batch", lambda self, i: (seen.extend(self.dataset[k] for k in i), real(self, i))[1])
    unlearn(*folders, method="gradient_ascent", options={"fit": FIT}, device="cpu", progress=False)
    assert {record.attributes["source_split"] for record in seen} == {"forget"}
    assert {record.patient_id for record in seen} == {"0a1-b", "77sc2-9"}


def test_one_folder_may_hold_both(folders):
    model, out, forget, retain = folders
    for file in retain.iterdir():
        file.rename(forget / file.name)
    unlearn(model, out, forget, forget, method="npo", options=METHODS["npo"], device="cpu", progress=False)
    assert (out / "model.safetensors").is_file()


def test_the_command_does_the_same(folders):
    model, out, forget, retain = folders
    options = {"method": "npo", "options": {"fit": {"epochs": 1, "lr": 0.01}}, "device": "cpu", "progress": False}
    expected = weights(unlearn(model, out.with_name("python"), forget, retain, **options))
    words = ["semeval", *map(str, folders), "fit.epochs=1", "fit.lr=1e-2", "--method", "npo", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--no-progress"])
    assert done.exit_code == 0, done.output
    found = weights(out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    wrong = CliRunner().invoke(app, [*words[:5], "fit.lrr=1", "--device", "cpu", "--no-progress"])
    assert wrong.exit_code == 2


def test_what_cannot_be_done_is_said_and_nothing_is_written(folders):
    model, out, forget, retain = folders
    quick = {"device": "cpu", "progress": False}
    with pytest.raises(ConfigError, match="unknown method 'npoo'"):
        unlearn(*folders, method="npoo", **quick)
    with pytest.raises(MethodError, match="trains from scratch"):
        unlearn(*folders, method="retrain", **quick)
    with pytest.raises(DataError, match="retain"):
        unlearn(model, out, forget, forget, method="npo", **quick)
    with pytest.raises(ConfigError, match=r"config\.json"):
        unlearn(forget, out, forget, retain, method="npo", **quick)
    assert not out.exists()
    out.mkdir()
    (out / "note.txt").write_text(json.dumps("kept"))
    with pytest.raises(ConfigError, match="not empty"):
        unlearn(*folders, method="npo", **quick)
    assert contents(out) == {"note.txt": b'"kept"'}
