"""Projections of gradients: by hand, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgetmi.parts.updates.projected import noise, on_flat, orthonormal, outside, without


def test_without_by_hand():
    g, r = torch.tensor([1.0, -3.0]), torch.tensor([0.0, 2.0])
    assert without(g, r, "conflict").tolist() == [1.0, 0.0]  # <g, r> = -6
    assert without(-g, r, "conflict").tolist() == [-1.0, 3.0]  # no conflict
    assert without(-g, r, "always").tolist() == [-1.0, 0.0]
    assert without(g, torch.zeros(2), "always").tolist() == g.tolist()


def test_a_space_is_left_out_and_what_stands_outside_stays():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 20, generator=draw)
    basis = orthonormal(torch.cat([rows, rows[:2] + rows[2:]]))
    assert basis.shape == (4, 20)  # two of the six rows are sums of others
    assert torch.allclose(basis @ basis.T, torch.eye(4), atol=1e-5)
    g = torch.randn(20, generator=draw)
    left = outside(g, basis)
    assert (rows @ left).abs().max() < 1e-4 and torch.allclose(outside(left, basis), left, atol=1e-5)
    assert float(outside(3 * rows[0] - rows[2], basis).norm()) < 1e-4
    assert orthonormal(torch.zeros(3, 5)).shape == (0, 5)


def test_hooks_write_gradients_back_and_leave_parameters_without_one_alone():
    model = nn.Linear(2, 2)
    model.weight.grad = torch.ones(2, 2)
    on_flat(lambda flat, named: flat * torch.arange(6.0))(list(model.named_parameters()))
    assert model.weight.grad.tolist() == [[0.0, 1.0], [2.0, 3.0]] and model.bias.grad is None


def test_noise_has_its_deviation():
    model = nn.Linear(200, 200, bias=False)
    model.weight.grad = torch.ones(200, 200)
    state = torch.get_rng_state()
    noise(0.3)(list(model.named_parameters()))
    torch.set_rng_state(state)
    change = model.weight.grad - 1
    assert float(change.std()) == pytest.approx(0.3, rel=0.03) and abs(float(change.mean())) < 0.01
