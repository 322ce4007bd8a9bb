"""MultiDelete: who stands beside whom, and its three distances by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.parts.objectives.multi_delete import embedding_mse, unimodal_mse
from forgetmi.parts.selection.mismatched import MismatchedPlan, mixed
from forgetmi.parts.selection.paired import PairedPlan
from tests.tiny import classifier_case, language_case, same_state, state_of


def captured(case, options=None, job=None):
    job, found = job or case.job(), {}

    def fit(model, plan, objective, *args, **more):
        found.update(model=model, plan=plan, objective=objective)

    job.trainer.fit = fit
    build_method("multi_delete", options or {}).unlearn(job)
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_nobody_is_their_own_partner_and_everybody_is_somebodys(batch_size):
    case = classifier_case()
    for n in (2, 3, 6):
        forget = case.partition.forget[:n]
        plan = MismatchedPlan(case.loader, forget, case.partition.retain, batch_size=batch_size, seed=1)
        for epoch in range(20):
            pairs = [pair for s in plan.steps(epoch) for pair in zip(s["forget"], s["partner"], strict=True)]
            assert all(a != b for a, b in pairs)
            assert sorted(a for a, _ in pairs) == sorted(b for _, b in pairs) == sorted(forget)
        assert n == 2 or len({tuple(sorted(_pairs(plan, e))) for e in range(20)}) > 1
        assert plan.steps(3) == plan.steps(3)
        plain = PairedPlan(case.loader, forget, case.partition.retain, batch_size=batch_size, seed=1)
        assert [{**s, "partner": None} for s in plain.steps(0)] == [{**s, "partner": None} for s in plan.steps(0)]
    with pytest.raises(MethodError, match="one only"):
        MismatchedPlan(case.loader, case.partition.forget[:1], case.partition.retain, batch_size=1, seed=1)


def _pairs(plan, epoch):
    return [pair for s in plan.steps(epoch) for pair in zip(s["forget"], s["partner"], strict=True)]


def test_a_mixed_batch_keeps_one_modality_and_touches_neither_batch():
    case = classifier_case()
    a, b = case.loader.batch(case.partition.forget[:3]), case.loader.batch(case.partition.forget[3:])
    both = mixed(a, b, "note")
    assert torch.equal(both.inputs["film"], b.inputs["film"]) and both.inputs["note"] is a.inputs["note"]
    assert torch.equal(both.present["film"], b.present["film"])
    assert torch.equal(both.indices, a.indices) and torch.equal(both.labels, a.labels)


def test_distances_by_hand():
    a, b = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert float(embedding_mse(a, b)) == pytest.approx(5 / 4)
    present = {"x": torch.tensor([True, True]), "y": torch.tensor([False, True]), "z": torch.tensor([False, False])}
    student, teacher = dict.fromkeys(present, a), dict.fromkeys(present, b)
    assert float(unimodal_mse(student, teacher, present)) == pytest.approx((5 / 4 + 2.0 + 0.0) / 3)


def test_at_the_start_with_true_pairs_everything_is_zero_and_with_others_only_the_first_is_not():
    case = classifier_case()
    found = captured(case)
    model = found["model"].eval()
    forget = case.loader.batch(case.partition.forget)
    retain = case.loader.batch(case.partition.retain)
    same = found["objective"](model, {"forget": forget, "retain": retain, "partner": forget})
    assert float(same.total.detach()) == pytest.approx(0.0, abs=1e-10)
    partner = case.loader.batch((*case.partition.forget[1:], case.partition.forget[0]))
    other = found["objective"](model, {"forget": forget, "retain": retain, "partner": partner})
    values = {name: float(value.detach()) for name, value in other.parts.items()}
    with torch.no_grad():
        apart = case.model(mixed(forget, partner, "film")).joint
        expected = float((case.model(forget).joint - apart).square().mean())
    assert values["decouple"] == pytest.approx(expected, rel=1e-4) and expected > 1e-4
    assert values["retain"] == pytest.approx(0.0, abs=1e-10) and values["unimodal"] == pytest.approx(0.0, abs=1e-10)


def test_weights_weigh_their_parts():
    case = classifier_case()
    found = captured(case, {"decouple": 0.5, "retain": 2.0, "unimodal": 3.0})
    batches = found["plan"].load(found["plan"].steps(0)[0], 0)
    loss = found["objective"](case.build(9).eval(), batches)
    parts = {name: float(value.detach()) for name, value in loss.parts.items()}
    by_hand = 0.5 * parts["decouple"] + 2 * parts["retain"] + 3 * parts["unimodal"]
    assert float(loss.total.detach()) == pytest.approx(by_hand, rel=1e-5)


def test_without_decoupling_and_decay_the_original_stays():
    case = classifier_case()
    fit = {"epochs": 2, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.1}
    model = build_method("multi_delete", {"decouple": 0.0, "fit": fit}).unlearn(case.job())
    before = state_of(case.model)
    assert all(torch.allclose(before[key].float(), value.float(), atol=1e-5) for key, value in state_of(model).items())
    still = build_method("multi_delete", {"fit": {"epochs": 0}}).unlearn(case.job())
    assert same_state(before, state_of(still))


def test_what_it_cannot_do_it_refuses():
    with pytest.raises(MethodError, match=r"embeddings of each modality.*causal_lm"):
        build_method("multi_delete").unlearn(language_case().job())
    with pytest.raises(MethodError, match="does not join several"):
        build_method("multi_delete").unlearn(classifier_case(heads="per_modality", fusion=None).job())
    with pytest.raises(MethodError, match=r"no modality 'fim'.*film"):
        build_method("multi_delete", {"kept": "fim"}).unlearn(classifier_case().job())
    case = classifier_case()
    job = case.job()
    one = replace(job, partition=replace(job.partition, forget=job.partition.forget[:1]))
    with pytest.raises(MethodError, match="one only"):
        build_method("multi_delete").unlearn(one)
    with pytest.raises(ConfigError, match=r"(?s)decouple.*unimodal"):
        build_method("multi_delete", {"decouple": -1, "unimodal": -1})
