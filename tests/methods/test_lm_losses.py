"""Each method's objective against its equation, written again from raw logits, one record at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid

from forgetmi.methods import build_method
from tests.methods.lm import Answers, captured, with_other_reference
from tests.tiny import language_case, same_state, state_of


def detached(tensors):
    return [tensor.detach() for tensor in tensors]


def weighted(forget, weight, *nlls):
    """-(1/N) sum_t w_t nll_t, with constant weights from p (and p_0)."""
    probabilities = [[torch.exp(-nll).detach() for nll in found] for found in nlls]
    weights = [weight(*p) for p in zip(*probabilities, strict=True)]
    return -forget.token_mean([w * nll for w, nll in zip(weights, nlls[0], strict=True)])


def undial(forget, beta):
    losses = []
    for log_p, z_0, hot in zip(forget.log_p, forget.z_0, forget.one_hot(), strict=True):
        losses.append(-((z_0 - beta * hot).softmax(-1) * log_p).sum(-1))
    return forget.token_mean(losses)


def ce_u(forget, skip):
    losses = []
    for log_p, z, hot in zip(forget.log_p, forget.z, forget.one_hot(), strict=True):
        target = z.detach().masked_fill(hot.bool(), -torch.inf).softmax(-1)
        rows = -(target * log_p).sum(-1)
        losses.append(rows[skip:] if len(rows) > skip else rows)
    return forget.token_mean(losses)


# name, options -> gamma * forget + alpha * retain, of Answers to the streams
EQUATIONS = {
    "grad_diff": ({"gamma": 0.7, "alpha": 2.0}, lambda f, r, a: -0.7 * f.token_mean() + 2.0 * r.token_mean()),
    "kl_min": ({}, lambda f, r, a: -f.token_mean() + r.kl()),
    "npo": (
        {"beta": 0.4, "retain": "none"},
        lambda f, r, a: (-2 / 0.4 * logsigmoid(0.4 * (f.sums() - f.sums("log_q")))).mean(),
    ),
    "npo nll": (
        {"beta": 0.4, "alpha": 3.0},
        lambda f, r, a: (-5.0 * logsigmoid(0.4 * (f.sums() - f.sums("log_q")))).mean() + 3.0 * r.token_mean(),
    ),
    "npo kl": (
        {"beta": 0.4, "gamma": 0.5, "retain": "kl"},
        lambda f, r, a: 0.5 * (-5.0 * logsigmoid(0.4 * (f.sums() - f.sums("log_q")))).mean() + r.kl(),
    ),
    "simnpo": (
        {"beta": 2.5, "margin": 0.5},
        lambda f, r, a: 0.125 * (-0.8 * logsigmoid(2.5 * f.means() - 0.5)).mean() + r.token_mean(),
    ),
    "dpo": (
        {"beta": 0.3, "retain": "none", "scale": "dpo"},
        lambda f, r, a: (
            -logsigmoid(0.3 * (f.sums() - f.sums("log_q")) - 0.3 * (a.sums() - a.sums("log_q")))
        ).mean(),
    ),
    "dpo npo": (
        {"beta": 0.3, "answers": "clinical"},
        lambda f, r, a: (
            (-2 / 0.3 * logsigmoid(0.3 * (f.sums() - f.sums("log_q") - a.sums() + a.sums("log_q")))).mean()
            + r.token_mean()
        ),
    ),
    "po": ({}, lambda f, r, a: a.token_mean() + r.token_mean()),
    "wga": ({"beta": 2.0}, lambda f, r, a: weighted(f, lambda p: p**2, f.nll()) + r.token_mean()),
    "tnpo": (
        {"beta": 4.0, "power": 1.5, "retain": "none"},
        lambda f, r, a: weighted(f, lambda p, q: 2 * p**5.5 / (p**4 + q**4), f.nll(), f.nll("log_q")),
    ),
    "satimp": (
        {"beta1": 3.0, "beta2": 0.5},
        lambda f, r, a: 0.1 * weighted(f, lambda p: p**3 * (1 - p) ** 0.5, f.nll()) + r.token_mean(),
    ),
    "undial": ({"beta": 3.0}, lambda f, r, a: undial(f, 3.0)),
    "ce_u": ({}, lambda f, r, a: ce_u(f, 1)),
    "ce_u 0": ({"skip": 0, "retain": "nll"}, lambda f, r, a: ce_u(f, 0) + r.token_mean()),
    "pdu": (
        {"price": 7.0, "epsilon": 0.2},
        lambda f, r, a: (
            f.token_mean([(z.amax(-1) - z.mean(-1)) ** 2 for z in f.z]) + 7.0 * (r.token_mean() - 0.2)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS)
def test_the_loss_and_its_gradient_are_those_of_the_equation(case):
    """Records of several lengths, and a reference that is not the model."""
    options, equation = EQUATIONS[case]
    lm = language_case()
    job = with_other_reference(lm.job())
    found = captured(case.split()[0], job, **options)
    model, reference = lm.model, job.reference.model
    streams = [
        Answers(found.batches[stream], model, reference) if stream in found.batches else None
        for stream in ("forget", "retain", "alternate")
    ]
    expected = equation(*streams)
    assert found.loss.total.item() == pytest.approx(expected.item(), rel=2e-5)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    scale = max(float(g.abs().max()) for g in gradients)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert torch.allclose(found.gradients[name], gradient, atol=3e-5 * scale), name
    assert scale > 1e-4


SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "lr": 0.05}


@pytest.mark.parametrize("name", ["npo", "dpo", "pdu"])
def test_one_step_goes_down_that_gradient(name):
    lm = language_case()
    fit = {**SGD, "batch_size": 1000, "epochs": 1, "mode": "eval"}
    moved = dict(build_method(name, {"fit": fit}).unlearn(lm.job(seed=2)).named_parameters())
    found = captured(name, lm.job(seed=2))
    for key, start in lm.model.named_parameters():
        assert torch.allclose(moved[key], start - 0.05 * found.gradients[key], atol=1e-6), key
    assert any(not torch.equal(moved[key], start) for key, start in lm.model.named_parameters())


# Limits: what a method becomes when one of its options has an extreme value.


@pytest.mark.parametrize("options", [{"retain": "none"}, {"alpha": 0.0}, {"retain": "kl", "alpha": 0.0}])
def test_without_a_retain_term_grad_diff_is_gradient_ascent_exactly(options):
    fit = {"epochs": 2, "batch_size": 4, "lr": 1e-2}
    lm = language_case()
    ascent = build_method("gradient_ascent", {"fit": fit}).unlearn(lm.job(seed=4))
    job = lm.job(seed=4)
    real, seen = job.loader.batch, set()
    job.loader.batch = lambda indices: (seen.update(indices), real(indices))[1]
    plain = build_method("grad_diff", {**options, "fit": fit}).unlearn(job)
    assert same_state(state_of(plain), state_of(ascent))
    assert seen == set(lm.partition.forget), "retain records were loaded for a term that weighs nothing"


def test_kl_min_starts_as_gradient_ascent():
    """KL and its gradient are 0 at theta_0; with the whole of D_r it stays a pull of second order."""
    lm = language_case()
    found, ascent = captured("kl_min", lm.job(), alpha=50.0), captured("gradient_ascent", lm.job())
    assert found.loss.parts["retain"].item() == pytest.approx(0.0, abs=1e-6)
    assert all(torch.allclose(found.gradients[k], ascent.gradients[k], atol=1e-5) for k in ascent.gradients)


@pytest.mark.parametrize("beta", [1e-3, 1e-4])
def test_npo_with_a_small_beta_is_ascent_on_sums(beta):
    """W = 2 p^b / (p^b + p_0^b) -> 1, here with a reference far away: the error falls with beta."""
    lm = language_case()
    job = with_other_reference(lm.job())
    found = captured("npo", job, beta=beta, retain="none")
    ascent = -Answers(found.batches["forget"], lm.model).sums().mean()
    gradients = torch.autograd.grad(ascent, list(lm.model.parameters()))
    scale = max(float(g.abs().max()) for g in gradients)
    for expected, got in zip(gradients, found.gradients.values(), strict=True):
        assert torch.allclose(got, expected, atol=5 * beta * scale + 1e-5)


@pytest.mark.parametrize(
    ("name", "options", "limit", "of_limit"),
    [
        ("wga", {"beta": 0.0}, "grad_diff", {}),
        ("satimp", {"beta2": 0.0, "beta1": 2.0, "gamma": 1.0}, "wga", {"beta": 2.0}),
        ("satimp", {"beta1": 0.0, "beta2": 0.0, "gamma": 1.0}, "grad_diff", {}),
        ("tnpo", {"beta": 1e-6, "power": 2.0}, "wga", {"beta": 2.0}),
        ("grad_diff", {"retain": "kl"}, "kl_min", {}),
        ("npo", {"gamma": 0.0}, "grad_diff", {"gamma": 0.0}),
    ],
)
def test_limits(name, options, limit, of_limit):
    lm = language_case()
    found = captured(name, with_other_reference(lm.job()), **options)
    other = captured(limit, with_other_reference(lm.job()), **of_limit)
    assert found.loss.total.item() == pytest.approx(other.loss.total.item(), rel=1e-5)
    assert all(torch.allclose(found.gradients[k], other.gradients[k], atol=1e-6) for k in other.gradients)


def test_undial_between_self_distillation_and_delete():
    """beta = 0 has no gradient at theta_0. A large one excludes the true token, as DELETE does: their losses differ by
    a constant, one record at a time."""
    lm = language_case()
    still = captured("undial", lm.job(), beta=0.0)
    assert max(float(g.abs().max()) for g in still.gradients.values()) < 1e-6
    fit = {"fit": {"batch_size": 1}}
    undial, delete = captured("undial", lm.job(), beta=1e3, **fit), captured("delete", lm.job(), **fit)
    assert all(torch.allclose(undial.gradients[k], delete.gradients[k], atol=1e-6) for k in delete.gradients)
