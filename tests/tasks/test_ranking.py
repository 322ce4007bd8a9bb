"""The ranking loss of the published recipe."""

from __future__ import annotations

import pytest
import torch

from forgetmi.tasks.ranking import ranking_loss

EYE = torch.eye(3)


def groups(*numbers):
    return torch.tensor(numbers)


def test_the_margin_grows_with_the_distance_of_the_labels_and_is_at_least_one_half():
    """Orthogonal embeddings: every wrong pair has similarity 0, every true one 1, so hinge = max(0, margin - 1)."""
    labels = torch.tensor([0, 3, 1])  # margins |0-3| = 3, |3-1| = 2, |1-0| = 1
    assert float(ranking_loss(EYE, EYE, labels, groups(0, 1, 2))) == pytest.approx((2 * 2 + 2 * 1 + 0) / 3)
    zero = torch.zeros(3, 3)  # all similarities 0: the loss is twice the mean margin
    assert float(ranking_loss(zero, zero, labels, groups(0, 1, 2))) == pytest.approx(2 * (3 + 2 + 1) / 3)
    assert float(ranking_loss(zero, zero, torch.tensor([2, 2, 2]), groups(0, 1, 2))) == pytest.approx(1.0)


def test_records_of_one_report_have_margin_zero():
    zero = torch.zeros(2, 3)
    labels = torch.tensor([0, 3])
    assert float(ranking_loss(zero, zero, labels, groups(5, 5))) == 0.0
    assert float(ranking_loss(zero, zero, labels, groups(5, 6))) == 6.0
    # The hinge itself stays: an impostor that is more similar than the truth costs the difference.
    x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # i=0: s(0,0)=0, wrong words s(0,1)=1, wrong picture s(1,0)=0 -> 1 + 0; i=1: s(1,1)=1, 0 and 1 -> 0 + 0.
    assert float(ranking_loss(x, y, labels, groups(5, 5))) == pytest.approx(0.5)


def test_the_impostor_is_the_next_record_and_the_last_ones_is_the_first():
    labels = torch.tensor([0, 0, 0])
    x, y = EYE.clone(), EYE.clone()
    y[2, 1] = 4.0  # record 1's picture resembles record 2's words: only pair (1, 2) is concerned
    # pair (1,2): wrong words s(1,2) = 4 -> 0.5 + 4 - 1 = 3.5; wrong picture s(2,1) = 0 -> 0. Others: 0.5 - 1 < 0.
    assert float(ranking_loss(x, y, labels, groups(0, 1, 2))) == pytest.approx(3.5 / 3)
    y = EYE.clone()
    y[0, 2] = 4.0  # record 2's picture resembles record 0's words: pair (2, 0)
    assert float(ranking_loss(EYE, y, labels, groups(0, 1, 2))) == pytest.approx(3.5 / 3)


def test_one_record_costs_nothing_and_has_a_gradient():
    x, y = torch.randn(1, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)
    loss = ranking_loss(x, y, torch.tensor([2]), groups(0))
    loss.backward()
    assert float(loss.detach()) == 0.0 and not x.grad.any()


def test_pairs_with_a_missing_side_are_left_out_of_sum_and_count():
    zero = torch.zeros(3, 3)
    labels = torch.tensor([0, 3, 1])
    usable = torch.tensor([True, True, False])  # of the pairs (0,1), (1,2), (2,0) only the first is whole
    assert float(ranking_loss(zero, zero, labels, groups(0, 1, 2), usable)) == pytest.approx(6.0)
    assert float(ranking_loss(zero, zero, labels, groups(0, 1, 2), torch.zeros(3, dtype=torch.bool))) == 0.0


def test_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels, reports = torch.tensor([0, 2, 2, 3]), groups(0, 1, 1, 2)
    assert torch.autograd.gradcheck(lambda a, b: ranking_loss(a, b, labels, reports), (x, y))
