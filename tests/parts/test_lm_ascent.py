"""Sums and means over answer tokens, gradient ascent, and its weighted forms."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.parts.objectives.ascent import ascent_loss, forget_retain_loss
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.objectives.reweighted import satimp_weights, tnpo_weights, wga_weights
from forgetmi.parts.objectives.sequence import after_first, sequence_means, sequence_sums, token_mean

NLL = torch.tensor([[9.0, 1.0, 2.0, 6.0], [7.0, 4.0, 7.0, 7.0]], dtype=torch.float64)
MASK = torch.tensor([[False, True, True, True], [False, True, False, False]])


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5


def test_by_hand():
    assert sequence_sums(NLL, MASK).tolist() == [9.0, 4.0]
    assert sequence_means(NLL, MASK).tolist() == [3.0, 4.0]
    assert token_mean(NLL, MASK).item() == 13 / 4  # not (3 + 4) / 2
    assert ascent_loss(NLL, MASK).item() == -13 / 4
    assert after_first(MASK, 1).tolist() == [[False, False, True, True], [False] * 4]
    assert torch.equal(after_first(MASK, 0), MASK)
    assert forget_retain_loss(torch.tensor(2.0), torch.tensor(3.0), gamma=0.5, alpha=4.0).item() == 13.0


@pytest.mark.parametrize("odd", [torch.inf, torch.nan, 1e30])
def test_what_the_mask_leaves_out_changes_neither_values_nor_gradients(odd):
    def results(nll, mask):
        nll = nll.clone().requires_grad_()
        found = [sequence_sums(nll, mask).sum(), sequence_means(nll, mask).sum(), token_mean(nll, mask)]
        found.append(ascent_loss(nll, mask, satimp_weights(nll, 2.0, 1.0)))
        torch.stack(found).sum().backward()
        return torch.stack(found).tolist(), nll.grad

    values, gradient = results(NLL, MASK)
    padded = torch.cat([NLL.masked_fill(~MASK, odd), torch.full((2, 3), odd, dtype=torch.float64)], dim=1)
    more = torch.cat([MASK, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    again, wider = results(padded, more)
    assert again == values
    assert torch.equal(wider[:, :4], gradient) and not wider[:, 4:].any() and not gradient[~MASK].any()


def test_sequences_without_a_token_count_nothing():
    none = torch.zeros_like(MASK)
    assert sequence_means(NLL, none).tolist() == [0.0, 0.0] and token_mean(NLL, none).item() == 0.0


def test_weighted_by_hand():
    # p = 1/2, 1/4, 1/8 as -log p; W = p (1 - p) = 1/4, 3/16, 7/64.
    nll = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) * math.log(2)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert wga_weights(nll, 2.0).tolist()[0] == pytest.approx([1 / 4, 1 / 16, 1 / 64])
    assert satimp_weights(nll, 1.0, 1.0).tolist()[0] == pytest.approx([1 / 4, 3 / 16, 7 / 64])
    loss = ascent_loss(nll, mask, satimp_weights(nll, 1.0, 1.0))
    assert loss.item() == pytest.approx(-(1 / 4 + 2 * 3 / 16 + 3 * 7 / 64) / 3 * math.log(2))
    # p0 = 1/2 each, beta = 1: 2 p / (p + 1/2) = 1, 2/3, 2/5; with alpha = 1 times p.
    reference = torch.full_like(nll, math.log(2))
    assert tnpo_weights(nll, reference, 1.0).tolist()[0] == pytest.approx([1, 2 / 3, 2 / 5])
    assert tnpo_weights(nll, reference, 1.0, 1.0).tolist()[0] == pytest.approx([1 / 2, 1 / 6, 1 / 20])


@pytest.mark.parametrize(
    "weights", [lambda nll: wga_weights(nll, 1.5), lambda nll: satimp_weights(nll, 5.0, 1.0), torch.exp]
)
def test_weights_are_constants(weights):
    """dL/dnll = -w / N: the derivative of w must not come in."""
    nll = drawn(3, 5).requires_grad_()
    mask = drawn(3, 5, seed=1) > 2
    ascent_loss(nll, mask, weights(nll)).backward()
    assert torch.allclose(nll.grad, -(weights(nll.detach()) * mask) / mask.sum(), rtol=1e-12)


def test_limits_are_gradient_ascent_and_one_another():
    nll, reference = drawn(3, 5), drawn(3, 5, seed=1)
    ones = torch.ones_like(nll)
    assert torch.equal(wga_weights(nll, 0.0), ones) and torch.equal(satimp_weights(nll, 0.0, 0.0), ones)
    assert torch.equal(satimp_weights(nll, 3.0, 0.0), wga_weights(nll, 3.0))
    assert torch.allclose(tnpo_weights(nll, reference, 1e-12, 2.0), wga_weights(nll, 2.0), rtol=1e-9)
    assert torch.equal(tnpo_weights(nll, nll, 3.0), ones)  # at theta_0


def test_tnpo_has_the_gradient_of_npo_over_tokens():
    nll, reference, mask = drawn(3, 5).requires_grad_(), drawn(3, 5, seed=1), drawn(3, 5, seed=2) > 2
    (ascent,) = torch.autograd.grad(ascent_loss(nll, mask, tnpo_weights(nll, reference, 4.0)), nll)
    (npo,) = torch.autograd.grad(npo_loss(nll[mask], reference[mask], 4.0), nll)
    assert torch.allclose(ascent, npo, rtol=1e-10)


def test_certain_and_impossible_tokens_keep_their_digits():
    """1 - p of a token that the model knows by heart rounds to 0 in float32, its weight does not."""
    nll = torch.tensor([[1e-9, 200.0, 0.0]])
    found = satimp_weights(nll, 1.0, 1.0)[0].tolist()
    assert found[0] == pytest.approx(1e-9, rel=1e-5) and found[1:] == [0.0, 0.0]
    assert torch.isfinite(tnpo_weights(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]), 4.0, 1.5)).all()
