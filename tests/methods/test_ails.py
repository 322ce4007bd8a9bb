"""AILS-NTUA: which records a step sees, what it minimises, what is trained, and when it anneals."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods.ails import _Interleaved
from forgetmi.parts.objectives.sequence import sequence_means
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of

FIT = {"epochs": 1, "batch_size": 1, "lr": 1e-2}
SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "mode": "eval"}


def fits(job):
    return [event["fit"] for event in job.trainer.log.events if event["event"] == "fit_finished"]


def test_a_step_sees_forget_records_and_the_next_of_an_endless_retain_stream():
    method = build_method("ails", {"retain_per_forget": 3, "fit": {"batch_size": 2}})
    plan = _Interleaved(None, [10, 11, 12], [0, 1, 2, 3, 4], 4, method)
    expected = [{"forget": (10, 11), "retain": (4, 0, 1, 2, 3, 4)}, {"forget": (12,), "retain": (0, 1, 2)}]
    assert plan.steps(0) == plan.steps(7) == expected
    alone = build_method("ails", {"variant": "annealing", "fit": {"batch_size": 2}})
    assert _Interleaved(None, [10, 11, 12], [0], 0, alone).steps(0) == [{"forget": (10, 11)}, {"forget": (12,)}]


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_one_step_by_hand(make):
    """L = ( - sum_f L_i + .5 sum_r L_i ) / (2 + 4), each L_i the mean over the record's answer tokens."""
    case, steps = make(), []
    job = case.job(seed=1)
    object.__setattr__(case.partition, "forget", case.partition.forget[:2])
    real = job.loader.batch
    job.loader.batch = lambda indices: (steps.append(list(indices)), real(indices))[1]
    options = {"retain_per_forget": 2, "last_blocks": None, "fit": {**SGD, "epochs": 1, "batch_size": 2, "lr": 0.1}}
    model = build_method("ails", options).unlearn(job)
    forget, retain = steps
    assert sorted(forget) == sorted(case.partition.forget) and len(retain) == 4
    original, total = case.model.eval(), 0.0
    for indices, factor in ((forget, -1.0), (retain, 0.5)):
        for index in indices:
            total = total + factor * sequence_means(*case.task.token_nll(original, real([index]))).sum() / 6
    found = torch.autograd.grad(total, list(original.parameters()), materialize_grads=True, allow_unused=True)
    for now, before, gradient in zip(model.parameters(), original.parameters(), found, strict=True):
        assert torch.allclose(now, before - 0.1 * gradient, atol=1e-6)


def test_chunks_one_after_another_on_the_last_blocks_alone():
    case = language_case()
    job = case.job(seed=1)
    model = build_method("ails", {"chunk": 4, "last_blocks": 1, "fit": {**FIT, "weight_decay": 0.5}}).unlearn(job)
    assert fits(job) == ["ails-0", "ails-1"]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, case.model.get_parameter(n))}
    assert moved == {n for n, _ in model.named_parameters() if n.startswith("transformer.h.1.")}
    assert all(p.requires_grad for p in model.parameters())
    every = build_method("ails", {"last_blocks": 8, "fit": FIT}).unlearn(case.job())
    assert torch.equal(every.transformer.wte.weight, case.model.transformer.wte.weight), "embeddings are frozen"


def test_annealing_follows_chunks_and_ends_with_all_of_the_retain_set():
    case = classifier_case()
    job, visited = case.job(seed=1), {}
    fit = job.trainer.fit

    def watched(model, plan, *rest, **options):
        steps = plan.steps(0)
        visited[options["name"]] = sorted(i for step in steps for indices in step.values() for i in indices)
        return fit(model, plan, *rest, **options)

    job.trainer.fit = watched
    options = {"variant": "annealing", "chunk": 2, "anneal_every": 2, "last_blocks": None, "anneal_share": 0.5}
    build_method("ails", {**options, "fit": FIT, "anneal": {"epochs": 1, "lr": 1e-3}}).unlearn(job)
    assert list(visited) == ["ails-0", "ails-1", "ails-1-anneal", "ails-2", "ails-3-anneal"]
    retain = case.partition.retain
    assert visited["ails-3-anneal"] == list(retain) and len(visited["ails-1-anneal"]) == round(0.5 * len(retain))
    assert sorted(visited["ails-0"] + visited["ails-1"] + visited["ails-2"]) == list(case.partition.forget)


def test_one_chunk_without_annealing_is_ascent():
    """Of one batch, on records whose answers have one length, gradient ascent's own weights."""
    case = language_case()
    length = len(case.dataset[case.partition.forget[0]].value("tokens")["ids"])
    same = [i for i in case.partition.forget if len(case.dataset[i].value("tokens")["ids"]) == length]
    object.__setattr__(case.partition, "forget", tuple(same))
    fit = {**FIT, "batch_size": 100, "epochs": 3, "mode": "eval"}
    options = {"variant": "annealing", "last_blocks": None, "fit": fit, "anneal": {"epochs": 0}}
    model = build_method("ails", options).unlearn(case.job(seed=1))
    ascent = build_method("gradient_ascent", {"fit": fit}).unlearn(case.job(seed=1))
    for a, b in zip(model.parameters(), ascent.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_in_an_adapter_its_last_blocks_are_trained():
    case = adapter_case()
    model = build_method("ails", {"last_blocks": 1, "fit": FIT}).unlearn(case.job(seed=1))
    moved = {n for n, p in model.named_parameters() if "lora_B" in n and p.any()}
    assert moved and all(".h.1." in name for name in moved)
    assert same_state(state_of(model.without_adapter()), state_of(case.model))


def test_what_cannot_be_done_is_said():
    with pytest.raises(MethodError, match=r"(?s)last_blocks are a language model's.*last_blocks: null"):
        build_method("ails").unlearn(classifier_case().job())
    wrong = {"chunk": 0, "retain_per_forget": 0, "positive_factor": -1, "last_blocks": 0, "anneal_share": 0}
    with pytest.raises(ConfigError, match=r"(?s)chunk.*retain_per_forget.*positive_factor.*last_blocks.*anneal_share"):
        build_method("ails", wrong)
    with pytest.raises(ConfigError, match=r"anneal\.select"):
        build_method("ails", {"anneal": {"select": "best"}})
