"""GRIN's and SURE's choice of weights, noise on chosen ones, and rectified gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from forgetmi.errors import MethodError
from forgetmi.parts.edits.noise import noisy
from forgetmi.parts.updates.mask import WeightMask, largest
from forgetmi.parts.updates.projected import without
from forgetmi.parts.updates.saliency import gradient_ratio, row_norms, saliency_masks, shares
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.training.toys import Net, fit


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_ratio_and_what_leaves_it_alone():
    f, r = torch.tensor([3.0, -1.0, 0.0, 2.0, 0.0]), torch.tensor([-1.0, 0.5, 4.0, 0.0, 0.0])
    assert gradient_ratio(f, r, 0.5).tolist() == [2.0, 1.0, 0.0, 4.0, 0.0]  # where g_r = 0: |g_f| / epsilon
    assert torch.equal(gradient_ratio(-f, r, 0.5), gradient_ratio(f, -r, 0.5))
    assert gradient_ratio(f, r, 0.0).tolist() == [3.0, 2.0, 0.0, torch.inf, 0.0]  # no NaN
    f, r = drawn(50), drawn(50, seed=1)
    assert torch.equal(gradient_ratio(f, f, 0.0), torch.ones(50))  # no information
    scaled = gradient_ratio(8 * f, 8 * r, 0.0)  # a power of two, so that not a bit differs
    assert torch.equal(scaled, gradient_ratio(f, r, 0.0))
    assert not torch.equal(gradient_ratio(8 * f, 8 * r, 0.5), gradient_ratio(f, r, 0.5))


def by_sorting(scores, share):
    flat = torch.cat([score.flatten() for score in scores.values()]).double()
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: round(share * len(flat))]] = True
    return {
        name: part.view_as(score)
        for (name, score), part in zip(scores.items(), chosen.split([s.numel() for s in scores.values()]), strict=True)
    }


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_are_those_of_a_stable_sort(dtype, share):
    """Rounded, so that there are ties; of both signs; across tensors; with infinities and zeros of both signs."""
    scores = {"a": drawn(7, 11), "b": drawn(90, seed=1) * 3, "c": torch.zeros(0), "d": drawn(3, 2, 5, seed=2) * 1e-30}
    scores["b"][:6] = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, torch.inf, 1e30])
    scores = {
        name: score.mul(4).round().div(4).to(dtype) if name != "d" else score.to(dtype)
        for name, score in scores.items()
    }
    found, expected = largest(scores, share), by_sorting(scores, share)
    assert all(torch.equal(found[name], expected[name]) for name in scores)
    each = largest(scores, share, "each")
    for name, score in scores.items():
        assert torch.equal(each[name], by_sorting({name: score}, share)[name])


def test_scores_that_are_nan_are_refused():
    with pytest.raises(MethodError, match="scores of b are NaN"):
        largest({"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan])}, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_has_its_size_on_the_mask_and_nothing_moves_off_it(dtype):
    weight = drawn(300, 300).mul(0.5).to(dtype)
    mask = drawn(300, 300, seed=1) > 0.5
    before = weight.clone()
    found = noisy(weight, mask, 0.1, torch.Generator().manual_seed(5))
    assert torch.equal(weight, before) and found.dtype == dtype
    assert torch.equal(found[~mask], weight[~mask])
    change = (found.float() - weight.float())[mask]
    assert change.std().item() == pytest.approx(0.1, rel=0.03) and abs(change.mean().item()) < 0.003
    assert torch.equal(found, noisy(weight, mask, 0.1, torch.Generator().manual_seed(5)))
    assert not torch.equal(found, noisy(weight, mask, 0.1, torch.Generator().manual_seed(6)))
    relative = noisy(weight, mask, 0.1, torch.Generator().manual_seed(5), relative=True)
    ratio = (relative.float() - weight.float())[mask].std() / change.std()
    assert ratio.item() == pytest.approx(weight.float().std().item(), rel=0.01)


def test_without_noise_or_mask_the_weights_are_the_same_bit_by_bit():
    weight, draw = drawn(20, 3), torch.Generator()
    everything = torch.ones_like(weight, dtype=torch.bool)
    assert torch.equal(noisy(weight, everything, 0.0, draw), weight)
    assert torch.equal(noisy(weight, ~everything, 5.0, draw), weight)
    single = torch.tensor(2.0)  # of which there is no deviation
    assert noisy(single, torch.tensor(True), 1.0, draw, relative=True).item() == 2.0


GRADIENTS = {
    "layers.0.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),  # rows 5 and 1
    "layers.0.bias": torch.tensor([-12.0, 0.0]),
    "layers.1.weight": torch.tensor([[6.0, 8.0]]),  # 10
    "scale": torch.tensor(-2.0),
}


def test_norms_by_hand():
    assert row_norms(GRADIENTS["layers.0.weight"]).tolist() == [5.0, 1.0]
    assert row_norms(GRADIENTS["layers.0.bias"]).tolist() == [12.0, 0.0]
    assert row_norms(GRADIENTS["scale"]).tolist() == [2.0]
    assert row_norms(torch.full((2, 3, 4), 0.5)).tolist() == pytest.approx([math.sqrt(3)] * 2)


def test_rows_above_a_percentile():
    # Rows 5, 1, 12, 0, 10, 2: the median is 3.5.
    masks = saliency_masks(GRADIENTS, 50, "row")
    assert masks["layers.0.weight"].tolist() == [[True, True], [False, False]]
    assert masks["layers.0.bias"].tolist() == [True, False]
    assert masks["layers.1.weight"].tolist() == [[True, True]] and not masks["scale"]
    assert all(mask.shape == GRADIENTS[name].shape for name, mask in masks.items())
    assert all(mask.all() for mask in saliency_masks(GRADIENTS, 0, "row").values())
    # Five steps of 20 between the six: 10 is the norm at 80.
    assert [int(saliency_masks(GRADIENTS, at, "row")["layers.1.weight"].sum()) for at in (79.5, 80.5)] == [2, 0]
    top = saliency_masks(GRADIENTS, 100, "row")
    assert sum(int(mask.sum()) for mask in top.values()) == 1 and top["layers.0.bias"][0]


def test_modules_above_a_percentile():
    # Layer 0: sqrt(25 + 1 + 144) = 13.04; layer 1: 10; scale: 2.
    masks = saliency_masks(GRADIENTS, 100, "module")
    assert [bool(mask.all()) for mask in masks.values()] == [True, True, False, False]
    assert not any(mask.any() != mask.all() for mask in masks.values())
    half = saliency_masks(GRADIENTS, 50, "module")
    assert [bool(mask.all()) for mask in half.values()] == [True, True, True, False]
    assert all(mask.all() for mask in saliency_masks(GRADIENTS, 0, "module").values())


def test_rows_outside_of_the_mask_do_not_move_by_a_bit_under_adamw():
    start = Net()
    gradients = {name: drawn(*p.shape, seed=k) for k, (name, p) in enumerate(start.named_parameters())}
    for level, percentile in (("row", 70), ("module", 60)):
        masks = saliency_masks(gradients, percentile, level)
        trainer = WeightMask(masks, start).constrain(Trainer(device="cpu", progress=False))
        options = FitOptions(epochs=3, batch_size=4, optimizer="adamw", weight_decay=0.5, lr=0.05)
        model, _ = fit(options, model=Net(), trainer=trainer)
        original = dict(start.named_parameters())
        for name, p in model.named_parameters():
            assert torch.equal(p[~masks[name]], original[name][~masks[name]])
            assert (p[masks[name]] != original[name][masks[name]]).all()


def test_shares_by_kind_of_module():
    masks = {name: torch.ones_like(g, dtype=torch.bool) for name, g in GRADIENTS.items()}
    masks["layers.1.weight"] = torch.tensor([[True, False]])
    assert shares(masks) == {"layers": (7, 8), "scale": (1, 1)}
    net = nn.ModuleDict({"blocks": nn.ModuleList(nn.ModuleDict({"up": nn.Linear(2, 3)}) for _ in range(12))})
    none = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in net.named_parameters()}
    assert shares(none) == {"blocks.up": (0, 12 * 9)}


def test_a_rectified_gradient_is_that_of_gru():
    """GRU (arXiv 2503.09117): g - <g, m> m / ||m||^2 where <g, m> < 0, m a moving average of retain gradients."""
    g, first, second = drawn(40), drawn(40, seed=1), drawn(40, seed=2)
    m = first.lerp(second, 0.8)
    assert torch.allclose(m, 0.2 * first + 0.8 * second, rtol=1e-5, atol=1e-6)
    for sign in (1.0, -1.0):
        found, along = without(sign * g, m, "conflict"), torch.dot(sign * g, m)
        if along >= 0:
            assert torch.equal(found, sign * g)
        else:
            assert torch.allclose(found, sign * g - along / m.square().sum() * m, rtol=1e-5, atol=1e-6)
            assert abs(torch.dot(found, m).item()) < 1e-4
