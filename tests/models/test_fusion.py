import math

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.models.fusion import build_fusion

YES, NO = torch.tensor([True]), torch.tensor([False])


def gate(**options):
    """Two modalities of width 2, weights chosen by hand.

    g = relu([x1 + y1, x2 - 1]), shift = g * [2 y1, y2] + b, b = [0, 1].
    """
    fusion = build_fusion({"name": "gate", **options}, ("x", "y"), 2)
    with torch.no_grad():
        fusion.gates[0].weight.copy_(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]))
        fusion.gates[0].bias.copy_(torch.tensor([0.0, -1]))
        fusion.shifts[0].weight.copy_(torch.tensor([[2.0, 0], [0, 1]]))
        fusion.bias.copy_(torch.tensor([0.0, 1]))
        fusion.norm.weight.copy_(torch.tensor([10.0, 100]))
        fusion.norm.bias.copy_(torch.tensor([1.0, 2]))
    return fusion.eval()


def layer_norm(a, b):
    """LayerNorm of (a, b), then * (10, 100) + (1, 2)."""
    mean = (a + b) / 2
    sd = math.sqrt(((a - mean) ** 2 + (b - mean) ** 2) / 2 + 1e-5)
    return [10 * (a - mean) / sd + 1, 100 * (b - mean) / sd + 2]


def row(*values):
    return torch.tensor([values], dtype=torch.float32)


def test_gate_by_hand_where_the_bound_holds_the_shift_back():
    # g = relu([3+1, 4-1]) = [4, 3]; h = [4*2, 3*2] + [0, 1] = [8, 7]; ||x|| = 5, ||h|| = sqrt(113)
    alpha = 0.5 * 5 / math.sqrt(113)
    got = gate(beta=0.5)({"x": row(3, 4), "y": row(1, 2)}, {"x": YES, "y": YES})
    torch.testing.assert_close(got, row(*layer_norm(3 + 8 * alpha, 4 + 7 * alpha)), rtol=1e-5, atol=1e-4)


def test_gate_by_hand_where_the_shift_is_short():
    # g = relu([30-1, -4-1]) = [29, 0]; h = [29*2*(-0.1), 0] + [0, 1]; ||x|| > ||h||, so alpha = 1
    shift = 29.9 * 2 * -0.1
    got = gate()({"x": row(30, -4), "y": row(-0.1, 2)}, {"x": YES, "y": YES})
    torch.testing.assert_close(got, row(*layer_norm(30 + shift, -4 + 1)), rtol=1e-5, atol=1e-3)


def test_gate_of_a_lone_main_modality_is_its_layer_norm():
    got = gate()({"x": row(3, 4), "y": row(1, 2)}, {"x": YES, "y": NO})
    torch.testing.assert_close(got, row(*layer_norm(3, 4)), rtol=1e-5, atol=1e-4)


def test_gate_of_a_missing_main_modality_starts_from_the_learned_one():
    fusion = gate()
    with torch.no_grad():
        fusion.absent.copy_(torch.tensor([3.0, 4.0]))
    got = fusion({"x": row(99, 99), "y": row(1, 2)}, {"x": NO, "y": YES})
    want = fusion({"x": row(3, 4), "y": row(1, 2)}, {"x": YES, "y": YES})
    assert torch.equal(got, want)


def test_gate_as_beta_vanishes_is_the_layer_norm_and_beta_stays_positive():
    fusion = gate(beta=0.25)
    torch.testing.assert_close(fusion.beta, torch.tensor(0.25))
    with torch.no_grad():
        fusion.raw_beta.fill_(-50.0)
    assert fusion.beta > 0
    got = fusion({"x": row(3, 4), "y": row(1, 2)}, {"x": YES, "y": YES})
    torch.testing.assert_close(got, row(*layer_norm(3, 4)), rtol=1e-5, atol=1e-4)


def test_gate_takes_the_main_modality_that_is_named():
    values = {"x": row(3, 4), "y": row(1, 2)}
    here = {"x": YES, "y": NO}
    fusion = gate(main="y")
    with torch.no_grad():
        fusion.absent.copy_(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(fusion(values, {"x": NO, "y": YES}), row(*layer_norm(1, 2)), rtol=1e-5, atol=1e-4)
    assert not torch.equal(fusion(values, here), fusion(values, {"x": NO, "y": NO}))


def test_gate_of_zero_embeddings_has_a_finite_gradient():
    fusion = build_fusion({"name": "gate"}, ("x", "y"), 4)
    zeros = {"x": torch.zeros(2, 4, requires_grad=True), "y": torch.zeros(2, 4, requires_grad=True)}
    both = torch.tensor([True, True])
    fusion(zeros, {"x": both, "y": both}).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())
    assert zeros["x"].grad.isfinite().all()


def test_outer_by_hand():
    fusion = build_fusion({"name": "outer", "rank": 1}, ("x", "y"), 1).eval()
    with torch.no_grad():
        for reduce in fusion.reduce:
            reduce.weight.fill_(1)
            reduce.bias.zero_()
        fusion.project.weight.copy_(torch.tensor([[1.0, 10, 100, 1000]]))  # of [1, y, x, x y]
        fusion.project.bias.zero_()
    values = {"x": row(2), "y": row(3)}
    for x, y, want in ((YES, YES, 1 + 30 + 200 + 6000), (YES, NO, 201), (NO, YES, 31), (NO, NO, 1)):
        assert fusion(values, {"x": x, "y": y}).item() == want


@pytest.mark.parametrize("name", ["late", "gate", "cross_attention", "outer"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_modalities(name, count):
    names = tuple("abc"[:count])
    torch.manual_seed(0)
    options = {"rank": 4} if name == "outer" else {}
    fusion = build_fusion({"name": name, **options}, names, 8).eval()
    values = {n: torch.randn(5, 8) for n in names}
    present = {n: torch.tensor([True, False, True, False, i == 2]) for i, n in enumerate(names)}
    joint = fusion(values, present)
    assert joint.shape == (5, 8) and joint.isfinite().all()
    assert torch.allclose(joint[1], joint[3]) and not torch.allclose(joint[0], joint[1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "gate", "beta": 0.0}, "beta must be a positive number"),
        ({"name": "gate", "betas": 1.0}, "Did you mean 'beta'?"),
        ({"name": "late", "dropout": -0.1}, "dropout must be in"),
        ({"name": "outer", "rank": 0}, "rank must be at least 1"),
        ({"name": "cross_attention", "heads": 0}, "heads must be at least 1"),
        ({"rank": 2}, "'name' is required"),
    ],
)
def test_options_out_of_range(config, message):
    with pytest.raises(ConfigError) as caught:
        build_fusion(config, ("x", "y"), 8)
    assert message in str(caught.value)
