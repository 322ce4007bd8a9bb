"""K heads at once give the weights of K heads one after the other; what cannot be stacked is refused, and why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import DataError, TrainingError
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.text import TextModality
from forgetmi.models.classifier import build_model
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.ensemble import HeadJob, can_stack, fit_heads
from forgetmi.training.features import FeatureLoader, head_of, put_back, same_encoders
from forgetmi.training.options import FitOptions
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.trainer import Trainer
from tests.tiny import N_CLASSES, state_of, tiny_classifier, tiny_dataset, tiny_gpt2, tiny_tokenizer

ENCODERS = {
    "film": {"name": "small_resnet", "channels": 1, "widths": [4], "blocks": 1},
    "note": {
        "name": "small_transformer", "vocab_size": 13, "dim": 8, "layers": 1, "heads": 2, "max_length": 16,
        "dropout": 0.0,
    },
}  # fmt: skip
TASK = ClassificationTask(N_CLASSES)
DATASET = tiny_dataset()
LOADER = Loader(DATASET, {"film": ImageModality(size=8), "note": TextModality(tiny_tokenizer(), max_length=16)})
TRAIN = [i for i, record in enumerate(DATASET) if record.split == "train"]
VALIDATION = [i for i, record in enumerate(DATASET) if record.split == "validation"]
# Of unequal length: with 29 records and batches of 7, the last batch is one record without a note.
TRAINS = [TRAIN, TRAIN[:-3], TRAIN[5:]]
CPU = torch.device("cpu")


def _models(n=3, **changes):
    """Models that differ by their heads only."""
    config = {"encoders": ENCODERS, "n_outputs": N_CLASSES, "dim": 8, "freeze_encoders": True, **changes}
    models = [build_model(config, seed) for seed in range(n)]
    for model in models:
        model.encoders.load_state_dict(models[0].encoders.state_dict())
    return models


def _together(models, recipe, trains=TRAINS, *, task=TASK, seed=0, loader=None):
    loader = loader or FeatureLoader(LOADER, models[0], TRAIN + VALIDATION, recipe=recipe, device=CPU)
    heads = [head_of(model) for model in models]
    jobs = [HeadJob(train, 10 + k) for k, train in enumerate(trains)]
    results = fit_heads(heads, jobs, task=task, loader=loader, validation=VALIDATION, recipe=recipe, seed=seed)
    return heads, results


def _one_by_one(models, recipe, trains=TRAINS, task=TASK):
    return [
        train_by_recipe(
            model, task=task, loader=LOADER, train=train, validation=VALIDATION, recipe=recipe,
            trainer=Trainer(device="cpu", progress=False), order_seed=10 + k, seed=k, name="one",
        )
        for k, (model, train) in enumerate(zip(models, trains, strict=True))
    ]  # fmt: skip


RECIPES = {
    "adamw": FitOptions(epochs=3, batch_size=7, lr=1e-2),
    "sgd, clipped, best, stopped early": FitOptions(
        epochs=5, batch_size=7, lr=5e-2, optimizer="sgd", schedule="cosine", warmup=0.2, clip_norm=0.05, select="best",
        patience=1,
    ),
    "adam, not clipped": FitOptions(
        epochs=4, batch_size=5, lr=3e-2, optimizer="adam", schedule="linear", clip_norm=None, patience=1
    ),
}  # fmt: skip
HEADS = [
    {"fusion": "gate", "heads": "both"},
    {"fusion": "late"},
    {"fusion": {"name": "outer", "rank": 3}},
    {"heads": "per_modality"},
]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_together_as_one_by_one(head, recipe):
    models = _models(**head)
    alone = copy.deepcopy(models)
    before = state_of(models[0])
    assert can_stack(models[0], recipe, TASK) is None
    expected = _one_by_one(alone, recipe)
    heads, found = _together(models, recipe)
    for model, one, fitted, result, reference in zip(models, alone, heads, found, expected, strict=True):
        put_back(fitted, model)
        for name, weight in one.state_dict().items():
            assert torch.allclose(model.state_dict()[name], weight, atol=1e-5), name
        assert (result.epochs, result.steps, result.best_epoch) == (
            reference.epochs, reference.steps, reference.best_epoch
        )  # fmt: skip
        for there, here in zip(reference.history, result.history, strict=True):
            assert here == pytest.approx(there, abs=1e-5)
    moved = {name for name, weight in models[0].state_dict().items() if not torch.equal(weight, before[name])}
    assert moved
    assert not any(name.startswith("encoders.") for name in moved)


def test_models_stop_each_in_its_own_time():
    recipe = FitOptions(epochs=12, batch_size=7, lr=5e-2, patience=1, select="best")
    _, results = _together(_models(fusion="late"), recipe)
    stopped = [result.epochs for result in results]
    assert len(set(stopped)) > 1  # else this test says nothing
    assert all(len(result.history) == result.epochs for result in results)
    assert [result.epochs for result in _one_by_one(_models(fusion="late"), recipe)] == stopped


def test_multilabel_records_with_unknown_labels():
    rows = torch.tensor([[1.0, float("nan"), 0.0], [0.0, 1.0, 1.0]])

    class Labelled(Loader):
        def labels(self, indices):
            return rows[torch.as_tensor(list(indices)) % 2]

    task = ClassificationTask(3, "multilabel")
    recipe = FitOptions(epochs=2, batch_size=7, lr=1e-2)
    labelled = Labelled(DATASET, LOADER.modalities)
    models = _models(fusion="late")
    alone = copy.deepcopy(models[1])
    train_by_recipe(
        alone, task=task, loader=labelled, train=TRAINS[1], validation=(), recipe=recipe,
        trainer=Trainer(device="cpu", progress=False), order_seed=11, seed=1, name="one",
    )  # fmt: skip
    loader = FeatureLoader(labelled, models[0], TRAIN + VALIDATION, recipe=recipe, device=CPU)
    heads, _ = _together(models, recipe, task=task, loader=loader)
    for name, weight in alone.head.state_dict().items():
        assert torch.allclose(heads[1].head.state_dict()[name], weight, atol=1e-5)


def test_dropout_is_drawn_for_each_model_and_again_the_same():
    recipe = FitOptions(epochs=2, batch_size=7, lr=1e-2)

    def weights(seed, dropout=0.5):
        twins = _models(1, fusion="late", dropout=dropout) * 2
        heads, _ = _together(copy.deepcopy(twins), recipe, [TRAIN, TRAIN], seed=seed)
        return [head.head.weight.detach() for head in heads]

    first, second = weights(0)
    assert all(torch.equal(a, b) for a, b in zip(weights(0), (first, second), strict=True))
    assert not torch.allclose(first, weights(1)[0])
    state = torch.get_rng_state()
    weights(2)
    assert torch.equal(torch.get_rng_state(), state)
    # Twins have orders of their own, so look at one step on one batch: only masks can tell them apart.
    one = FitOptions(epochs=1, batch_size=64, lr=1e-2)

    def step(dropout):
        twins = [head_of(model) for model in _models(1, fusion="late", dropout=dropout) * 2]
        loader = FeatureLoader(LOADER, _models(1, fusion="late")[0], TRAIN, recipe=one, device=CPU)
        jobs = [HeadJob(TRAIN, 10)] * 2
        fit_heads(twins, jobs, task=TASK, loader=loader, validation=(), recipe=one, seed=0)
        return [head.head.weight.detach() for head in twins]

    assert torch.equal(*step(0.0))
    assert not torch.equal(*step(0.5))


def test_a_model_that_diverges_is_named_and_no_head_is_changed():
    models = _models(fusion="late")
    heads = [head_of(model) for model in models]
    with torch.no_grad():
        heads[1].head.bias[0] = 1e5
    before = [state_of(head) for head in heads]
    loader = FeatureLoader(LOADER, models[0], TRAIN, recipe=FitOptions(), device=CPU)
    recipe = FitOptions(epochs=1, batch_size=7, max_loss=1e3)
    with pytest.raises(TrainingError, match=r"models \[1\]"):
        fit_heads(heads, [HeadJob(TRAIN, 0)] * 3, task=TASK, loader=loader, validation=(), recipe=recipe, seed=0)
    for head, state in zip(heads, before, strict=True):
        assert all(torch.equal(weight, state[name]) for name, weight in head.state_dict().items())


class _Normed(nn.Module):
    """A fusion with running statistics."""

    def __init__(self, fusion):
        super().__init__()
        self.fusion, self.norm = fusion, nn.BatchNorm1d(8)

    def forward(self, unimodal, present):
        return self.norm(self.fusion(unimodal, present))


def test_what_cannot_be_stacked_is_refused_with_the_reason():
    train, frozen = FitOptions(), FitOptions(mode="frozen_batchnorm")
    assert "a GPT2LMHeadModel" in can_stack(tiny_gpt2(), train, TASK)
    assert "model.freeze_encoders" in can_stack(tiny_classifier(), train, TASK)
    (model,) = _models(1, fusion="late")
    assert "task.loss_kind: fused" in can_stack(model, train, ClassificationTask(3, loss_kind="per_modality"))
    (attention,) = _models(1, fusion={"name": "cross_attention", "heads": 2})
    assert "attention" in can_stack(attention, train, TASK)
    model.fusion = _Normed(model.fusion)
    assert "frozen_batchnorm" in can_stack(model, train, TASK)
    assert can_stack(model, frozen, TASK) is None


def test_frozen_statistics_of_a_head_are_stacked():
    recipe = FitOptions(epochs=2, batch_size=7, lr=1e-2, mode="frozen_batchnorm")
    models = _models(fusion="late")
    for k, model in enumerate(models):
        model.fusion = _Normed(model.fusion)
        model.fusion.norm.running_mean.fill_(0.1 * k)
    alone = copy.deepcopy(models)
    _one_by_one(alone, recipe)
    heads, _ = _together(models, recipe)
    for head, one in zip(heads, alone, strict=True):
        for name, weight in head.state_dict().items():
            assert torch.allclose(weight, one.state_dict()[name], atol=1e-5), name


def test_features_are_what_the_encoders_say_and_heads_read_them():
    (model,) = _models(1, fusion="late", dropout=0.3)
    loader = FeatureLoader(LOADER, model.train(), TRAIN, recipe=FitOptions(), device=CPU, batch_size=5)
    assert all(module.training for module in model.modules())
    head = head_of(model).eval()
    model.eval()
    indices = TRAIN[::-2]
    with torch.no_grad():
        expected, found = model(LOADER.batch(indices)), head(loader.batch(indices))
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    assert found.present["note"].tolist() == expected.present["note"].tolist()
    assert loader.batch(indices).labels.tolist() == LOADER.batch(indices).labels.tolist()
    assert not list(head.encoders.parameters())
    with pytest.raises(TrainingError, match="are not kept"):
        loader.batch(VALIDATION)


def test_an_encoder_with_dropout_is_not_kept():
    noisy = {**ENCODERS, "note": {**ENCODERS["note"], "dropout": 0.5}}
    (model,) = _models(1, encoders=noisy)
    with pytest.raises(TrainingError, match="the encoder of note says something else in training"):
        FeatureLoader(LOADER, model, TRAIN, recipe=FitOptions(), device=CPU)
    FeatureLoader(LOADER, model, TRAIN, recipe=FitOptions(mode="eval"), device=CPU)


def test_encoders_that_differ_are_refused():
    first, second = _models(2)
    same_encoders(first, second)
    with torch.no_grad():
        next(second.encoders.parameters()).add_(1e-3)
    with pytest.raises(TrainingError, match="drawn, not read"):
        same_encoders(first, second)


def test_a_wrong_label_is_found_before_it_is_inside_torch_func():
    models = _models(fusion="late")
    with pytest.raises(DataError, match="out of range"):
        _together(models, FitOptions(epochs=1), task=ClassificationTask(2))


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    recipe = FitOptions(epochs=3, batch_size=7, lr=1e-2)
    models = _models(fusion="late")
    alone = copy.deepcopy(models)
    _one_by_one(alone, recipe)
    loader = FeatureLoader(LOADER, models[0], TRAIN + VALIDATION, recipe=recipe, device=torch.device("cuda"))
    heads, _ = _together(models, recipe, loader=loader)
    for head, one in zip(heads, alone, strict=True):
        for name, weight in head.cpu().state_dict().items():
            assert torch.allclose(weight, one.cpu().state_dict()[name], atol=1e-4), name


def test_freezing_is_stored_and_trained_around():
    (model,) = _models(1)
    assert not any(p.requires_grad for p in model.encoders.parameters())
    assert any(p.requires_grad for p in model.projections.parameters())
    again = build_model(model.to_config(), 0)
    assert not any(p.requires_grad for p in again.encoders.parameters())
