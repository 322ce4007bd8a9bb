"""Guarded methods: nothing on is the method; each part does what it says to every step."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.parts.updates.projected import Smoothed
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
    wrong = {"retain_batch": 0, "smoothing": 1, "protect": -1, "noise": -1, "chunks": 0, "options": {"x": 1}}
    with pytest.raises(ConfigError, match=r"(?s)retain_batch.*smoothing.*protect.*noise.*chunks.*unknown option 'x'"):
        build_method("guarded", wrong)


def test_a_smoothed_retain_gradient_is_a_running_mean():
    """m_1 = r_1, m_2 = .8 r_2 + .2 r_1, m_3 = .8 r_3 + .16 r_2 + .04 r_1; a checkpoint goes on from there."""
    r = torch.eye(3)
    smoothed = Smoothed(0.2)
    means = [smoothed.update(row) for row in r[:2]]
    later = Smoothed(0.2)
    later.load_state_dict(smoothed.state_dict())
    means.append(later.update(r[2]))
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.04, 0.16, 0.8]])
    assert torch.allclose(torch.stack(means), expected)
    assert torch.equal(later.update(torch.ones(2)), torch.ones(2))  # other weights: a new mean
    assert torch.equal(Smoothed(0.0).update(r[1]), r[1])


@pytest.mark.parametrize("make", CASES)
def test_smoothing_changes_what_is_rectified_from_the_second_step_on(make):
    def run(epochs, smoothing):
        fit = {**SGD, "epochs": epochs, "lr": 1e-2}
        options = {"options": {"fit": fit}, "rectify": "always", "retain_batch": 2, "smoothing": smoothing}
        return state_of(build_method("guarded", options).unlearn(make().job(seed=2)))

    assert same_state(run(1, 0.0), run(1, 0.5))
    assert not same_state(run(3, 0.0), run(3, 0.5))
