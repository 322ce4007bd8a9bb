"""SCRUB: its two losses by hand, its passes, its limits, and which epoch is rewound to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods.scrub import closest
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 4, "batch_size": 13, "lr": 2e-2, "mode": "eval"}


def captured(case, options):
    job, found = case.job(), {}

    def fit(model, plan, objective, *args, **more):
        found.update(model=model, plan=plan, objective=objective)

    job.trainer.fit = fit
    build_method("scrub", options).unlearn(job)
    return found


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_both_losses_by_hand(make):
    case, t, alpha, gamma = make(), 2.0, 0.3, 0.7
    found = captured(case, {"temperature": t, "alpha": alpha, "gamma": gamma})
    student, batch = make().build(5).eval(), case.loader.batch(case.partition.forget)
    with torch.no_grad():
        out, target = case.task.output(student, batch), case.task.output(case.model.eval(), batch)
        kl = t * t * case.task.divergence(out, target, batch, t).mean()
        ce = case.task.loss(student, batch)
        forget = found["objective"](student, {"forget": batch}).total
        retain = found["objective"](student, {"retain": batch}).total
    assert float(kl) > 0
    assert float(forget) == pytest.approx(-float(kl), rel=1e-5)
    assert float(retain) == pytest.approx(gamma * float(ce) + alpha * float(kl), rel=1e-5)


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_the_first_forget_step_has_no_gradient(make):
    case = make()
    found = captured(case, {})
    model, batch = found["model"].eval(), case.loader.batch(case.partition.forget)
    loss = found["objective"](model, {"forget": batch}).total
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-4


def test_a_large_temperature_times_its_square_tends_to_half_the_variance_of_the_difference():
    """T^2 KL -> (1 / 2C) sum (d - mean d)^2 with d the difference of the logits: the factor T^2 keeps the scale."""
    case = classifier_case()
    found = captured(case, {"temperature": 1e3})
    student, batch = case.build(5).eval(), case.loader.batch(case.partition.forget)
    with torch.no_grad():
        d = student(batch).logits - case.model.eval()(batch).logits
        expected = ((d - d.mean(dim=1, keepdim=True)) ** 2).mean(dim=1).mean() / 2
        found_value = -found["objective"](student, {"forget": batch}).total
    assert float(found_value) == pytest.approx(float(expected), rel=5e-2)


@pytest.mark.parametrize("first", ["forget", "retain"])
def test_the_forget_pass_takes_place_in_exactly_max_epochs_epochs(first):
    case = classifier_case()
    plan = captured(case, {"max_epochs": 2, "first": first, "fit": {"batch_size": 100}})["plan"]
    other = {"forget": "retain", "retain": "forget"}[first]
    assert [[next(iter(s)) for s in plan.steps(e)] for e in range(4)] == [[first, other]] * 2 + [["retain"]] * 2
    nothing = captured(case, {"max_epochs": 0})["plan"]
    assert not any("forget" in step for epoch in range(3) for step in nothing.steps(epoch))


@pytest.mark.parametrize("make", [classifier_case, language_case])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_without_its_own_terms_it_is_fine_tuning_exactly(make, mode):
    fit = {**FIT, "mode": mode, "epochs": 2, "weight_decay": 0.01}
    scrub = build_method("scrub", {"alpha": 0.0, "gamma": 1.0, "max_epochs": 0, "fit": fit}).unlearn(make().job())
    assert same_state(state_of(scrub), state_of(build_method("fine_tune", {"fit": fit}).unlearn(make().job())))


def test_closest_by_hand():
    assert closest([0.0, 0.2, 0.6, 0.9], 0.5) == 2
    assert closest([0.0, 0.4, 0.6, 0.9], 0.5) == 2  # both as close: the later
    assert closest([0.5, 0.1, 0.5], 0.5) == 2
    assert closest([1.0], 0.0) == 0


def errors(case, model, indices):
    batch = case.loader.batch(indices)
    with torch.no_grad():
        return float(case.task.errors_of(case.task.output(model.eval(), batch), batch).mean())


def test_the_rewound_model_is_that_of_the_chosen_epoch():
    """A constant rate: SCRUB of e epochs is what SCRUB+R had kept after epoch e."""
    case = classifier_case()
    options = {"max_epochs": 1, "alpha": 0.01, "first": "retain"}
    job, fit = case.job(), {**FIT, "lr": 5e-2}
    rewound = build_method("scrub_r", {**options, "fit": fit}).unlearn(job)
    each = [
        build_method("scrub", {**options, "fit": {**fit, "epochs": e}}).unlearn(case.job())
        for e in range(1, FIT["epochs"] + 1)
    ]
    classes = {case.dataset[i].label for i in case.partition.forget}
    like = [i for i in case.partition.validation if case.dataset[i].label in classes]
    wanted = errors(case, each[-1], like)
    forget = [errors(case, model, case.partition.forget) for model in each]
    chosen = closest(forget, wanted)
    assert chosen != FIT["epochs"] - 1, "the example ought to rewind"
    assert same_state(state_of(rewound), state_of(each[chosen]))
    event = next(e for e in job.trainer.log.events if e["event"] == "rewound")
    assert (event["epoch"], event["wanted"]) == (chosen, pytest.approx(wanted))
    assert event["errors"] == pytest.approx(forget)


def test_validation_records_of_other_classes_do_not_count():
    case = classifier_case()
    label = case.dataset[case.partition.forget[0]].label
    only = tuple(i for i in case.partition.forget if case.dataset[i].label == label)
    others = tuple(i for i in case.partition.validation if case.dataset[i].label != label)
    method = build_method("scrub_r", {"fit": {**FIT, "epochs": 1}})
    for validation in ((), others):
        job = case.job()
        job = replace(job, partition=replace(job.partition, forget=only, validation=validation))
        with pytest.raises(MethodError, match="validation records of the classes"):
            method.unlearn(job)


def test_zero_epochs_change_nothing_and_wrong_options_are_refused():
    case = classifier_case()
    for name in ("scrub", "scrub_r"):
        model = build_method(name, {"fit": {"epochs": 0}}).unlearn(case.job())
        assert same_state(state_of(case.model), state_of(model))
        with pytest.raises(ConfigError, match=r"(?s)both be 0.*temperature.*max_epochs"):
            build_method(name, {"alpha": 0.0, "gamma": 0.0, "temperature": 0.0, "max_epochs": -1})
        with pytest.raises(ConfigError, match="measures no validation"):
            build_method(name, {"fit": {"select": "best"}})
