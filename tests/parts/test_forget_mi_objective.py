"""Forget-MI's losses against numbers worked by hand, finite differences and the published slips."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch.autograd import gradcheck

from forgetmi.errors import ConfigError, MethodError
from forgetmi.parts.objectives.forget_mi import (
    EPS,
    PRESETS,
    ForgetMIWeights,
    distance,
    forget_mi_loss,
    unimodal_distance,
)

EQUAL = PRESETS["equal"].weights


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_distance_of_a_3_4_5_triangle():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert distance(a, torch.zeros(2, 2)).item() == pytest.approx((5 + math.sqrt(EPS)) / 2, rel=1e-6)
    assert distance(a, torch.zeros(2, 2), reduction="none").tolist() == pytest.approx([5.0, math.sqrt(EPS)], rel=1e-6)
    assert distance(torch.tensor([[3.0]]), torch.tensor([[0.0]]), eps=16.0).item() == pytest.approx(5.0)


def test_unimodal_distance_is_one_root_over_the_concatenation():
    """3 in one modality and 4 in the other: 5, not 3 + 4."""
    student = {"u": torch.tensor([[3.0]]), "v": torch.tensor([[4.0, 0.0]])}
    teacher = {"v": torch.zeros(1, 2), "u": torch.zeros(1, 1)}
    assert unimodal_distance(student, teacher).item() == pytest.approx(5.0)
    many_s, many_t = (
        {n: draw(6, 3, seed=i) for i, n in enumerate("uvw")},
        {n: draw(6, 3, seed=9 + i) for i, n in enumerate("uvw")},
    )
    joined = distance(torch.cat(list(many_s.values()), 1), torch.cat(list(many_t.values()), 1))
    torch.testing.assert_close(unimodal_distance(many_s, many_t), joined)


def test_a_missing_modality_contributes_zero_and_nothing_depends_on_its_row():
    teacher = {"u": torch.zeros(2, 1), "v": torch.zeros(2, 1)}
    student = {"u": torch.tensor([[3.0], [3.0]]), "v": torch.tensor([[4.0], [math.nan]], requires_grad=True)}
    present = {"v": torch.tensor([True, False])}
    rows = unimodal_distance(student, teacher, present, reduction="none")
    assert rows.tolist() == pytest.approx([5.0, 3.0])
    rows.mean().backward()
    assert student["v"].grad.tolist() == [[pytest.approx(0.4)], [0.0]]  # (4/5)/2, and nothing
    assert distance(student["u"], teacher["u"], present=torch.tensor([False, False])).item() == pytest.approx(EPS**0.5)


def test_item_1_equal_embeddings_are_sqrt_eps_apart_with_a_finite_gradient():
    """Row 22: without eps inside the root the gradient at zero distance is NaN."""
    student = {"u": draw(4, 3).requires_grad_(), "v": draw(4, 5, seed=1).requires_grad_()}
    teacher = {name: z.detach().clone() for name, z in student.items()}
    d = unimodal_distance(student, teacher)
    assert d.item() == pytest.approx(math.sqrt(EPS))
    d.backward()
    assert all(torch.equal(z.grad, torch.zeros_like(z)) for z in student.values())


def test_item_2_without_noise_all_losses_vanish_at_the_start_and_gradients_are_finite():
    z = draw(4, 3).requires_grad_()
    d = distance(z, z.detach().clone())
    for direction in ("attract_noisy", "repel"):
        z.grad = None
        loss = forget_mi_loss(d, d, d, d, weights=EQUAL, direction=direction)
        loss.total.backward(retain_graph=True)
        assert abs(loss.total.item()) <= math.sqrt(EPS) and torch.isfinite(z.grad).all()


def test_finite_differences():
    a, b = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    present = torch.tensor([True, False, True])
    assert gradcheck(lambda x, y: distance(x, y), (a, b))
    assert gradcheck(lambda x, y: distance(x, y, 0.1, present), (a, b))

    def whole(x, y, direction, cap=None):
        d = distance(x, y, reduction="none")
        other = unimodal_distance({"u": x, "v": x[:, :2]}, {"u": y, "v": y[:, :2]})
        weights = ForgetMIWeights(uu=1, ur=2, mu=3, mr=4)
        return forget_mi_loss(other, d, d * 0.5, other, weights=weights, direction=direction, repel_cap=cap).total

    assert gradcheck(lambda x, y: whole(x, y, "attract_noisy"), (a, b))
    assert gradcheck(lambda x, y: whole(x, y, "repel", 2.5), (a, b))
    assert gradcheck(lambda x: distance(x, x.detach().clone(), 0.5), (a,))  # at equality, where the root is flat


def test_the_gradient_of_a_row_is_the_unit_vector_over_the_batch_size():
    a = torch.tensor([[3.0, 4.0], [0.0, 2.0]], requires_grad=True)
    distance(a, torch.zeros(2, 2)).backward()
    torch.testing.assert_close(a.grad, torch.tensor([[0.3, 0.4], [0.0, 0.5]]))


def test_item_3_one_step_lowers_the_distance_when_attracting_and_raises_it_when_repelling():
    teacher = draw(5, 4, seed=1)
    for direction, sign in (("attract_noisy", -1), ("repel", 1)):
        student = draw(5, 4).requires_grad_()
        before = distance(student, teacher)
        nothing = torch.zeros((), dtype=torch.float64)
        only_uu = ForgetMIWeights(uu=1, ur=0, mu=0, mr=0)
        forget_mi_loss(before, nothing, nothing, nothing, weights=only_uu, direction=direction).total.backward()
        after = distance(student.detach() - 0.1 * student.grad, teacher)
        assert (after - before).item() * sign > 1e-3


def test_the_total_and_its_parts_worked_by_hand():
    d_uu, d_mu, d_ur, d_mr = (torch.tensor(v) for v in (1.0, 2.0, 3.0, 4.0))
    weights = ForgetMIWeights(uu=0.1, ur=0.2, mu=0.3, mr=0.4)
    attract = forget_mi_loss(d_uu, d_mu, d_ur, d_mr, weights=weights, direction="attract_noisy")
    repel = forget_mi_loss(d_uu, d_mu, d_ur, d_mr, weights=weights, direction="repel")
    assert attract.total.item() == pytest.approx(0.1 + 0.6 + 0.6 + 1.6)
    assert repel.total.item() == pytest.approx(-0.1 - 0.6 + 0.6 + 1.6)
    assert {k: v.item() for k, v in repel.parts.items()} == {"uu": -1.0, "ur": 3.0, "mu": -2.0, "mr": 4.0}


def test_retention_is_pulled_back_in_both_directions():
    for direction in ("attract_noisy", "repel"):
        d = [torch.tensor(2.0, requires_grad=True) for _ in range(4)]
        forget_mi_loss(*d, weights=EQUAL, direction=direction).total.backward()
        assert [x.grad.item() for x in d[2:]] == [0.25, 0.25]


def test_row_15_the_cap_stops_the_push_only_beyond_itself():
    """The published hinge had zero gradient above the margin for *retention*: a lost record was never pulled back."""
    rows = torch.tensor([1.0, 3.0], requires_grad=True)
    retained = torch.tensor([1.0, 50.0], requires_grad=True)
    loss = forget_mi_loss(rows, rows, retained, retained, weights=EQUAL, direction="repel", repel_cap=2.0)
    loss.total.backward()
    assert rows.grad.tolist() == pytest.approx([-0.25, 0.0])  # two terms of weight 1/4, over two records
    assert retained.grad.tolist() == pytest.approx([0.25, 0.25])
    assert loss.parts["uu"].item() == pytest.approx(-1.5)


def test_repelling_without_a_cap_keeps_pushing():
    d = torch.tensor(1e6, requires_grad=True)
    forget_mi_loss(d, d, d.detach(), d.detach(), weights=EQUAL, direction="repel").total.backward()
    assert d.grad.item() == -0.5


@pytest.mark.parametrize("cap", [None, 2.0])
def test_item_7_the_mean_loss_does_not_change_with_the_batch_size(cap):
    """Row 14 too: averaged over records, not summed over batches."""
    a, b = draw(12, 4), draw(12, 4, seed=1)
    present = {"u": torch.arange(12) % 3 > 0}

    def loss(rows):
        uni = unimodal_distance({"u": a[rows]}, {"u": b[rows]}, {"u": present["u"][rows]}, reduction="none")
        joint = distance(a[rows], b[rows], reduction="none")
        return forget_mi_loss(uni, joint, uni, joint, weights=EQUAL, direction="repel", repel_cap=cap).total

    whole = loss(torch.arange(12))
    for size in (1, 3, 4, 6):
        parts = [loss(rows) for rows in torch.arange(12).split(size)]
        torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_item_4_presets_are_the_published_ones_and_sum_to_one_exactly():
    table = {
        "no_noise": (0.25, 0.25, 0.25, 0.25),
        "equal": (0.25, 0.25, 0.25, 0.25),
        "multimodal": (0.1, 0.1, 0.4, 0.4),
        "unimodal": (0.4, 0.4, 0.1, 0.1),
        "retention": (0.1, 0.4, 0.1, 0.4),
    }
    found = {name: (p.weights.uu, p.weights.ur, p.weights.mu, p.weights.mr) for name, p in PRESETS.items()}
    assert found == table
    assert all(math.fsum(weights) == 1.0 for weights in found.values())
    assert {name for name, p in PRESETS.items() if not p.noise} == {"no_noise"}


def test_item_4_weights_are_normalised_and_never_rounded():
    """The published code rounds to .17 and .33; in thirds that loses 2 %."""
    weights = ForgetMIWeights.from_published()
    assert weights == ForgetMIWeights(uu=1, ur=1, mu=2, mr=2)
    for value, exact in zip((weights.uu, weights.ur, weights.mu, weights.mr), (1, 1, 2, 2), strict=True):
        assert value == float(Fraction(exact, 6))
    assert math.fsum((weights.uu, weights.ur, weights.mu, weights.mr)) == pytest.approx(1.0, abs=2**-52)


def test_the_published_greek_letters_are_in_the_order_of_the_configuration():
    """Row 25: the published README has another order. alpha UR, beta UU, theta MU, gamma MR."""
    weights = ForgetMIWeights.from_published(alpha=1, beta=2, theta=3, gamma=4)
    assert (weights.ur, weights.uu, weights.mu, weights.mr) == (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize("bad", [{"uu": -1}, {"uu": math.nan, "ur": math.inf}, {"uu": 0, "ur": 0, "mu": 0, "mr": 0}])
def test_wrong_weights_are_refused(bad):
    with pytest.raises(ConfigError) as caught:
        ForgetMIWeights(**{"uu": 1, "ur": 1, "mu": 1, "mr": 1, **bad})
    assert len(caught.value.problems) == (2 if bad.get("ur") else 1)


def test_wrong_arguments_are_refused():
    z = torch.zeros(2, 3)
    with pytest.raises(MethodError, match="shapes"):
        distance(z, torch.zeros(1, 3))  # would broadcast
    with pytest.raises(MethodError, match="eps"):
        distance(z, z, eps=0.0)
    with pytest.raises(MethodError, match="same modalities"):
        unimodal_distance({"u": z}, {"v": z})
    with pytest.raises(MethodError, match="same modalities"):
        unimodal_distance({}, {})
    d = torch.tensor(1.0)
    with pytest.raises(ConfigError, match="Did you mean 'repel'"):
        forget_mi_loss(d, d, d, d, weights=EQUAL, direction="repell")
    with pytest.raises(ConfigError) as caught:
        forget_mi_loss(d, d, d, d, weights=EQUAL, direction="attract_noisy", repel_cap=-1.0)
    assert len(caught.value.problems) == 2


def test_half_precision_does_not_overflow():
    a = torch.full((2, 4), 300.0, dtype=torch.float16)
    assert distance(a, -a).item() == pytest.approx(1200.0)  # squares of 600 exceed float16
    assert distance(a.double(), -a.double()).dtype == torch.float64
