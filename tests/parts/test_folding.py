"""Folding: the same function without the layers where that is possible, and the reason where it is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits.folding import Fold, find_folds, fold_factors, hidden_layers, run_order, scale_columns
from forgetmi.parts.edits.forgetting_layers import insert_forgetting, remove_forgetting
from forgetmi.parts.selection.covering import covering
from tests.tiny import classifier_case, language_case, same_state, state_of


def ask(model: nn.Module, batch: Batch) -> ModelOutput:
    return ModelOutput(model(batch.inputs["x"]))


def batch_of(x: torch.Tensor) -> list[Batch]:
    return [Batch({"x": x}, {}, None, torch.arange(len(x)))]


def find(model: nn.Module, layers, batches: list[Batch], ask=ask) -> tuple[list[Fold], dict[str, str]]:
    return find_folds(model, layers, run_order(model, batches, ask), batches, ask, torch.Generator().manual_seed(0))


def refusals(model: nn.Module, names: list[str], batches: list[Batch], ask=ask) -> dict[str, str]:
    layers = insert_forgetting(model, names)
    try:
        return find(model, layers, batches, ask)[1]
    finally:
        remove_forgetting(model)


def folded(model: nn.Module, names: list[str], batches: list[Batch], ask=ask) -> list[Fold]:
    """Insert, fade, fold, and check that nothing changed: to 1e-10 in double precision."""
    model = copy.deepcopy(model).eval()
    layers = insert_forgetting(model, names)
    before = state_of(model)
    folds, refused = find(model, layers, batches, ask)
    assert not refused
    assert same_state(before, state_of(model)), "trying left a trace"
    assert [fold.layer for fold in folds] == names
    with torch.no_grad():
        plain = ask(model, batches[0]).logits
        for number, layer in enumerate(layers.values()):
            layer.fade(torch.linspace(0.5, 3.0, layer.units), 1.0 + number)
        faded = ask(model, batches[0]).logits
        fold_factors(model, folds, layers, batches, ask)
        remove_forgetting(model)
        assert (ask(model, batches[0]).logits - faded).abs().max() <= 1e-6 * faded.abs().max()
        assert (faded - plain).abs().max() > 1e-2 * plain.abs().max()
    assert not any("forgetting" in m.__dict__ for m in model.modules())
    return folds


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    ("model", "name", "shape", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), "0", (5, 4), Fold("0", "0", "rows")),
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), "1", (5, 4), Fold("1", "0", "rows")),
        (nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)), "1", (5, 4), Fold("1", "2", "columns")),
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)),
            "2", (5, 1, 8, 8), Fold("2", "1", "rows"),
        ),
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 2, 3, padding=1)),
            "2", (5, 1, 8, 8), Fold("2", "3", "columns"),
        ),
        (
            nn.Sequential(nn.Conv1d(2, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(24, 3)),
            "1", (5, 2, 6), Fold("1", "3", "columns"),
        ),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)), "1", (5, 4), Fold("1", "1", "rows")),
        (nn.Sequential(nn.Conv3d(1, 4, 2), nn.Conv3d(4, 2, 2)), "0", (3, 1, 4, 4, 4), Fold("0", "0", "rows")),
    ],
)  # fmt: skip
def test_plain_networks_fold_exactly(model, name, shape, expected):
    assert folded(model.double(), [name], batch_of(draw(*shape))) == [expected]


def test_several_layers_in_a_row_fold_together():
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.GELU(), nn.Flatten(), nn.Linear(80, 3)
    ).double()
    model(draw(9, 1, 8, 8))  # statistics that are not 0 and 1
    folded(model, ["0", "1", "2", "3", "4"], batch_of(draw(5, 1, 8, 8)))


def test_factors_do_not_cross_a_batchnorm():
    """Behind a norm, the layer before it could not take the factors in: it would scale what the norm takes away."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3))
    model = model.double()
    model(1 + draw(9, 4))  # a mean that is not 0
    model.eval()
    refused = refusals(model, ["1", "2"], batch_of(draw(5, 4)))
    assert refused.keys() == {"1", "2"}
    assert "the rows of 0: the output would be another" in refused["1"]


def test_a_norm_whose_statistics_move_after_the_fold_was_found_is_noticed():
    """While a BatchNorm's mean is still 0 a factor passes through it; after some training it does not."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.GELU(), nn.Linear(6, 3)).double().eval()
    layers = insert_forgetting(model, ["1"])
    batches = batch_of(draw(5, 4))
    folds, _ = find(model, layers, batches)
    assert folds == [Fold("1", "0", "rows")]
    model[1].running_mean += 1.0
    layers["1"].fade(torch.ones(6), 1.0)
    with pytest.raises(MethodError, match="changed the model's output"):
        fold_factors(model, folds, layers, batches, ask)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)

    def forward(self, x):
        h = self.act(self.first(x))
        return h + self.second(h)


def test_units_that_go_to_two_places_are_refused():
    model = Residual().double()
    refused = refusals(model, ["act"], batch_of(draw(5, 4)))
    assert "the columns of second: the output would be another" in refused["act"]


def test_frozen_shared_dead_and_unreached_layers_are_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    model.spare = nn.Linear(2, 2)
    model[2].weight = model[0].weight
    with torch.no_grad():
        model[3].weight[:, :] = 0
    model[3].requires_grad_(False)
    names = ["0", "2", "spare"]

    def skips(model, batch):
        return ModelOutput(model[3](model[2](model[1](model[0](batch.inputs["x"])))))

    batches = batch_of(draw(5, 4))
    refused = refusals(model, names, batches, skips)
    assert "changes nothing in the model's output" in refused["0"]
    assert "none of the 5 records tried reaches it" in refused["spare"]
    with torch.no_grad():
        model[3].weight.normal_()
    refused = refusals(model, names, batches, skips)
    assert "it shares its weights with 0" in refused["2"]
    assert "the columns of 3: its weights are frozen" in refused["2"]


def test_a_norm_of_single_units_takes_every_factor_away():
    """Group norm with one channel a group undoes what stands before it; behind it, a layer counts."""
    norm = nn.GroupNorm(4, 4, eps=1e-9)
    model = nn.Sequential(nn.Conv1d(1, 4, 3, bias=False), norm, nn.ReLU(), nn.Conv1d(4, 2, 3)).double()
    batches = batch_of(draw(5, 1, 9))
    assert "changes nothing" in refusals(model, ["0"], batches)["0"]
    assert folded(model, ["1"], batches) == [Fold("1", "1", "rows")]
    assert hidden_layers(model, run_order(model, batches, ask), 2) == ["1"]


def test_default_layers_stand_behind_norms_and_not_behind_what_is_as_wide_as_the_output():
    model = nn.Sequential(
        nn.Linear(4, 6), nn.Dropout(), nn.LayerNorm(6), nn.GELU(),
        nn.Linear(6, 5), nn.LayerNorm(5, elementwise_affine=False), nn.Linear(5, 3),
    ).double().eval()  # fmt: skip
    order = run_order(model, batch_of(draw(5, 4)), ask)
    assert hidden_layers(model, order, 3) == ["2", "4"]
    model[2].requires_grad_(False)
    assert hidden_layers(model, order, 3) == ["4"]


def test_scaling_what_has_no_columns_is_refused():
    with pytest.raises(MethodError, match="BatchNorm1d has no column"):
        scale_columns(nn.BatchNorm1d(3), torch.ones(3))


@pytest.mark.parametrize("case_of", [classifier_case, language_case])
def test_default_layers_of_our_models_fold(case_of):
    case = case_of()
    tried = covering(case.loader, case.partition.train, 3)
    batches = list(case.loader.batches(tried, 8))
    order = run_order(case.model, batches, case.task.output)
    width = case.task.output(case.model, batches[0]).logits.shape[-1]
    names = hidden_layers(case.model, order, width)
    assert len(names) > 5
    assert not [name for name in names if "head" in name]
    folds = folded(case.model, names, batches, case.task.output)
    assert {fold.layer == fold.into for fold in folds} == {True}


@pytest.mark.parametrize(
    ("name", "into"),
    [
        ("encoders.film", Fold("encoders.film", "projections.film", "columns")),
        ("encoders.note", None),  # its last norm
        ("encoders.film.stem", Fold("encoders.film.stem", "encoders.film.stem.1", "rows")),
        ("encoders.note.layers.layers.0.self_attn", None),
        ("encoders.note.layers.layers.0.linear1", None),
    ],
)
def test_parts_of_our_classifier_fold(name, into):
    case = classifier_case()
    batches = list(case.loader.batches(covering(case.loader, case.partition.train, 3), 8))
    (fold,) = folded(case.model, [name], batches, case.task.output)
    if into is not None:
        assert fold == into


def test_the_residual_stream_of_a_transformer_is_refused():
    case = language_case()
    batches = list(case.loader.batches(case.partition.train, 8))
    refused = refusals(case.model, ["transformer.h.0", "transformer.wte"], batches, case.task.output)
    assert refused.keys() == {"transformer.h.0", "transformer.wte"}
    assert "shares its weights with lm_head" in refused["transformer.wte"]


def test_covering_has_every_set_of_modalities():
    case = classifier_case()
    chosen = covering(case.loader, case.partition.train, 2)
    has = [tuple(v is not None for v in case.dataset[i].modalities.values()) for i in chosen]
    assert set(has) == {(True, True), (False, True), (True, False)} | ({(False, False)} & set(has))
    assert max(has.count(kind) for kind in set(has)) == 2
