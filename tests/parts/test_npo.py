"""NPO: its value, its gradient and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.parts.objectives.npo import npo_loss


def values(*numbers, grad=False):
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 5.0])
def test_at_the_start_it_is_two_over_beta_ln_two_with_the_gradient_of_ascent(beta):
    nll = values(0.3, 2.0, 7.0, 40.0, grad=True)
    loss = npo_loss(nll, nll.detach(), beta)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    assert nll.grad.tolist() == pytest.approx([-1 / 4] * 4, rel=1e-12)


def test_worked_by_hand():
    # pi_theta / pi_ref = exp(nll_ref - nll) = 1/4; with beta = 1: -log sigmoid(log 4) = log(1 + 1/4).
    assert float(npo_loss(values(math.log(8)), values(math.log(2)), 1.0)) == pytest.approx(2 * math.log(1.25))


def test_as_beta_vanishes_the_gradient_is_that_of_ascent_everywhere():
    reference = values(1.0, 5.0)
    for nll_value in ((1.0, 5.0), (4.0, 0.5), (10.0, 20.0)):
        nll = values(*nll_value, grad=True)
        npo_loss(nll, reference, 1e-7).backward()
        assert nll.grad.tolist() == pytest.approx([-0.5, -0.5], rel=1e-5)


def test_the_gradient_fades_as_a_record_is_forgotten_and_never_changes_sign():
    nll = values(0.0, 1.0, 10.0, 100.0, 1e4, grad=True)
    npo_loss(nll, values(1.0, 1.0, 1.0, 1.0, 1.0), 0.5).backward()
    pull = -5 * nll.grad
    expected = [2 * torch.sigmoid(torch.tensor(0.5 * (1 - v), dtype=torch.float64)).item() for v in nll.tolist()]
    assert pull.tolist() == pytest.approx(expected, rel=1e-9)
    assert (pull >= 0).all() and (pull[1:] < pull[:-1]).all()


def test_extreme_values_are_finite():
    for nll, reference in ((1e6, 0.0), (0.0, 1e6)):
        x = values(nll, grad=True)
        loss = npo_loss(x, values(reference), 1.0)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_finite_differences():
    nll, reference = values(0.2, 3.0, 8.0, grad=True), values(1.0, 1.0, 9.0)
    assert torch.autograd.gradcheck(lambda x: npo_loss(x, reference, 0.3), (nll,))
