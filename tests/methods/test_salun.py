"""SalUn: which weights it chooses, its limits, and that it masks any method."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import METHODS, build_method
from tests.tiny import classifier_case, killed_after, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 13, "lr": 1e-2, "weight_decay": 0.5}


def saliency(case):
    """|gradient of the summed loss| of the forget set, in eval mode."""
    model = case.model.eval()
    loss = sum(case.task.loss(model, case.loader.batch([i])) for i in case.partition.forget)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
    return {name: gradient.abs() for name, gradient in zip(names, found, strict=True)}


@pytest.mark.parametrize("method", ["random_labels", "gradient_ascent", "forget_mi", "scrub_r", "eu_k"])
def test_every_weight_is_the_method_and_none_is_the_original(method):
    case = classifier_case()
    options = {"inner": method, "options": {"fit": {**FIT, "mode": "frozen_batchnorm"}}}
    alone = build_method(method, options["options"]).unlearn(case.job(seed=3))
    every = build_method("salun", {**options, "share": 1.0}).unlearn(case.job(seed=3))
    assert same_state(state_of(alone), state_of(every))
    none = build_method("salun", {**options, "share": 0.0}).unlearn(case.job(seed=3))
    assert same_state(state_of(case.model), state_of(none))


def test_the_entries_that_move_are_those_of_the_largest_summed_gradients():
    case = classifier_case()
    scores = saliency(case)
    flat = torch.cat([s.flatten() for s in scores.values()])
    threshold = flat.sort(descending=True).values[round(0.3 * len(flat)) - 1]
    model = build_method("salun", {"share": 0.3, "options": {"fit": FIT}}).unlearn(case.job())
    moved = inside = 0
    for name, parameter in model.named_parameters():
        changed = parameter != case.model.get_parameter(name)
        assert not (changed & (scores[name] < threshold * (1 - 1e-4))).any(), name
        moved += int(changed.sum())
        inside += int((scores[name] > threshold * (1 + 1e-4)).sum())
    assert 0.9 * inside < moved <= round(0.3 * len(flat))


def test_records_that_pull_apart_cancel_in_the_sum_and_not_per_record():
    case = classifier_case()

    def moved(kind):
        options = {"share": 0.3, "saliency": kind, "options": {"fit": FIT}}
        model = build_method("salun", options).unlearn(case.job())
        return torch.cat([(p != case.model.get_parameter(n)).flatten() for n, p in model.named_parameters()])

    assert not torch.equal(moved("sum"), moved("per_record"))


def test_the_mask_does_not_depend_on_its_batch_size():
    case = classifier_case()
    models = [
        build_method("salun", {"share": 0.3, "batch_size": size, "options": {"fit": FIT}}).unlearn(case.job())
        for size in (1, 32)
    ]
    states = [state_of(model) for model in models]
    assert all(torch.allclose(states[0][k].float(), states[1][k].float(), atol=1e-5) for k in states[0])


def test_a_language_model_with_a_method_that_serves_it():
    case = language_case()
    model = build_method("salun", {"inner": "npo", "options": {"fit": FIT}}).unlearn(case.job())
    assert not same_state(state_of(case.model), state_of(model))
    with pytest.raises(MethodError, match="random_labels cannot serve the task 'causal_lm'"):
        build_method("salun").unlearn(language_case().job())


def test_a_killed_run_resumes_bit_identically(tmp_path):
    case = classifier_case()
    method = build_method("salun", {"options": {"fit": {**FIT, "checkpoint_every": 1}}})
    unbroken = method.unlearn(case.job(seed=3))
    with killed_after(2):
        method.unlearn(case.job(seed=3, folder=tmp_path))
    assert same_state(state_of(unbroken), state_of(method.unlearn(case.job(seed=3, folder=tmp_path, resume=True))))


def test_wrong_options_are_refused_all_at_once_those_of_the_masked_method_too():
    with pytest.raises(ConfigError, match=r"(?s)share must be.*batch_size.*unknown option 'ordre'"):
        build_method("salun", {"share": 2.0, "batch_size": 0, "options": {"ordre": 1}})
    with pytest.raises(ConfigError, match="unknown method"):
        build_method("salun", {"inner": "randon_labels"})
    with pytest.raises(ConfigError, match="nothing to mask"):
        build_method("salun", {"inner": "retrain"})
    assert "salun" in METHODS
