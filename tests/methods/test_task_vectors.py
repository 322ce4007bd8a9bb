"""Task vectors, TA and TAU: limits, linearity, what is measured while training, what each becomes of the others."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from tests.methods.test_sga import events, memorisation
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "mode": "eval", "optimizer": "adam", "weight_decay": 0.0}
CASES = [classifier_case, language_case]


def unlearned(name, case, seed=1, **options):
    return state_of(build_method(name, {"fit": FIT, **options}).unlearn(case.job(seed=seed)))


@pytest.mark.parametrize("make", CASES)
def test_limits_and_linearity(make):
    case = make()
    start, vectors = state_of(case.model), {a: unlearned("task_vectors", case, alpha=a) for a in (0, -1, 1, 2)}
    assert same_state(start, vectors[0])
    job, model = case.job(seed=1), case.job().copy_of_original()
    objective = task_objective(case.task, "forget")
    job.trainer.fit(model, job.visits("forget", 4), objective, FitOptions(**FIT), seed=1)
    assert same_state(state_of(model), vectors[-1])
    for name, first in start.items():
        if first.is_floating_point():
            step = vectors[-1][name] - first
            for alpha in (1, 2):
                assert torch.allclose(vectors[alpha][name], first - alpha * step, atol=1e-5), name
    assert not same_state(start, vectors[1])


@pytest.mark.parametrize("make", CASES)
def test_ta_is_a_task_vector_with_a_rule_and_measuring_disturbs_nothing(make):
    case = make()
    plain = unlearned("task_vectors", case, alpha=3.0)
    assert same_state(plain, unlearned("ta", case, c=-3.0, stop_below=None))
    # Never reached, but looked at after each epoch: the weights that go on are those before the edit.
    assert same_state(plain, unlearned("ta", case, c=-3.0, stop_below=0.0))


def test_ta_stops_by_the_edited_model_and_gives_it_back():
    case = classifier_case()
    job = case.job(seed=1)
    model = build_method("ta", {"stop_below": 1.0, "fit": {**FIT, "epochs": 5}}).unlearn(job)
    assert len(events(job, "epoch")) == 1
    assert events(job, "memorisation")[-1]["mean"] == pytest.approx(memorisation(case, model).mean().item())
    assert same_state(state_of(model), unlearned("task_vectors", case, alpha=3.0, fit={**FIT, "epochs": 1}))


@pytest.mark.parametrize("make", CASES)
def test_tau_is_ta_with_a_switch_at_one_and_sga_with_one_at_zero(make):
    case = make()
    ta = unlearned("ta", case, c=-1.0, stop_below=None)
    assert same_state(ta, unlearned("tau", case, switch=1.0, stop_below=None))
    sga = unlearned("sga", case, stop_below=0.0)
    assert same_state(sga, unlearned("tau", case, switch=0.0, stop_below=None))
    assert not same_state(ta, sga)


def test_tau_goes_on_from_where_the_ascent_ended():
    case = classifier_case()
    assert memorisation(case, case.model).mean() >= 0.1
    job = case.job(seed=1)
    options = {"switch": 0.1, "stop_below": None, "fit": {**FIT, "epochs": 20, "lr": 3e-2}}
    build_method("tau", options).unlearn(job)
    fits = [event["fit"] for event in events(job, "fit_finished")]
    assert fits == ["tau-ascent", "tau-vector"]
    stages = [(event["stage"], event["mean"]) for event in events(job, "memorisation")]
    assert [mean < 0.1 for stage, mean in stages if stage == "tau-ascent"][-1]
    assert dict(stages)["switch"] == dict(stages)["tau-ascent"]


@pytest.mark.parametrize("name", ["task_vectors", "ta", "tau"])
def test_adapters_and_moving_statistics_are_refused(name):
    with pytest.raises(MethodError, match="beside an adapter they are frozen"):
        build_method(name).unlearn(adapter_case().job())
    with pytest.raises(ConfigError, match="train would move statistics"):
        build_method(name, {"fit": {"mode": "train"}})
