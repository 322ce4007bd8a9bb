"""SimNPO and DPO: by hand, in closed form, and as limits of NPO."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.objectives.preference import dpo_loss, simnpo_loss


def values(*numbers, grad=False):
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=grad)


def test_simnpo_by_hand():
    # p = exp(-nll / |y|) = 1/3; beta = 1: -log sigmoid(log 3) = log(1 + 1/3). The margin is outside of beta.
    assert simnpo_loss(values(math.log(3)), 1.0).item() == pytest.approx(2 * math.log(4 / 3))
    assert simnpo_loss(values(math.log(3)), 2.0).item() == pytest.approx(math.log(1 + 1 / 9))
    assert simnpo_loss(values(math.log(3)), 2.0, math.log(9)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("beta", "gamma"), [(2.5, 0.0), (4.5, 1.25), (0.1, -0.5)])
def test_simnpo_has_its_closed_gradient(beta, gamma):
    mean_nll = values(0.1, 1.0, 3.0, grad=True)
    simnpo_loss(mean_nll, beta, gamma).backward()
    power = torch.exp(-beta * mean_nll.detach())
    assert torch.allclose(mean_nll.grad, -2 * power / (power + math.exp(-gamma)) / 3, rtol=1e-12)


def test_dpo_by_hand():
    # The chosen answer is twice as likely as under the reference, the rejected one half as likely: margin log 4.
    terms = (values(0.0), values(math.log(2)), values(math.log(2)), values(0.0))
    assert dpo_loss(*terms, 1.0).item() == pytest.approx(math.log(1.25))
    assert dpo_loss(*terms, 0.5).item() == pytest.approx(math.log(1.5))
    assert dpo_loss(*terms, 0.5, "npo").item() == pytest.approx(4 * math.log(1.5))


@pytest.mark.parametrize(("scale", "factor"), [("dpo", 1.0), ("npo", 20.0)])
def test_dpo_at_the_reference_is_ln_two_and_pulls_both_answers_alike(scale, factor):
    chosen, rejected = values(3.0, 40.0, grad=True), values(7.0, 1.0, grad=True)
    loss = dpo_loss(chosen, chosen.detach(), rejected, rejected.detach(), 0.1, scale)
    loss.backward()
    assert loss.item() == pytest.approx(factor * math.log(2))
    assert chosen.grad.tolist() == pytest.approx([factor * 0.1 / 4] * 2)
    assert rejected.grad.tolist() == pytest.approx([-factor * 0.1 / 4] * 2)


def test_without_a_chosen_answer_dpo_is_npo():
    nll, reference, same = values(1.0, 5.0), values(2.0, 2.0), values(3.0, 9.0)
    assert torch.equal(dpo_loss(same, same, nll, reference, 0.3, "npo"), npo_loss(nll, reference, 0.3))


def test_finite_differences():
    chosen, rejected = values(0.5, 2.0, grad=True), values(4.0, 1.0, grad=True)
    reference = values(1.0, 1.5), values(3.0, 2.0)
    loss = lambda w, l: dpo_loss(w, reference[0], l, reference[1], 0.7)  # noqa: E731, E741
    assert torch.autograd.gradcheck(loss, (chosen, rejected))
    assert torch.autograd.gradcheck(lambda x: simnpo_loss(x, 2.5, 0.4), (chosen,))


def test_extreme_values_are_finite():
    far, near = values(1e6, grad=True), values(0.0)
    for loss in (dpo_loss(far, near, near, near, 1.0), dpo_loss(near, near, far, near, 1.0), simnpo_loss(far, 4.5)):
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, far)[0]).all()
