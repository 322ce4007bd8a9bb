"""Losses on logits and activations: KL, UNDIAL, CE-U, PDU, RMU, and the generic targets of Who's Harry Potter."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.parts.objectives.distil import ce_u_tokens, undial_tokens
from forgetmi.parts.objectives.harry_potter import generic_labels, generic_logits
from forgetmi.parts.objectives.primal_dual import dual_step, flatness_tokens, lagrangian
from forgetmi.parts.objectives.rmu import activation_loss, control_vector
from tests.parts.streams import kl_loss


def drawn(*shape, seed=0, grad=False):
    found = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found.requires_grad_(grad)


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def test_kl_by_hand_and_nothing_else_than_answer_tokens_counts():
    # Two tokens of probability (1/4, 3/4) against the reference's (1/2, 1/2): ln 2 - (ln 3) / 2 + ... = ln(2 / sqrt 3).
    logits = torch.tensor([[[0.0, math.log(3)], [5.0, 1.0]], [[0.0, 0.0], [2.0, 8.0]]], dtype=torch.float64)
    reference, mask = torch.zeros(2, 2, 2, dtype=torch.float64), torch.tensor([[True, False], [True, False]])
    assert kl_loss(logits, reference, mask).item() == pytest.approx(math.log(2 / math.sqrt(3)) / 2)
    padded = [torch.cat([tensor, torch.full((2, 3, 2), 99.0)], dim=1) for tensor in (logits, reference)]
    more = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    assert torch.equal(kl_loss(*padded, more), kl_loss(logits, reference, mask))


def test_kl_and_undial_without_a_penalty_are_still_at_the_reference():
    logits, mask = drawn(2, 3, 7, grad=True), torch.ones(2, 3, dtype=torch.bool)
    kl = kl_loss(logits, logits.detach(), mask)
    assert abs(kl.item()) < 1e-12 and gradient(kl, logits).abs().max() < 1e-12
    labels = torch.tensor([[0, 6, 2], [3, 3, 1]])
    assert gradient(undial_tokens(logits, logits, labels, 0.0).sum(), logits).abs().max() < 1e-12


def test_undial_by_hand_and_its_gradient():
    # z_ref = 0: lowering token 0 by ln 2 gives q = (1/5, 2/5, 2/5); p is uniform: L = ln 3 and dL/dz = p - q.
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = undial_tokens(logits, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0]), math.log(2)).sum()
    assert loss.item() == pytest.approx(math.log(3))
    assert gradient(loss, logits)[0].tolist() == pytest.approx([1 / 3 - 1 / 5, 1 / 3 - 2 / 5, 1 / 3 - 2 / 5])


def test_undial_with_a_large_penalty_is_the_reference_without_the_token():
    logits, reference, labels = drawn(4, 6), drawn(4, 6, seed=1), torch.tensor([0, 5, 2, 2])
    without = reference.scatter(-1, labels[:, None], -torch.inf).softmax(dim=-1)
    expected = -(without * logits.log_softmax(dim=-1)).sum(dim=-1)
    assert torch.allclose(undial_tokens(logits, reference, labels, 1e6), expected, rtol=1e-12)


def test_ce_u_by_hand_and_its_gradient():
    # p = (1/2, 1/4, 1/4), y = 0: q = (0, 1/2, 1/2) and L = ln 4.
    logits = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log().requires_grad_()
    loss = ce_u_tokens(logits, torch.tensor([0])).sum()
    assert loss.item() == pytest.approx(math.log(4))
    assert gradient(loss, logits)[0].tolist() == pytest.approx([1 / 2, -1 / 4, -1 / 4])
    many, labels = drawn(5, 9, grad=True), torch.tensor([0, 8, 3, 3, 1])
    p = many.detach().softmax(dim=-1)
    true = p.gather(-1, labels[:, None])
    expected = (-p * true / (1 - true)).scatter(-1, labels[:, None], true)
    assert torch.allclose(gradient(ce_u_tokens(many, labels).sum(), many), expected, rtol=1e-10)


def test_ce_u_stops_where_the_token_is_gone_and_is_bounded_where_it_is_certain():
    gone = torch.tensor([[-40.0, 0.0, 0.0]], requires_grad=True)
    assert gradient(ce_u_tokens(gone, torch.tensor([0])).sum(), gone).abs().max() < 1e-12
    certain = torch.tensor([[90.0, 0.0, 0.0]], requires_grad=True)
    found = gradient(ce_u_tokens(certain, torch.tensor([0])).sum(), certain)
    assert torch.allclose(found, torch.tensor([[1.0, -0.5, -0.5]]), rtol=1e-6)


@pytest.mark.parametrize("loss", [lambda z, y: undial_tokens(z, z, y, 3.0), ce_u_tokens])
def test_places_without_a_label_are_finite_and_any_shape_will_do(loss):
    logits, labels = drawn(2, 3, 7), torch.tensor([[-100, 6, 2], [3, -100, -100]])
    rows = loss(logits, labels)
    assert rows.shape == (2, 3) and torch.isfinite(rows).all()
    there = labels >= 0
    assert torch.allclose(rows[there], loss(logits[there], labels[there]), rtol=1e-12)


@pytest.mark.parametrize("name", ["undial", "ce_u", "flatness", "kl"])
def test_half_precision_is_widened(name):
    logits, reference = drawn(3, 50).bfloat16(), drawn(3, 50, seed=1).bfloat16()
    labels, mask = torch.tensor([1, 2, 3]), torch.ones(1, 3, dtype=torch.bool)
    loss = {
        "undial": lambda z, r: undial_tokens(z, r, labels, 2.0),
        "ce_u": lambda z, r: ce_u_tokens(z, labels),
        "flatness": lambda z, r: flatness_tokens(z),
        "kl": lambda z, r: kl_loss(z[None], r[None], mask),
    }[name]
    found = loss(logits, reference)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), loss(logits.double(), reference.double()), rtol=1e-5)


def test_finite_differences():
    """Not CE-U: its target is the logits' own, held constant, so its gradient is of no function of them."""
    logits, reference = drawn(1, 2, 3, grad=True), drawn(1, 2, 3, seed=1)
    labels, mask = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda z: kl_loss(z, reference, mask), (logits,))
    assert torch.autograd.gradcheck(lambda z: undial_tokens(z, reference, labels, 3.0), (logits,))
    assert torch.autograd.gradcheck(flatness_tokens, (logits,))
    assert torch.autograd.gradcheck(lambda h: activation_loss(h, reference, mask), (logits,))


def test_flat_logits_have_no_margin():
    assert flatness_tokens(torch.full((2, 5), 3.25)).tolist() == [0.0, 0.0]
    assert flatness_tokens(torch.tensor([[4.0, 0.0, 2.0, 2.0]])).item() == 4.0  # (4 - 2)^2


def test_the_price_rises_while_the_constraint_is_broken_and_never_falls_below_zero():
    assert lagrangian(torch.tensor(2.0), torch.tensor(0.5), 10.0, 0.3).item() == pytest.approx(4.0)
    assert dual_step(10.0, 0.5, 0.3, 5.0) == pytest.approx(11.0)
    assert dual_step(10.0, 0.1, 0.3, 5.0) == pytest.approx(9.0)
    assert dual_step(0.5, 0.1, 0.3, 5.0) == 0.0


def test_rmu_by_hand():
    activations = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[0.0, 1.0], [7.0, 7.0], [5.0, 5.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # Distances to (1, 1), over D = 2: 1/2 and 13/2, and 1/2. Means of sequences 7/2 and 1/2; of both: 2.
    assert activation_loss(activations, torch.ones(2), mask).item() == 2.0
    target = activations.clone()
    target[0, 1, 0] += 2.0  # 4 / 2 / 2 tokens / 2 sequences
    assert activation_loss(activations, target, mask).item() == 0.5
    assert activation_loss(activations[:, :2], target[:, :2], mask[:, :2]).item() == 0.5


def test_the_control_vector_has_its_length_points_up_and_repeats():
    first = control_vector(64, 6.5, torch.Generator().manual_seed(3))
    assert first.norm().item() == pytest.approx(6.5, rel=1e-5) and (first >= 0).all()
    assert torch.equal(first, control_vector(64, 6.5, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, control_vector(64, 6.5, torch.Generator().manual_seed(4)))


def test_generic_targets():
    baseline, reinforced = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[5.0, 1.0, 1.5]])
    assert generic_logits(baseline, reinforced, 1.0).tolist() == [[1.0, 2.0, 0.5]]  # what rose is lowered
    assert torch.equal(generic_logits(baseline, reinforced, 0.0), baseline)
    assert torch.equal(generic_logits(baseline, baseline, 5.0), baseline)
    generic = generic_logits(baseline, reinforced, 1.0).expand(2, 3)
    assert generic_labels(generic, torch.tensor([0, -100])).tolist() == [1, -100]
