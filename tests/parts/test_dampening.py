"""Dampening: by hand, and what it may never do."""

from __future__ import annotations

import torch

from forgetmi.parts.edits.dampening import dampened


def one(theta, forget, everything, **options):
    as_tensors = [{"w": torch.tensor(values)} for values in (theta, forget, everything)]
    return dampened(*as_tensors, **{"alpha": 1.0, "lam": 1.0, **options})["w"].tolist()


def test_by_hand():
    # Ratios I_f / I_D: 4, 1 (not above alpha), 0.5, 2.
    theta, i_f, i_d = [8.0, 8.0, 8.0, -8.0], [4.0, 1.0, 0.5, 2.0], [1.0, 1.0, 1.0, 1.0]
    assert one(theta, i_f, i_d) == [2.0, 8.0, 8.0, -4.0]
    assert one(theta, i_f, i_d, exponent=2.0) == [0.5, 8.0, 8.0, -2.0]
    assert one(theta, i_f, i_d, lam=3.0) == [6.0, 8.0, 8.0, -8.0]  # min(3/4, 1), min(3/2, 1)
    assert one(theta, i_f, i_d, bound=0.25, lam=3.0) == [2.0, 8.0, 8.0, -2.0]
    assert one(theta, i_f, i_d, alpha=3.0) == [2.0, 8.0, 8.0, -8.0]


def test_limits():
    draw = torch.Generator().manual_seed(0)
    theta, i_f, i_d = (torch.rand(1000, generator=draw) + k for k in (-0.5, 0.0, 0.0))
    i_f[::7] = 0.0
    weights = ({"w": theta}, {"w": i_f}, {"w": i_d})
    assert torch.equal(dampened(*weights, alpha=1e30, lam=1.0)["w"], theta)
    same = ({"w": theta}, {"w": i_f}, {"w": i_f})
    assert torch.equal(dampened(*same, alpha=1.0, lam=1.0)["w"], theta)
    zero = dampened(*weights, alpha=1.0, lam=0.0)["w"]
    assert (zero[i_f > i_d] == 0).all() and torch.equal(zero[i_f <= i_d], theta[i_f <= i_d])
    for lam, exponent in ((1.0, 1.0), (50.0, 2.0), (0.1, 0.5)):
        changed = dampened(*weights, alpha=0.5, lam=lam, exponent=exponent)["w"]
        assert (changed.abs() <= theta.abs()).all() and (changed * theta >= 0).all()
        assert torch.isfinite(changed).all()
