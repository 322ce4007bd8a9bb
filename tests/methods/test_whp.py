"""WHP: which labels it makes, that it trains on these, and what it throws away."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "mode": "eval"}


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits


@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_labels_are_what_neither_model_learned_from_the_text(alpha):
    case = language_case()
    job, reinforced = case.job(seed=1), case.job().copy_of_original()
    objective = task_objective(case.task, "forget")
    job.trainer.fit(reinforced, job.visits("forget", 4), objective, FitOptions(**FIT), seed=1)
    options = {"alpha": alpha, "reinforce": FIT, "fit": FIT}
    labels = build_method("whp", options)._labels(case.job(seed=1))
    changed = 0
    for index in case.partition.forget:
        tokens = case.loader.batch([index]).inputs["tokens"]
        base, further = logits(case.model.eval(), tokens), logits(reinforced.eval(), tokens)
        generic = (base - alpha * (further - base).clamp(min=0))[0, :-1].argmax(dim=-1)
        there = tokens["labels"][0, 1:] != -100
        assert labels[index].tolist() == generic[there].tolist()
        changed += int((labels[index] != tokens["labels"][0, 1:][there]).sum())
    job = case.job(seed=1)
    build_method("whp", options).unlearn(job)
    (event,) = [event for event in job.trainer.log.events if event["event"] == "generic_labels"]
    assert event["changed"] == changed


def test_other_targets_change_the_answer_and_nothing_that_is_read():
    case = language_case()
    batch = case.loader.batch(case.partition.forget)
    tokens = batch.inputs["tokens"]
    there = tokens["labels"][:, 1:] != -100
    other = case.task.retargeted(batch, torch.arange(int(there.sum())) % 7)
    assert torch.equal(other.inputs["tokens"]["input_ids"], tokens["input_ids"])
    assert other.inputs["tokens"]["labels"][:, 1:][there].tolist() == [n % 7 for n in range(int(there.sum()))]
    assert (other.inputs["tokens"]["labels"][:, 1:][~there] == -100).all()
    assert torch.equal(tokens["labels"], case.loader.batch(case.partition.forget).inputs["tokens"]["labels"])


def test_it_learns_the_labels():
    case = language_case()
    method = build_method("whp", {"reinforce": FIT, "fit": {**FIT, "epochs": 40}})
    labels = torch.cat(list(method._labels(case.job(seed=1)).values()))
    batch = case.task.retargeted(case.loader.batch(case.partition.forget), labels)
    model = method.unlearn(case.job(seed=1))
    with torch.no_grad():
        assert case.task.loss(model, batch) < 0.5 * case.task.loss(case.model, batch)


def test_the_reinforced_models_checkpoint_is_deleted(tmp_path):
    case = language_case()
    method = build_method("whp", {"reinforce": FIT, "fit": FIT})
    job = case.job(seed=1, folder=tmp_path)
    unbroken = method.unlearn(job)
    assert [path.name for path in tmp_path.iterdir()] == ["whp.checkpoint.pt"]
    assert job.trainer.log.events[-1]["event"] == "discarded"
    assert same_state(state_of(unbroken), state_of(method.unlearn(case.job(seed=1))))


def test_what_cannot_be_done_is_said():
    with pytest.raises(MethodError, match="cannot serve the task 'classification'"):
        build_method("whp").unlearn(classifier_case().job())
    with pytest.raises(ConfigError, match=r"(?s)alpha must.*reinforce.select"):
        build_method("whp", {"alpha": -1, "reinforce": {"select": "best"}})
