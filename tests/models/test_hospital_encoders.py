"""Encoders of rows, signals and volumes, and Forget-MI on a model of rows and signals."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.config import load_config
from forgetmi.errors import ConfigError, MissingDependencyError, ModelError
from forgetmi.methods import METHODS, build_method
from forgetmi.modalities.signal import SignalModality
from forgetmi.modalities.tabular import TabularModality
from forgetmi.models.classifier import build_model
from forgetmi.models.encoders import build_encoder
from forgetmi.models.persistence import load_model, save_model
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.classification import ClassificationTask
from tests.tiny import TinyCase, same_state, state_of

CASES = {
    "mlp": ({"name": "mlp", "features": 5, "widths": [4, 6]}, (3, 5), 6),
    "conv1d": ({"name": "conv1d", "leads": 2, "widths": [4, 8]}, (3, 2, 21), 8),
    "conv3d": ({"name": "conv3d", "widths": [4, 8]}, (3, 1, 5, 8, 7), 8),
    "monai": ({"name": "monai", "model": "resnet10"}, (3, 1, 8, 8, 8), 512),
}


@pytest.mark.parametrize("name", CASES)
def test_an_embedding_a_record_that_does_not_depend_on_the_others(name):
    config, shape, width = CASES[name]
    torch.manual_seed(0)
    encoder = build_encoder(config).eval()
    inputs = torch.rand(shape)
    got = encoder(inputs)
    assert encoder.dim == width and got.shape == (3, width)
    torch.testing.assert_close(encoder(inputs[1:2]), got[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got[0], got[1])
    rebuilt = build_encoder(json.loads(json.dumps(encoder.to_config()))).eval()
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(inputs), got)
    with pytest.raises(ModelError, match="was given"):
        encoder(torch.rand(3, 3, *shape[2:]))


@pytest.mark.parametrize("name", ["mlp", "conv1d", "conv3d"])
def test_records_stay_apart_in_training_too(name):
    config, shape, _ = CASES[name]
    torch.manual_seed(0)
    encoder = build_encoder({**config, "dropout": 0.0} if name == "mlp" else config).train()
    inputs = torch.rand(shape)
    torch.testing.assert_close(encoder(inputs[:1]), encoder(inputs)[:1], rtol=1e-4, atol=1e-5)


def test_every_stage_halves_the_resolution():
    encoder = build_encoder({"name": "conv1d", "leads": 1, "widths": [4, 4, 4]})
    assert encoder.blocks(torch.rand(1, 1, 80)).shape == (1, 4, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "mlp"}, "'features' is required"),
        ({"name": "mlp", "features": 0, "widths": []}, "at least one positive width"),
        ({"name": "mlp", "features": 1, "dropout": 1}, "dropout must be in"),
        ({"name": "conv1d", "kernel": 4}, "kernel must be odd"),
        ({"name": "conv3d", "channels": 0}, "channels must be at least 1"),
        ({"name": "monai", "model": "resnet11"}, "resnet10"),
    ],
)
def test_settings_that_cannot_work(config, message):
    with pytest.raises(ConfigError) as caught:
        build_encoder(config)
    assert message in str(caught.value)


def test_without_monai_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(MissingDependencyError, match=r"encoder 'monai'") as caught:
        build_encoder({"name": "monai"})
    assert "forgetmi[volumes]" in str(caught.value)


def rows_and_signals():
    """24 patients, two records each; some rows and signals are missing, and so are some cells."""
    draw = np.random.default_rng(0)
    records = []
    for n in range(48):
        label = int(draw.integers(3))
        row = {"age": float(draw.normal(40 + 15 * label, 5)), "lab": float(draw.normal()), "sex": "FM"[n % 2]}
        if n % 6 == 1:
            row["lab"] = None
        values = {
            "labs": None if n % 7 == 3 else row,
            "ecg": None if n % 5 == 2 else {"samples": draw.normal(label, 1, size=(2, 40)), "rate": 50},
        }
        split = "train" if n < 32 else "validation" if n < 40 else "test"
        records.append(Record(f"s{n:02d}", f"st{n:02d}", f"p{n // 2:02d}", "", values, label, split))
    return RecordDataset(
        records,
        name="made",
        levels=("patient", "study", "sample", "modality"),
        classes=("a", "b", "c"),
        modality_kinds={"labs": "tabular", "ecg": "signal"},
    )


def rows_and_signals_case():
    dataset = rows_and_signals()
    train = [dataset[i].value("labs") for i in dataset.indices("train")]
    rows = TabularModality.fit([row for row in train if row is not None])
    loader = Loader(dataset, {"labs": rows, "ecg": SignalModality(2, 20, 25)})
    config = {
        "encoders": {
            "labs": {"name": "mlp", "features": rows.features, "widths": [8]},
            "ecg": {"name": "conv1d", "leads": 2, "widths": [4, 8], "kernel": 3},
        },
        "n_outputs": 3,
        "fusion": "gate",
        "heads": "both",
        "dim": 8,
    }
    return TinyCase(
        "classification", dataset, loader, ClassificationTask(3), lambda seed: build_model(config, seed),
        build_model(config, 0).eval(), resolve(dataset, ForgetRequest.of("patient", ["p00", "p03", "p07"])),
    )  # fmt: skip


def test_forget_mi_runs_on_rows_and_signals_and_its_model_is_stored(tmp_path):
    case = rows_and_signals_case()
    before = state_of(case.model)
    fit = {**METHODS["forget_mi"]().fit.__dict__, "epochs": 1, "batch_size": 4, "lr": 1e-2}
    method = build_method("forget_mi", {"fit": fit, "noise": {"tabular": {"sd": 0.2}, "signal": {"sd": 0.3}}})
    unlearned = method.unlearn(case.job(seed=1))
    assert same_state(before, state_of(case.model)) and not same_state(before, state_of(unlearned))
    assert same_state(state_of(unlearned), state_of(method.unlearn(case.job(seed=1))))
    other = build_method("forget_mi", {"fit": fit, "noise": {"tabular": {"sd": 2.0}, "signal": {"sd": 0.3}}})
    assert not same_state(state_of(unlearned), state_of(other.unlearn(case.job(seed=1)))), "the noise plays no part"
    save_model(unlearned, tmp_path / "m", modalities=case.loader.modalities, task_config={"name": "classification"})
    loaded = load_model(tmp_path / "m")
    assert same_state(state_of(loaded.model), state_of(unlearned))
    batch = Loader(case.dataset, loaded.modalities).batch([0, 1, 2])
    expected = case.loader.batch([0, 1, 2])
    assert all(torch.equal(batch.inputs[name], expected.inputs[name]) for name in batch.inputs)


def test_noise_of_a_missing_modality_is_not_drawn_and_missing_cells_stay_missing():
    case = rows_and_signals_case()
    clean = case.loader.batch([1, 3])
    noisy = case.loader.noisy_batch([1, 3], None, seed=0, epoch=0)
    assert not torch.equal(clean.inputs["labs"][0], noisy.inputs["labs"][0])
    assert torch.equal(clean.inputs["labs"][1], noisy.inputs["labs"][1])  # the row of record 3 is missing


CONFIG = """
data: {adapter: manifest, path: m.csv, columns: {sample_id: i}, modalities: {text: {column: t, kind: text}},
       label_kind: none, split: {validation: 0.2, test: 0.2, seed: 0}}
request: {draw: {patients: 2}}
task: {name: classification, n_classes: 3}
model:
  modalities: {labs: {kind: tabular}, ecg: {kind: signal, leads: 2, samples: 20}, ct: {kind: volume, size: 8}}
  encoders: {labs: {name: mlp}, ecg: {name: conv1d}, ct: {name: conv3d}}
training: {epochs: 1}
unlearning: {method: forget_mi}
"""


def test_a_config_fills_in_what_the_modalities_fix(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "run.yaml")
    case = rows_and_signals_case()
    modalities = {**case.loader.modalities, "ct": config.model.modalities["ct"].build(())}
    complete = config.model.complete(modalities, 3)
    assert complete["encoders"]["labs"]["features"] == 7  # two numbers, two flags, F, M and the unknown sex
    assert complete["encoders"]["ecg"]["leads"] == 2
    assert complete["encoders"]["ct"]["channels"] == 1
    build_model(complete, 0)
    (tmp_path / "bad.yaml").write_text(CONFIG.replace("{name: conv1d}", "{name: conv1d, leads: 12}"))
    with pytest.raises(ConfigError, match="the modality ecg has 2"):
        load_config(tmp_path / "bad.yaml")
