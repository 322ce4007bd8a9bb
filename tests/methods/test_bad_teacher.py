"""Bad Teacher: whose word counts for which record, and that equal models are at zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.training.seeds import derive_seed
from tests.tiny import classifier_case, language_case, same_state, state_of

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "lr": 0.1, "mode": "eval"}


def captured(case, options, job=None):
    """The plan and the objective that the method would fit with."""
    job, found = job or case.job(), {}

    def fit(model, plan, objective, *args, **more):
        found.update(model=model, plan=plan, objective=objective, memory=more["memory"])

    job.trainer.fit = fit
    build_method("bad_teacher", options).unlearn(job)
    return found


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_the_loss_is_each_records_divergence_from_its_own_teacher(make):
    case = make()
    found = captured(case, {"temperature": 2.0, "retain_share": 1.0, "fit": {"batch_size": 100}})
    (step,) = found["plan"].steps(0)
    batch = found["plan"].load(step, 0)["records"]
    assert sorted(batch.indices.tolist()) == sorted((*case.partition.forget, *case.partition.retain))
    student = make().build(77).eval()
    loss = found["objective"](student, {"records": batch}).total
    bad = case.build(derive_seed(0, "bad_teacher", "teacher")).eval()
    total = 0.0
    for row, index in enumerate(batch.indices.tolist()):
        alone = batch.rows([row])
        teacher = bad if index in case.partition.forget else case.model.eval()
        with torch.no_grad():
            p = (case.task.output(student, alone).logits / 2.0).log_softmax(-1)
            q = (case.task.output(teacher, alone).logits / 2.0).log_softmax(-1)
        kl = (q.exp() * (q - p)).sum(-1)
        if make is language_case:
            answer = alone.inputs["tokens"]["labels"][:, 1:] != -100
            kl = (kl[:, :-1] * answer).sum(1) / answer.sum(1)
        total += float(kl)
    assert float(loss.detach()) == pytest.approx(total / len(batch), rel=1e-4)


def test_retain_records_alone_are_at_zero_at_the_start():
    case = classifier_case()
    found = captured(case, {"fit": {"batch_size": 8}})
    batch = case.loader.batch(case.partition.retain[:8])
    model = found["model"].eval()
    loss = found["objective"](model, {"records": batch}).total
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-5


def test_each_teacher_is_asked_about_its_own_records_only_and_once():
    case = classifier_case()
    found = captured(case, {"retain_share": 0.5, "fit": {"batch_size": 5}})
    for epoch in (0, 1):
        for step in found["plan"].steps(epoch):
            found["objective"](found["model"], found["plan"].load(step, epoch))
    kept = found["memory"].kept
    assert {key[0] for key in kept["bad"]._slot} == set(case.partition.forget)
    retain = {key[0] for key in kept["good"]._slot}
    assert retain <= set(case.partition.retain) and len(retain) == len(case.partition.retain) // 2


def test_when_the_original_is_the_bad_teacher_nothing_moves():
    case = classifier_case()
    job = replace(case.job(), fresh_model=lambda seed: case.build(0))
    model = build_method("bad_teacher", {"fit": {**SGD, "epochs": 2}}).unlearn(job)
    before = state_of(case.model)
    assert all(torch.allclose(before[key], tensor, atol=1e-5) for key, tensor in state_of(model).items())


def test_it_moves_the_forget_records_towards_the_untrained_model():
    case = classifier_case()
    bad = case.build(derive_seed(0, "bad_teacher", "teacher")).eval()
    model = build_method("bad_teacher", {"retain_share": 0.0, "fit": {"epochs": 20, "lr": 1e-2}}).unlearn(case.job())
    batch = case.loader.batch(case.partition.forget)

    def distance(one):
        with torch.no_grad():
            return float(case.task.divergence(one(batch), bad(batch), batch).mean())

    assert distance(model) < 0.1 * distance(case.model)


def test_zero_epochs_change_nothing_and_wrong_options_are_refused():
    case = classifier_case()
    assert same_state(
        state_of(case.model), state_of(build_method("bad_teacher", {"fit": {"epochs": 0}}).unlearn(case.job()))
    )
    with pytest.raises(ConfigError, match=r"(?s)temperature.*retain_share"):
        build_method("bad_teacher", {"temperature": 0.0, "retain_share": 1.5})
