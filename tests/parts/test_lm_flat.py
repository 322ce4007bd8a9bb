"""FLAT: its functions against the definition of a conjugate, its losses and weights in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.parts.objectives.flat import answer_probability, conjugate, flat_loss, variational

ALL = ("kl", "jensen_shannon", "pearson", "total_variation")
F_OF = {  # the divergence's f, whose conjugate is f*(t) = sup_u { t u - f(u) }
    "kl": lambda u: u * u.log(),
    "jensen_shannon": lambda u: u * u.log() - (1 + u) * ((1 + u) / 2).log(),
    "pearson": lambda u: (u - 1).square(),
    "total_variation": lambda u: (u - 1).abs() / 2,
}
GRID = torch.logspace(-6, 3, 400_001, dtype=torch.float64)


def p(value, grad=False):
    return torch.tensor(value, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("v", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("divergence", ALL)
def test_the_conjugate_is_a_supremum(divergence, v):
    t = variational(divergence, p(v))
    assert conjugate(divergence, p(v)).item() == pytest.approx(
        (t * GRID - F_OF[divergence](GRID)).max().item(), abs=2e-4
    )


@pytest.mark.parametrize(
    ("divergence", "g", "f"),
    [
        ("kl", (0, 0.5, 1), (math.exp(-1), math.exp(-0.5), 1)),
        ("jensen_shannon", (0, math.log(2) - math.log1p(math.exp(-0.5)), math.log(2) - math.log1p(math.exp(-1))),
         (0, math.log1p(math.exp(0.5)) - math.log(2), math.log1p(math.e) - math.log(2))),
        ("pearson", (0, 0.5, 1), (0, 0.5625, 1.25)),
        ("total_variation", (0, math.tanh(0.5) / 2, math.tanh(1) / 2), (0, math.tanh(0.5) / 2, math.tanh(1) / 2)),
    ],
)  # fmt: skip
def test_the_table_of_the_paper(divergence, g, f):
    v = p([0.0, 0.5, 1.0])
    assert variational(divergence, v).tolist() == pytest.approx(list(g), abs=1e-12)
    assert conjugate(divergence, v).tolist() == pytest.approx(list(f), abs=1e-12)


def losses(divergence, template, forget, **options):
    """Of answers of one token each, so that P is p."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    nll = [-value.reshape(1, 1).log() for value in (template, forget)]
    return flat_loss(nll[0], mask, nll[1], mask, divergence, **options)


WEIGHTS = {
    "kl": lambda e, f: (1, math.exp(f - 1)),
    "jensen_shannon": lambda e, f: (1 / (1 + math.exp(e)), 1 / (1 + math.exp(-f))),
    "pearson": lambda e, f: (1, 1 + f / 2),
    "total_variation": lambda e, f: (0.5 / math.cosh(e) ** 2, 0.5 / math.cosh(f) ** 2),
}


@pytest.mark.parametrize(("e", "f"), [(0.01, 0.99), (0.5, 0.5), (0.9, 0.2)])
@pytest.mark.parametrize("divergence", ALL)
def test_weights_of_the_two_answers(divergence, e, f):
    template, forget = p(e, grad=True), p(f, grad=True)
    losses(divergence, template, forget).backward()
    teach, unlearn = WEIGHTS[divergence](e, f)
    assert template.grad.item() == pytest.approx(-teach, rel=1e-10)
    assert forget.grad.item() == pytest.approx(unlearn, rel=1e-10)


@pytest.mark.parametrize("value", [0.1, 0.6, 1.0])
def test_equal_probabilities(value):
    equal = {
        "kl": math.exp(value - 1) - value,
        "jensen_shannon": value + 2 * math.log1p(math.exp(-value)) - 2 * math.log(2),
        "pearson": value**2 / 4,
        "total_variation": 0.0,
    }
    for divergence in ALL:
        assert losses(divergence, p(value), p(value)).item() == pytest.approx(equal[divergence], abs=1e-12)


TEMPLATE = torch.tensor([[0.5, 9.0, 1.0], [9.0, 0.1, 9.0]], dtype=torch.float64)
FORGET = torch.tensor([[0.2, 0.3, 0.1], [9.0, 2.0, 1.0]], dtype=torch.float64)
MASKS = torch.tensor([[True, False, True], [False, True, False]]), torch.tensor([[True] * 3, [False, True, True]])


def pad(tensor):
    beyond = torch.zeros(2, 5, dtype=torch.bool) if tensor.dtype == torch.bool else torch.full((2, 5), torch.nan)
    return torch.cat([tensor, beyond.to(tensor)], dim=1)


def test_probabilities_by_hand():
    half = torch.tensor([[0.5, 0.25, 0.7], [1.0, 0.1, 0.2]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert answer_probability(-half.log(), mask).tolist() == pytest.approx([3 / 8, 1.0])
    assert answer_probability(-half.log(), mask, reference_compat=True).item() == pytest.approx(1.75 / 6)


@pytest.mark.parametrize("divergence", ALL)
def test_padding_and_batches_change_nothing_but_the_published_averaging(divergence):
    loss = flat_loss(TEMPLATE, MASKS[0], FORGET, MASKS[1], divergence)
    arguments = [pad(tensor) for tensor in (TEMPLATE, MASKS[0], FORGET, MASKS[1])]
    assert flat_loss(*arguments, divergence).item() == pytest.approx(loss.item(), rel=1e-12)
    rows = [slice(0, 1), slice(1, 2)]
    alone = [flat_loss(TEMPLATE[r], MASKS[0][r], FORGET[r], MASKS[1][r], divergence).item() for r in rows]
    assert sum(alone) / 2 == pytest.approx(loss.item(), rel=1e-12)
    published = flat_loss(TEMPLATE, MASKS[0], FORGET, MASKS[1], divergence, reference_compat=True)
    thinned = flat_loss(*arguments, divergence, reference_compat=True)
    assert abs(thinned - published) > 1e-3
    # By hand: one P for the batch, over all places: a sum over answer tokens divided by B T.
    e, f = (torch.exp(-nll)[mask].sum() / 6 for nll, mask in zip((TEMPLATE, FORGET), MASKS, strict=True))
    assert published.item() == pytest.approx((conjugate(divergence, f) - variational(divergence, e)).item(), rel=1e-12)


@pytest.mark.parametrize("divergence", ALL)
def test_finite_differences(divergence):
    template, forget = TEMPLATE.clone().requires_grad_(), FORGET.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e, f: flat_loss(e, MASKS[0], f, MASKS[1], divergence), (template, forget))
