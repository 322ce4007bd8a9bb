"""SGA: what it leaves alone, when it stops, and what it measures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.methods.sga import Memorisation
from tests.tiny import VOCABULARY, classifier_case, language_case, same_state, state_of

FIT = {"epochs": 3, "batch_size": 3, "lr": 1e-2, "weight_decay": 0.1}
SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "mode": "eval", "batch_size": 100}
CASES = [classifier_case, language_case]


def memorisation(case, model):
    """[N] by hand: one record at a time."""
    found = []
    for index in case.partition.forget:
        batch = case.loader.batch([index])
        with torch.no_grad():
            found.append(1.0 - case.task.errors_of(case.task.output(model.eval(), batch), batch).item())
    return torch.tensor(found)


def events(job, kind):
    return [event for event in job.trainer.log.events if event["event"] == kind]


@pytest.mark.parametrize("make", CASES)
def test_a_threshold_of_zero_is_gradient_ascent(make):
    ascent = build_method("gradient_ascent", {"fit": {**FIT, "mode": "eval"}}).unlearn(make().job(seed=2))
    options = {"threshold": 0.0, "stop_below": None, "fit": {**FIT, "mode": "eval", "optimizer": "adamw"}}
    assert same_state(state_of(ascent), state_of(build_method("sga", options).unlearn(make().job(seed=2))))


@pytest.mark.parametrize("threshold", [0.05, 1.5])
def test_after_the_first_epoch_only_what_is_memorised_is_climbed(threshold):
    """Two steps by hand: all records, then those with g at or above the threshold and the most memorised one."""
    case = language_case()
    job = case.job()
    options = {"threshold": threshold, "stop_below": None, "fit": {**SGD, "epochs": 2, "lr": 0.05}}
    model = build_method("sga", options).unlearn(job)

    by_hand = case.build(0).eval()
    kept = []
    for epoch in range(2):
        g = dict(zip(case.partition.forget, memorisation(case, by_hand).tolist(), strict=True))
        (step,) = job.visits("forget", 100).steps(epoch)
        order = step["forget"]
        most = max(order, key=g.__getitem__)
        kept.append([i for i in order if epoch == 0 or g[i] >= threshold or i == most])
        loss = case.task.loss(by_hand, case.loader.batch(kept[-1]))
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter += 0.05 * gradient
    assert 1 <= len(kept[1]) < len(kept[0]) == len(case.partition.forget)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


def test_it_stops_after_the_first_epoch_that_ends_below_the_target():
    case = classifier_case()

    def run(stop_below):
        job = case.job(seed=1)
        model = build_method("sga", {"stop_below": stop_below, "fit": {**FIT, "epochs": 8}}).unlearn(job)
        return model, [event["mean"] for event in events(job, "memorisation")], events(job, "epoch")

    _, means, epochs = run(0.0)  # nothing is below 0
    assert len(means) == len(epochs) == 8
    target = means[2] + 1e-6
    first = next(k for k, mean in enumerate(means) if mean < target)
    model, seen, epochs = run(target)
    assert len(epochs) == len(seen) == first + 1 < 8
    assert seen[-1] == pytest.approx(memorisation(case, model).mean().item())


def test_a_fit_that_stopped_by_itself_is_not_taken_further_when_it_is_resumed(tmp_path):
    case = classifier_case()
    method = build_method("sga", {"stop_below": 1.0, "fit": FIT})
    first = method.unlearn(case.job(seed=1, folder=tmp_path))
    job = case.job(seed=1, folder=tmp_path, resume=True)
    again = method.unlearn(job)
    assert same_state(state_of(first), state_of(again))
    assert not events(job, "epoch") and events(job, "fit_started")[0]["epoch"] == 1


class Parrot(nn.Module):
    """Says the token that comes next, plus ``off``."""

    def __init__(self, off: int) -> None:
        super().__init__()
        self.off = off

    def forward(self, input_ids, attention_mask):
        said = (input_ids.roll(-1, dims=1) + self.off) % VOCABULARY
        return SimpleNamespace(logits=nn.functional.one_hot(said, VOCABULARY).float())


@pytest.mark.parametrize(("off", "g", "outliers"), [(0, 1.0, 6), (1, 0.0, 6)])
def test_a_model_that_copies_knows_all_by_heart_and_one_that_is_always_wrong_nothing(off, g, outliers):
    case = language_case()
    job = case.job()
    measured = Memorisation(job)
    batch = case.loader.batch(case.partition.forget[:2])
    assert measured.of(batch, 0.7).tolist() == pytest.approx([0.7, 0.7])  # not measured yet
    assert measured.update(Parrot(off), 0.5, stage="sga", epoch=0) == (g < 0.5)
    assert measured.of(batch, 0.7).tolist() == [g, g]
    (said,) = events(job, "memorisation")
    assert (said["mean"], said["outliers"], said["of"]) == (g, outliers, 6)


def test_wrong_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)threshold.*stop_below"):
        build_method("sga", {"threshold": -1, "stop_below": 2})
