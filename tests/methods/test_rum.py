"""RUM: strata, their order, and one stratum as the method itself."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods.rum import RUM
from tests.tiny import classifier_case, killed_after, language_case, same_state, state_of

FIT = {"fit": {"epochs": 2, "batch_size": 13, "lr": 1e-2, "checkpoint_every": 1}}
CASES = [classifier_case, language_case]


@pytest.mark.parametrize("name", ["gradient_ascent", "salun", "ssd", "scrub_r"])
def test_one_stratum_is_the_method(name):
    options = {"alpha": 1.5} if name == "ssd" else {"options": FIT} if name == "salun" else FIT
    case = classifier_case()
    alone = build_method(name, options).unlearn(case.job(seed=2))
    wrapped = build_method("rum", {"methods": [name], "options": {name: options}}).unlearn(case.job(seed=2))
    assert same_state(state_of(alone), state_of(wrapped))


@pytest.mark.parametrize("make", CASES)
def test_strata_are_equal_disjoint_and_ordered_by_confidence(make):
    case = make()
    job = case.job()
    strata = RUM(methods=("nothing",) * 3)._strata(job)
    assert [len(s) for s in strata] == [2, 2, 2]
    assert sorted(i for s in strata for i in s) == sorted(case.partition.forget)
    with torch.no_grad():
        nll = {i: float(case.task.nll(case.model.eval(), case.loader.batch([i]))) for i in case.partition.forget}
    for lower, higher in itertools.pairwise(strata):
        assert max(nll[i] for i in lower) <= min(nll[i] for i in higher)


def test_each_stage_starts_from_the_last_ones_model_and_sees_its_own_stratum_only(monkeypatch):
    case, seen = classifier_case(), []

    class Spy:
        def __init__(self, name):
            self.name, self.needs = name, build_method("gradient_ascent").needs

        def unlearn(self, job):
            model = job.copy_of_original()
            with torch.no_grad():
                model.head.bias.add_(1.0)
            seen.append((self.name, job, state_of(job.model)["head.bias"], job.reference.model is job.model))
            return model

    monkeypatch.setattr("forgetmi.methods.rum.build_method", lambda name, options: Spy(name))
    monkeypatch.setattr("forgetmi.methods.rum.method_problems", lambda name, options: [])
    job = case.job(seed=9)
    model = RUM(methods=("nothing", "a", "b")).unlearn(job)
    start = case.model.head.bias.detach()
    assert [name for name, *_ in seen] == ["a", "b"]
    assert torch.equal(seen[0][2], start) and torch.equal(seen[1][2], start + 1)
    assert torch.equal(model.head.bias.detach(), start + 2) and all(same for *_, same in seen)
    strata = RUM(methods=("nothing", "a", "b"))._strata(case.job())
    for (_, staged, *_), stratum in zip(seen, strata[1:], strict=True):
        assert staged.partition.forget == stratum and staged.partition.retain == case.partition.retain
        assert not set(staged.partition.excluded) & set(stratum)
        assert {*staged.partition.excluded, *stratum} == set(case.partition.forget)
    assert len({staged.seed for _, staged, *_ in seen} | {9}) == 3  # the first stage alone has the job's own
    strata_events = [e for e in job.trainer.log.events if e["event"] == "stratum"]
    assert [e["records"] for e in strata_events] == [2, 2, 2]


def test_doing_nothing_is_the_original_and_fewer_records_than_strata_leave_some_empty():
    case = classifier_case()
    nothing = build_method("rum", {"methods": ["nothing", "nothing"]}).unlearn(case.job())
    assert same_state(state_of(case.model), state_of(nothing)) and nothing is not case.model
    job = case.job()
    job = replace(job, partition=replace(job.partition, forget=job.partition.forget[:2]))
    options = {"methods": ["gradient_ascent"] * 3, "options": {"gradient_ascent": FIT}}
    assert not same_state(state_of(case.model), state_of(build_method("rum", options).unlearn(job)))


@pytest.mark.parametrize("kill_after", [2, 6])
def test_a_killed_run_resumes_bit_identically_in_any_stage(tmp_path, kill_after):
    """Both stages run one method: their checkpoints must not be taken for each other's."""
    case = classifier_case()
    method = build_method("rum", {"methods": ["fine_tune", "fine_tune"], "options": {"fine_tune": FIT}})
    unbroken = method.unlearn(case.job(seed=3))
    with killed_after(kill_after):
        method.unlearn(case.job(seed=3, folder=tmp_path))
    assert same_state(state_of(unbroken), state_of(method.unlearn(case.job(seed=3, folder=tmp_path, resume=True))))


def test_what_is_wrong_is_refused_all_at_once_and_a_method_that_cannot_serve_before_any_runs():
    with pytest.raises(ConfigError, match=r"(?s)batch_size.*'salum' is not among.*retraining.*unknown option 'x'"):
        build_method("rum", {"methods": ["retrain", "npo"], "batch_size": 0, "options": {"salum": {}, "npo": {"x": 1}}})
    job = language_case().job()
    with pytest.raises(MethodError, match="random_labels cannot serve"):
        build_method("rum", {"methods": ["fine_tune", "random_labels"]}).unlearn(job)
    assert not job.trainer.log.events or all(e["event"] != "fit_started" for e in job.trainer.log.events)
