"""UNSIR: class requests only; noise that is hard to call by the class's name; nothing of the forget records."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.parts.selection.classes import forgotten_classes
from forgetmi.parts.selection.learned_noise import LearnedNoise
from tests.tiny import classifier_case, killed_after, language_case, request_a_class, same_state, state_of

FAST = {"noise_records": 6, "retain_records": 12, "impair": {"batch_size": 4}, "repair": {"batch_size": 4}}


def class_case():
    case = classifier_case()
    request_a_class(case)
    return case


def test_a_request_for_patients_is_refused_and_says_why():
    case = classifier_case()
    labels = {case.dataset[i].label for i in case.partition.forget}
    n = sum(case.dataset[i].label in labels for i in case.partition.retain)
    with pytest.raises(MethodError, match=f"whole classes, and {n} retain records are of the classes"):
        build_method("unsir").unlearn(case.job())
    with pytest.raises(MethodError, match="unsir cannot serve the task 'causal_lm'"):
        build_method("unsir").unlearn(language_case().job())
    case = class_case()
    part = case.partition
    assert forgotten_classes(case.loader, part.forget, part.retain, method="unsir") == [2]


def fits_of(case, options=None):
    """Name to (model, plan, objective) of each fit; nothing is trained."""
    job, found = case.job(), {}

    def fit(model, plan, objective, *args, name, **more):
        found[name] = (model, plan, objective)

    job.trainer.fit = fit
    build_method("unsir", {**FAST, **(options or {})}).unlearn(job)
    return found


def test_the_noise_objective_by_hand_and_what_is_missing_in_noise_records():
    case = class_case()
    noise, plan, objective = fits_of(case)["unsir-noise"]
    batch = noise.batch()
    assert batch.present["film"].all() and not batch.present["note"].any() and (batch.labels == 2).all()
    loss = objective(noise, {})
    with torch.no_grad():
        ce = case.task.loss(case.model.eval(), batch)
        norm = batch.inputs["film"].square().sum(dim=(1, 2, 3)).mean()
    assert float(loss.total.detach()) == pytest.approx(float(0.1 * norm - ce), rel=1e-5)
    assert len(plan.steps(0)) == 8 and plan.load(plan.steps(0)[0], 0) == {}
    loss.total.backward()
    assert all(p.grad is None for p in case.model.parameters())


def test_learning_makes_the_noise_harder_to_call_by_the_class():
    case = class_case()
    start = LearnedNoise(case.loader, torch.full((6,), 2), torch.Generator().manual_seed(0))
    job, losses = case.job(), {}
    real = job.trainer.fit

    def fit(model, plan, objective, *args, name, **more):
        result = real(model, plan, objective, *args, name=name, **more)
        if name == "unsir-noise":
            losses["end"] = float(case.task.loss(case.model.eval(), model.batch()).detach())
        return result

    job.trainer.fit = fit
    build_method("unsir", {**FAST, "penalty": 0.0}).unlearn(job)
    assert losses["end"] > float(case.task.loss(case.model.eval(), start.batch()).detach()) + 0.3


def test_impairing_is_the_mean_over_noise_and_retain_records_and_repairing_sees_retain_records_only():
    case = class_case()
    found = fits_of(case)
    model, plan, objective = found["unsir-impair"]
    step = plan.steps(0)[0]
    batches = plan.load(step, 0)
    assert {stream: len(batch) for stream, batch in batches.items()} == {"retain": 4, "noise": 4}
    model.eval()
    by_hand = sum(4 * float(case.task.loss(model, batch).detach()) for batch in batches.values()) / 8
    assert float(objective(model, batches).total.detach()) == pytest.approx(by_hand, rel=1e-5)
    visited = {i for s in plan.steps(0) for i in s["retain"]}
    repaired = list(found["unsir-repair"][1].steps(0))
    assert all(list(s) == ["retain"] for s in repaired)
    assert visited == {i for s in repaired for i in s["retain"]} and len(visited) == 12
    assert visited <= set(case.partition.retain)
    seen = [j for s in plan.steps(0) for j in s["noise"]]
    assert set(seen) == set(range(6))


def test_the_class_becomes_unlikely():
    case = class_case()
    model = build_method("unsir", FAST).unlearn(case.job())
    batch = case.loader.batch(case.partition.forget)
    with torch.no_grad():
        assert not same_state(state_of(case.model), state_of(model))
        assert case.task.loss(model, batch) > case.task.loss(case.model, batch)


def test_no_epochs_change_nothing():
    case = class_case()
    none = {"noise_fit": {"epochs": 0}, "impair": {"epochs": 0}, "repair": {"epochs": 0}}
    assert same_state(state_of(case.model), state_of(build_method("unsir", {**FAST, **none}).unlearn(case.job())))


@pytest.mark.parametrize("kill_after", [5, 12, 15])
def test_a_killed_run_resumes_bit_identically_in_any_of_its_fits(tmp_path, kill_after):
    """10 steps of noise, 3 of impairing, 3 of repairing."""
    case = class_case()
    every = {name: {"batch_size": 4, "checkpoint_every": 1} for name in ("noise_fit", "impair", "repair")}
    method = build_method("unsir", {**FAST, **every, "noise_steps": 2})
    unbroken = method.unlearn(case.job(seed=3))
    with killed_after(kill_after):
        method.unlearn(case.job(seed=3, folder=tmp_path))
    assert same_state(state_of(unbroken), state_of(method.unlearn(case.job(seed=3, folder=tmp_path, resume=True))))


def test_records_without_continuous_inputs_and_wrong_options_are_refused():
    case = language_case()
    with pytest.raises(MethodError, match="no continuous input"):
        LearnedNoise(case.loader, torch.zeros(2, dtype=torch.long), torch.Generator())
    with pytest.raises(ConfigError, match=r"(?s)noise_records.*noise_steps.*penalty.*retain_records.*repair: fit"):
        build_method(
            "unsir",
            {"noise_records": 0, "noise_steps": 0, "penalty": -1, "retain_records": 0, "repair": {"select": "best"}},
        )
