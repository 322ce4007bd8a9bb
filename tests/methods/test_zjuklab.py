"""ZJUKLAB: what each adapter minimises, and how they are merged."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "lr": 1e-2, "mode": "eval"}
ONE = {"npo": [0.4], "kl": [0.4], "nll": [0.2], "batch_sizes": [4], "weights": [1.0], "density": 1.0}
LORA = {"r": 2, "alpha": 4.0}


def lm_case():
    """A :class:`CausalLM` without an adapter."""
    case = adapter_case()
    case.lora = None
    return case


def logits(model, case):
    tokens = case.loader.batch(case.partition.forget).inputs["tokens"]
    with torch.no_grad():
        return model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits


@pytest.mark.parametrize("merge", ["factors", "products"])
@pytest.mark.parametrize("make", [language_case, lm_case])
def test_of_one_adapter_at_full_density_it_is_that_adapter(make, merge):
    case = make()
    method = build_method("zjuklab", {**ONE, "merge": merge, "fit": FIT, "lora": LORA})
    adapted = method._trained(case.job(seed=1), 0).eval()
    model = method.unlearn(case.job(seed=1))
    assert torch.allclose(logits(model, case), logits(adapted, case), atol=1e-5)
    assert not torch.allclose(logits(model, case), logits(case.model, case), atol=1e-3)
    assert state_of(model).keys() == state_of(case.model).keys(), "no adapter is left"
    half = build_method("zjuklab", {**ONE, "merge": merge, "weights": [0.5], "fit": FIT, "lora": LORA})
    for name, tensor in state_of(half.unlearn(case.job(seed=1))).items():
        first = state_of(case.model)[name]
        assert torch.allclose(tensor - first, 0.5 * (state_of(model)[name] - first), atol=1e-5), name


@pytest.mark.parametrize("merge", ["factors", "products"])
def test_two_adapters_are_trained_apart_and_what_they_share_stays_as_it_was(merge):
    case = lm_case()
    before = state_of(case.model)
    job = case.job(seed=1)
    model = build_method("zjuklab", {"merge": merge, "fit": FIT, "lora": LORA}).unlearn(job)
    fits = [event for event in job.trainer.log.events if event["event"] == "fit_finished"]
    assert [event["fit"] for event in fits] == ["zjuklab-0", "zjuklab-1"]
    assert [event["steps"] for event in fits] == [4, 2]  # six records by fours, then all at once; two epochs
    assert same_state(before, state_of(case.model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert same_state(before, state_of(case.model)), "the result shares the original's memory"
    none = build_method("zjuklab", {"merge": merge, "density": 0.0, "fit": FIT, "lora": LORA}).unlearn(case.job(seed=1))
    assert same_state(before, state_of(none))


@pytest.mark.parametrize("over", ["batch", "sequences"])
def test_at_the_start_npo_and_the_divergence_are_what_they_must_be(over):
    case = language_case()
    job = case.job(seed=1)
    options = {**ONE, "npo_over": over, "beta": 0.5, "fit": {**FIT, "epochs": 1, "lr": 0.0}, "lora": LORA}
    build_method("zjuklab", options).unlearn(job)
    (epoch,) = [event for event in job.trainer.log.events if event["event"] == "epoch"]
    assert epoch["npo"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-5)
    assert epoch["kl"] == pytest.approx(0.0, abs=1e-6)
    assert epoch["loss"] == pytest.approx(0.4 * epoch["npo"] + 0.4 * epoch["kl"] + 0.2 * epoch["nll"], rel=1e-5)


def test_what_cannot_be_done_is_said():
    with pytest.raises(MethodError, match="beside an adapter they are frozen"):
        build_method("zjuklab").unlearn(adapter_case().job())
    with pytest.raises(MethodError, match="cannot serve the task 'classification'"):
        build_method("zjuklab").unlearn(classifier_case().job())
    with pytest.raises(ConfigError, match=r"(?s)an entry for each adapter.*must be >= 0.*density.*beta"):
        build_method("zjuklab", {"npo": [-1.0], "density": 2, "beta": 0})
