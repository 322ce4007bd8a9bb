import errno
import json
import resource
import stat

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from forgetmi.errors import ModelError
from forgetmi.modalities import build_modality
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.text import TextModality
from forgetmi.models import MODELS, persistence
from forgetmi.models.classifier import build_model
from forgetmi.models.forget_mi_classifier import build_forget_mi_classifier
from forgetmi.models.persistence import load_model, save_model
from forgetmi.models.tokenizer import train_tokenizer
from forgetmi.models.weights import read_state_dict, weights_sha256
from tests.models.forget_mi_facts import SMALL
from tests.models.test_classifier import batch, config, same


def modalities():
    tokenizer = train_tokenizer(["heart lungs clear heart lungs clear"], 60)
    return {"image": ImageModality(16), "text": TextModality(tokenizer, 12)}


def store(model, folder, **more):
    return save_model(model, folder, modalities=modalities(), task_config={"name": "classification"}, **more)


def tree(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_bit_identical(tmp_path):
    model = build_model(config(heads="both"), seed=1)
    model(batch())  # batch statistics are no longer the initial ones
    digest = store(model, tmp_path / "runs" / "original", extra={"seed": 1})
    loaded = load_model(tmp_path / "runs" / "original")
    assert tree(tmp_path / "runs") == ["original"]
    assert not loaded.model.training and model.training
    before, after = model.state_dict(), loaded.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    assert digest == weights_sha256(model) == weights_sha256(loaded.model) == loaded.config["weights_sha256"]
    same(model.eval()(batch()), loaded.model(batch()), rtol=0, atol=0)
    assert loaded.task_config == {"name": "classification"} and loaded.extra == {"seed": 1}
    assert {n: m.to_config() for n, m in loaded.modalities.items()} == {
        n: m.to_config() for n, m in modalities().items()
    }
    text = loaded.modalities["text"]
    assert torch.equal(text.prepare("heart clear"), modalities()["text"].prepare("heart clear"))


def test_files_are_for_their_owner_only(tmp_path):
    folder = tmp_path / "model"
    store(build_model(config(), seed=1), folder)
    assert tree(folder) == ["model.json", "model.safetensors"]
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_published_network_round_trips(tmp_path):
    model = build_forget_mi_classifier({"network": SMALL, "logits": "mean"}, seed=3)
    store(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m").model
    assert weights_sha256(loaded) == weights_sha256(model) and loaded.scored == "mean"


def test_half_precision_stays_half_precision(tmp_path):
    model = build_model(config(), seed=1).to(torch.bfloat16)
    store(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m").model
    assert all(p.dtype == torch.bfloat16 for p in loaded.parameters())


class TiedLM(nn.Module):
    kind = "tied_lm"

    def __init__(self):
        super().__init__()
        self.lm = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))

    def to_config(self):
        return {}


def build_tied(config, seed):
    return TiedLM()


def test_tied_weights_stay_tied(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS._targets, "tied_lm", f"{__name__}:build_tied")
    model = TiedLM()
    assert model.lm.lm_head.weight is model.lm.transformer.wte.weight
    save_model(model, tmp_path / "m", modalities={}, task_config={})
    loaded = load_model(tmp_path / "m").model
    assert loaded.lm.lm_head.weight is loaded.lm.transformer.wte.weight
    assert torch.equal(loaded.lm.lm_head.weight, model.lm.lm_head.weight)


def test_the_digest_depends_on_names_values_types_and_shapes_only():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    first = weights_sha256(model)
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert weights_sha256(other) != first
    other.load_state_dict(dict(reversed(model.state_dict().items())))
    assert weights_sha256(other) == first
    other[1].num_batches_tracked += 1
    assert weights_sha256(other) != first
    other.load_state_dict(model.state_dict())
    other[0].weight = nn.Parameter(other[0].weight.reshape(2, 3))
    assert weights_sha256(other) != first
    assert weights_sha256(model.double()) != first


def test_a_stored_model_is_replaced_and_anything_else_is_not(tmp_path):
    folder = tmp_path / "m"
    store(build_model(config(), seed=1), folder)
    second = store(build_model(config(), seed=2), folder)
    assert load_model(folder).config["weights_sha256"] == second
    assert tree(tmp_path) == ["m"]
    data = tmp_path / "data"
    data.mkdir()
    (data / "films.txt").write_text("precious")
    with pytest.raises(ModelError, match="not overwritten"):
        store(build_model(config(), seed=1), data)
    assert tree(data) == ["films.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    store(build_model(config(), seed=1), empty)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["_flush", "weights", "rename"])
def test_a_full_disk_leaves_what_stood_there_and_nothing_else(tmp_path, monkeypatch, step):
    folder = tmp_path / "m"
    first = store(build_model(config(), seed=1), folder)
    if step == "weights":
        monkeypatch.setattr("safetensors.torch.save_file", full)
    elif step == "_flush":
        monkeypatch.setattr(persistence, "_flush", full)
    else:
        real, calls = persistence.os.rename, []

        def second_fails(*paths):
            calls.append(paths)
            return full() if len(calls) == 2 else real(*paths)

        monkeypatch.setattr(persistence.os, "rename", second_fails)
    with pytest.raises(ModelError, match="No space left"):
        store(build_model(config(), seed=2), folder)
    monkeypatch.undo()
    assert tree(tmp_path) == ["m"]
    assert load_model(folder).config["weights_sha256"] == first


def test_a_write_that_the_system_stops_halfway(tmp_path):
    model = build_model(config(), seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ModelError, match="cannot be written"):
            store(model, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == []


def test_ctrl_c_leaves_nothing_half_written(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(persistence, "_flush", stop)
    with pytest.raises(KeyboardInterrupt):
        store(build_model(config(), seed=1), tmp_path / "m")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, name, share):
    folder = tmp_path / "m"
    store(build_model(config(), seed=1), folder)
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert name in caught.value.what and str(file) in caught.value.where


def test_changed_missing_and_foreign_files(tmp_path):
    folder, other = tmp_path / "m", tmp_path / "other"
    store(build_model(config(), seed=1), folder)
    store(build_model(config(), seed=2), other)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="SHA-256 differs"):
        load_model(folder)
    store(build_model(config(fusion="outer"), seed=1), other)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"missing: fusion\.absent.*unexpected: fusion\.project"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file model\.safetensors"):
        load_model(folder)
    with pytest.raises(ModelError, match="no folder of a stored model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99"),
        ({"task": None, "kind": "classifer"}, "Did you mean 'classifier'"),
    ],
)
def test_a_config_of_another_version(tmp_path, change, message):
    folder = tmp_path / "m"
    store(build_model(config(), seed=1), folder)
    file = folder / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(Exception, match=message):
        load_model(folder)
    file.write_text(json.dumps({"schema": 1, "kind": "classifier"}))
    with pytest.raises(ModelError, match="lacks settings, modalities"):
        load_model(folder)


def test_what_cannot_be_stored(tmp_path):
    with pytest.raises(ModelError, match=r"kind None is not one of .*classifier"):
        store(nn.Linear(1, 1), tmp_path / "m")
    with pytest.raises(ModelError, match="cannot be written as JSON"):
        store(build_model(config(), seed=1), tmp_path / "m", extra={"score": float("nan")})
    assert tree(tmp_path) == []


def test_a_pickled_module_is_not_a_state_dict(tmp_path):
    file = tmp_path / "w.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, file)
    with pytest.raises(ModelError, match="not a state dict"):
        read_state_dict(file)
    torch.save(nn.Linear(1, 1), file)
    with pytest.raises(ModelError, match="more than tensors"):
        read_state_dict(file)
    torch.save({"a": torch.ones(2)}, file)
    assert torch.equal(read_state_dict(file)["a"], torch.ones(2))


def test_modalities_are_built_by_kind():
    for modality in modalities().values():
        assert build_modality(modality.to_config()).to_config() == modality.to_config()
