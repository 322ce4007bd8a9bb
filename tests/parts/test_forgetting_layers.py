"""Forgetting layers: the curve, the four kinds, and that putting them in and taking them out leaves no trace."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from forgetmi.errors import MethodError
from forgetmi.parts.edits.forgetting_layers import (
    Activations,
    ForgettingLayer,
    fixed_taus,
    insert_forgetting,
    matching_modules,
    mean_activations,
    random_taus,
    ranked_taus,
    remove_forgetting,
    units_dimension,
)
from forgetmi.parts.selection.alike import alike_batches
from forgetmi.training.modes import scoring
from tests.tiny import classifier_case, same_state, state_of


def layer(tau, t) -> ForgettingLayer:
    made = ForgettingLayer()
    made.fade(torch.as_tensor(tau), t)
    return made


H = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def test_the_curve():
    tau = torch.tensor([0.5, 2.0, 7.0])
    assert torch.equal(layer(tau, 0.0)(H), H)
    assert torch.equal(layer([math.inf] * 3, 5.0)(H), H)
    assert torch.equal(layer([1e-9] * 3, 1.0)(H), torch.zeros_like(H))
    assert torch.allclose(layer(tau, 0.7)(H), H * torch.tensor([math.exp(-1.4), math.exp(-0.35), math.exp(-0.1)]))
    assert layer([4.0], 4.0).phi().item() == pytest.approx(1 / math.e, abs=1e-15)
    assert torch.allclose(layer(tau, 1.0).phi() * layer(tau, 2.5).phi(), layer(tau, 3.5).phi(), rtol=1e-14)
    times = torch.stack([layer(tau, t).phi() for t in (0.0, 0.1, 1.0, 3.0)])
    assert bool((times.diff(dim=0) < 0).all())


def test_time_adds_up_over_rounds_whatever_their_constants():
    made = layer([2.0, 2.0], 1.0)
    made.fade(torch.tensor([1.0, math.inf]), 3.0)
    assert torch.allclose(made.phi(), torch.tensor([-3.5, -0.5], dtype=torch.float64).exp(), rtol=1e-14)


def test_a_layer_without_time_is_the_identity_and_has_no_factors():
    made = ForgettingLayer()
    assert made(H) is H
    with pytest.raises(MethodError, match="before any time"):
        made.phi()


def test_scaling_before_or_after_a_relu_is_equal():
    made = layer([1.0, 2.0, 3.0], 1.0)
    assert torch.equal(torch.relu(made(H)), made(torch.relu(H)))


def test_in_the_end_a_softmax_head_knows_its_bias_only():
    head = nn.Linear(3, 4)
    assert torch.allclose(head(layer([1.0] * 3, 1e4)(H)).softmax(dim=1), head.bias.softmax(dim=0).expand(5, 4))


def test_kinds_by_hand():
    assert fixed_taus(2, 3.0).tolist() == [3.0, 3.0]
    score = torch.tensor([0.1, 5.0, 2.0, 0.3])
    assert ranked_taus(score, 1.0, 4.0).tolist() == [4.0, 1.0, 2.0, 3.0]
    assert ranked_taus(score, 1.0, 4.0, top_share=0.5).tolist() == [math.inf, 1.0, 2.0, math.inf]
    assert ranked_taus(score, 1.0, 4.0, top_share=0.26).tolist() == [math.inf, 1.0, 2.0, math.inf]  # rounded up
    assert ranked_taus(torch.tensor([7.0]), 1.0, 4.0).tolist() == [1.0]
    assert torch.equal(ranked_taus(score, 3.0, 3.0), fixed_taus(4, 3.0))


def test_ties_rank_in_order_and_units_may_be_permuted():
    assert ranked_taus(torch.ones(4), 1.0, 4.0).tolist() == [1.0, 2.0, 3.0, 4.0]
    score = torch.randn(9, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ranked_taus(score[order], 1.0, 5.0), ranked_taus(score, 1.0, 5.0)[order])


def test_random_constants_are_uniform_and_of_their_seed():
    first, again, other = (random_taus(4000, 2.0, 6.0, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 2 and first.max() <= 6
    assert first.mean().item() == pytest.approx(4.0, abs=4 * 4 / math.sqrt(12 * 4000))


def test_mean_activations_by_hand():
    watch = Activations()
    watch.add(torch.tensor([[1.0, -3.0]]), 1)
    watch.add(torch.tensor([[[2.0, 4.0], [0.0, -2.0]]]).transpose(1, 2), 1)  # two positions: means 1 and 3
    assert watch.mean is not None
    assert watch.mean.tolist() == [1.0, 3.0]
    assert Activations().mean is None


def test_mean_activations_do_not_depend_on_batches_order_or_labels():
    case = classifier_case()
    names = ["encoders.note.layers.layers.0.linear1", "projections.film", "encoders.film.stem.0"]
    layers = insert_forgetting(case.model, names)
    indices = case.partition.retain[:9]

    def measured(indices, size):
        return mean_activations(case.model, layers, alike_batches(case.loader, indices, size), case.task.output)

    one = measured(indices, 4)
    for other in (measured(indices, 1), measured(indices[::-1], 3)):
        for name in names:
            assert torch.allclose(one[name], other[name], rtol=1e-6)
    # By hand for one layer: the films that are there, one by one.
    films = [case.loader.batch([i]) for i in indices if case.dataset[i].value("film") is not None]
    with scoring(case.model):
        stem = case.model.encoders["film"].stem[0]
        by_hand = torch.stack([stem(b.inputs["film"]).abs().mean(dim=(0, 2, 3)) for b in films]).mean(dim=0)
    assert torch.allclose(one["encoders.film.stem.0"].float(), by_hand, rtol=1e-5)


def test_a_layer_that_no_record_reaches_says_so():
    case = classifier_case()
    layers = insert_forgetting(case.model, ["projections.film"])
    without = [i for i in case.partition.retain if case.dataset[i].value("film") is None]
    found = mean_activations(case.model, layers, case.loader.batches(without, 4), case.task.output)
    assert found == {"projections.film": None}


def test_in_and_out_again_leaves_no_trace():
    case = classifier_case()
    model = case.model
    before, kinds = state_of(model), [type(m) for m in model.modules()]
    batch = case.loader.batch(range(6))
    names = ["encoders.film.stem", "encoders.film.stem.1", "encoders.note.layers.layers.0.linear1", "fusion"]
    with torch.no_grad():
        plain = model(batch).logits
    layers = insert_forgetting(model, names)
    assert same_state(before, state_of(model)) and [n for n, _ in model.named_parameters()] == [
        n for n, _ in case.build(0).named_parameters()
    ]
    with torch.no_grad():
        assert torch.allclose(model(batch).logits, plain, atol=1e-6)  # the text block leaves torch's fused path
        for each in layers.values():
            each.fade(torch.ones(each.units), 1.0)
        faded = model(batch).logits
        assert not torch.allclose(faded, plain, atol=1e-3)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(batch).logits, faded)
        twin.encoders["film"].stem.__dict__["forgetting"].decay = None
        assert torch.equal(model(batch).logits, faded), "a copy shares its layers with the original"
    with pytest.raises(MethodError, match="has a forgetting layer already"):
        insert_forgetting(model, ["fusion"])
    remove_forgetting(model)
    assert [type(m) for m in model.modules()] == kinds
    assert same_state(before, state_of(model))
    with torch.no_grad():
        assert torch.equal(model(batch).logits, plain)


def test_layers_inside_torchs_fused_transformer_block_are_not_passed_by():
    """Without gradients and in eval mode torch runs the block in one call that no submodule sees."""
    block = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True).eval()
    model = nn.Sequential(block)
    x = torch.randn(2, 3, 8)
    made = insert_forgetting(model, ["0.linear1"])["0.linear1"]
    made.fade(torch.full((16,), 0.5), 1.0)
    with torch.inference_mode():
        fast = model(x)
    assert torch.allclose(fast, model(x), atol=1e-6)
    made.decay = None
    assert not torch.allclose(fast, model(x), atol=1e-3)


def test_patterns():
    model = classifier_case().model
    assert matching_modules(model, ["projections.*"]) == ["projections.film", "projections.note"]
    assert matching_modules(model, ["encoders.film.**.body.0"]) == [
        "encoders.film.blocks.0.body.0",
        "encoders.film.blocks.1.body.0",
    ]
    assert matching_modules(model, ["head", "encoders.*"]) == ["encoders.film", "encoders.note", "head"]
    with pytest.raises(MethodError, match=r"projections\.film"):
        matching_modules(model, ["projection.film"])
    with pytest.raises(MethodError, match="no layer of the model"):
        matching_modules(model, ["encoders"])  # a dict of modules has no output


@pytest.mark.parametrize(
    ("module", "name", "shape", "dim"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), "1", (2, 4, 6, 6), 1),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 8)), "2", (2, 8), 1),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "1", (2, 5, 8), 2),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm(7)), "1", (2, 5, 7), 2),
        (nn.Sequential(nn.Conv1d(1, 4, 3), nn.GELU()), "1", (2, 4, 9), 1),
        # A vision transformer: its patches are made by a convolution, what comes after has its units last.
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Identity()), "1", (2, 16, 4), 2),
    ],
)
def test_where_the_units_are(module, name, shape, dim):
    assert units_dimension(module, name)(torch.zeros(shape)) == dim


def test_outputs_without_units_are_refused():
    model = nn.Sequential(nn.Linear(2, 3))
    find = units_dimension(model, "0")
    for wrong in (torch.zeros(3), torch.zeros(2, 3, dtype=torch.long), {"a": 1}):
        with pytest.raises(MethodError, match="no units that could fade"):
            find(wrong)
