"""Guarded methods: nothing on is the method; each part does what it says to every step."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from tests.tiny import classifier_case, killed_after, language_case, same_state, state_of

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "mode": "eval", "batch_size": 100}
FIT = {"epochs": 2, "batch_size": 4, "lr": 1e-3}
CASES = [classifier_case, language_case]


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("method", ["gradient_ascent", "scrub"])
def test_with_everything_off_it_is_the_method(make, method):
    options = {"fit": FIT}
    alone = build_method(method, options).unlearn(make().job(seed=2))
    guarded = build_method("guarded", {"inner": method, "options": options}).unlearn(make().job(seed=2))
    assert same_state(state_of(alone), state_of(guarded))


def steps(case, **options):
    """The change of all weights by one step of ascent, and the gradients of the retain records."""
    fit = {**SGD, "epochs": 1, "lr": 1e-3}
    model = build_method("guarded", {"options": {"fit": fit}, **options}).unlearn(case.job())
    before = dict(case.model.named_parameters())
    return torch.cat([(p - before[n]).detach().flatten() for n, p in model.named_parameters()])


def gradient(case, indices):
    loss = case.task.loss(case.model.eval(), case.loader.batch(indices))
    found = torch.autograd.grad(loss, list(case.model.parameters()), materialize_grads=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("make", CASES)
def test_a_rectified_step_does_not_raise_the_loss_of_the_records_that_it_looked_at(make):
    """One retain record, so that it is known which one is drawn."""
    case = make()
    one = case.partition.retain[:1]
    object.__setattr__(case.partition, "retain", one)
    r = gradient(case, one)
    free = steps(case)
    orthogonal = steps(case, rectify="always")
    scale = float(r.norm() * free.norm())
    assert abs(float(torch.dot(r, free))) > 1e-3 * scale
    assert abs(float(torch.dot(r, orthogonal))) < 1e-4 * scale
    rectified = steps(case, rectify="conflict")
    raises = float(torch.dot(r, free)) > 0
    assert torch.allclose(rectified, orthogonal if raises else free, atol=1e-7)


@pytest.mark.parametrize("make", CASES)
def test_a_projected_step_leaves_the_protected_records_losses_alone(make):
    case = make()
    free, kept = steps(case), steps(case, protect=100)
    rows = torch.stack([gradient(case, [i]) for i in case.partition.retain])
    share = (rows @ kept).norm() / (rows @ free).norm()
    assert float(share) < 1e-2 and float(kept.norm()) > 0


def test_noise_moves_what_would_stand_still_and_depends_on_the_seed():
    case = classifier_case()
    still = {"options": {"fit": {**SGD, "epochs": 1, "lr": 1.0, "batch_size": 6}}, "inner": "delete"}
    free = build_method("guarded", still).unlearn(case.job(seed=1))
    noisy = build_method("guarded", {**still, "noise": 0.1}).unlearn(case.job(seed=1))
    name = "head.weight"
    change = (noisy.get_parameter(name) - free.get_parameter(name)).detach()
    assert float(change.std()) == pytest.approx(0.1, rel=0.4)
    other = build_method("guarded", {**still, "noise": 0.1}).unlearn(case.job(seed=2))
    assert not same_state(state_of(noisy), state_of(other))


def test_chunks_are_unlearned_one_after_another():
    case = classifier_case()
    job = case.job()
    build_method("guarded", {"options": {"fit": {**FIT, "epochs": 1}}, "chunks": 4}).unlearn(job)
    started = [e["fit"] for e in job.trainer.log.events if e["event"] == "fit_started"]
    assert started == [f"guarded-{k}-gradient_ascent" for k in range(4)]
    more = case.job()
    build_method("guarded", {"options": {"fit": {**FIT, "epochs": 1}}, "chunks": 99}).unlearn(more)
    assert len([e for e in more.trainer.log.events if e["event"] == "fit_started"]) == len(case.partition.forget)


@pytest.mark.parametrize("kill_after", [1, 3])
def test_a_killed_run_resumes_bit_identically(tmp_path, kill_after):
    """The draws of hooks, too."""
    case = classifier_case()
    options = {"options": {"fit": {**FIT, "checkpoint_every": 1}}, "rectify": "always", "retain_batch": 3}
    method = build_method("guarded", {**options, "noise": 0.01, "protect": 2, "chunks": 2})
    unbroken = method.unlearn(case.job(seed=3))
    with killed_after(kill_after):
        method.unlearn(case.job(seed=3, folder=tmp_path))
    assert same_state(state_of(unbroken), state_of(method.unlearn(case.job(seed=3, folder=tmp_path, resume=True))))


def test_wrong_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)retain_batch.*protect.*noise.*chunks.*unknown option 'x'"):
        build_method("guarded", {"retain_batch": 0, "protect": -1, "noise": -1, "chunks": 0, "options": {"x": 1}})
