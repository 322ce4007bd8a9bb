"""NegGrad+: its gradient, its limits, and how often each set is seen."""

from __future__ import annotations

import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.parts.selection.sequences import CycledPlan
from forgetmi.training.plans import ShuffledPlan
from tests.tiny import classifier_case, language_case, same_state, state_of

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "lr": 0.1, "mode": "eval"}


@pytest.mark.parametrize("case", [classifier_case, language_case])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_alpha_one_is_fine_tuning_exactly(case, mode):
    """Dropout and all: the forget set is not even looked at."""
    fit = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "mode": mode}
    plus = build_method("neg_grad_plus", {"alpha": 1.0, "fit": fit}).unlearn(case().job(seed=4))
    tuned = build_method("fine_tune", {"fit": fit}).unlearn(case().job(seed=4))
    assert same_state(state_of(plus), state_of(tuned))


def test_alpha_zero_is_gradient_ascent_exactly():
    """26 retain records in batches of 5 make 6 steps: three whole passes over 6 forget records."""
    case = classifier_case()
    assert (len(case.partition.forget), len(case.partition.retain)) == (6, 26)
    fit = {"batch_size": 5, "lr": 1e-3, "mode": "eval"}
    plus = build_method("neg_grad_plus", {"alpha": 0.0, "fit": {**fit, "epochs": 1}}).unlearn(case.job())
    ascent = build_method("gradient_ascent", {"fit": {**fit, "epochs": 3}}).unlearn(case.job())
    assert same_state(state_of(plus), state_of(ascent))


def test_one_step_is_the_weighted_difference_of_the_gradients():
    case, alpha = classifier_case(), 0.7
    options = {"alpha": alpha, "fit": {**SGD, "epochs": 1, "batch_size": 100}}
    moved = dict(build_method("neg_grad_plus", options).unlearn(case.job()).named_parameters())
    names, parameters = zip(*case.model.named_parameters(), strict=True)
    gradients = []
    for part in ("retain", "forget"):
        loss = case.task.loss(case.model, case.loader.batch(case.partition.indices(part)))
        gradients.append(torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True))
    for name, start, g_r, g_f in zip(names, parameters, *gradients, strict=True):
        expected = start - 0.1 * (alpha * g_r - (1 - alpha) * g_f)
        assert torch.allclose(moved[name], expected, atol=1e-6), name
    assert any(not torch.equal(moved[name], start) for name, start in zip(names, parameters, strict=True))


def test_the_forget_set_is_reshuffled_in_each_of_its_passes():
    """A cycled loader that keeps its first pass would show the same batches again and again."""
    loader = object.__new__(Loader)
    lead = ShuffledPlan(loader, range(20), batch_size=2, seed=1, stream="retain")
    plan = CycledPlan(lead, ShuffledPlan(loader, range(100, 106), batch_size=2, seed=1, stream="forget"))
    steps = plan.steps(0)
    assert len(steps) == 10
    assert sorted(i for step in steps for i in step["retain"]) == list(range(20))
    passes = [[i for step in steps[k : k + 3] for i in step["forget"]] for k in (0, 3, 6)]
    assert all(sorted(p) == list(range(100, 106)) for p in passes)
    later = [i for step in plan.steps(1)[:3] for i in step["forget"]]
    assert len({tuple(p) for p in [*passes, later]}) == 4
    assert plan.steps(0) == steps


def test_more_forget_than_retain_records_leave_the_epoch_as_long_as_the_retain_set():
    loader = object.__new__(Loader)
    plan = CycledPlan(
        ShuffledPlan(loader, range(3), batch_size=2, seed=1, stream="retain"),
        ShuffledPlan(loader, range(100, 120), batch_size=2, seed=1, stream="forget"),
    )
    assert [sorted(step) for step in plan.steps(0)] == [["forget", "retain"]] * 2


def test_alpha_outside_its_range_is_refused():
    for alpha in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="alpha must be in"):
            build_method("neg_grad_plus", {"alpha": alpha})
