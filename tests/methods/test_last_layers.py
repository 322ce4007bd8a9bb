"""CF-k and EU-k: what moves, what does not, and their limits."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, TrainingError
from forgetmi.methods import build_method
from forgetmi.parts.edits.layers import layers
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "weight_decay": 0.5}
CASES = [classifier_case, language_case]


def last(case, k):
    found = layers(case.model, case.task, case.loader, case.partition.retain, device=torch.device("cpu"))
    return {name for layer in found[:k] for name in (*layer.weights, *layer.along)}


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("k", [1, 2, 9])
@pytest.mark.parametrize("make", CASES)
def test_only_the_last_k_layers_move_weights_and_statistics(make, k, name):
    """Under AdamW with weight decay, in train mode; with k = 9 the classifier's trained part holds BatchNorm layers."""
    case = make()
    before = state_of(case.model)
    model = build_method(name, {"k": k, "fit": FIT}).unlearn(case.job())
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    modules = {key.rpartition(".")[0] for key in last(case, k)}
    assert moved
    for key in moved:
        tied = make is language_case and key == "lm_head.weight"
        assert key.rpartition(".")[0] in modules or tied, key
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("make", CASES)
def test_all_layers_are_fine_tuning_and_none_is_the_original(make):
    tuned = build_method("fine_tune", {"fit": FIT}).unlearn(make().job(seed=2))
    every = build_method("cf_k", {"k": 99, "fit": FIT}).unlearn(make().job(seed=2))
    assert same_state(state_of(tuned), state_of(every))
    for name in ("cf_k", "eu_k"):
        none = build_method(name, {"k": 0, "fit": FIT}).unlearn(make().job())
        assert same_state(state_of(make().model), state_of(none))


@pytest.mark.parametrize("case", [classifier_case(heads="fused"), language_case()])
def test_all_layers_made_anew_are_retraining(case):
    """And where the norms are kept, all but they are."""
    retrained = build_method("retrain").unlearn(case.job(seed=2))
    anew = build_method("eu_k", {"k": 99, "reset_norms": True}).unlearn(case.job(seed=2))
    assert same_state(state_of(retrained), state_of(anew))
    with torch.no_grad():
        for key, parameter in case.model.named_parameters():
            if "norm" in key or "ln_" in key:
                parameter.add_(0.1)
    kept = build_method("eu_k", {"k": 99}).unlearn(case.job(seed=2))
    assert not same_state(state_of(retrained), state_of(kept))


def test_the_new_layers_do_not_depend_on_the_original():
    """Two originals that differ in the last layer only give one model."""
    case, other = classifier_case(heads="fused"), classifier_case(heads="fused")
    with torch.no_grad():
        other.model.head.weight.mul_(3.0)
        other.model.head.bias.add_(1.0)
    options = {"k": 1, "fit": FIT}
    assert same_state(
        state_of(build_method("eu_k", options).unlearn(case.job())),
        state_of(build_method("eu_k", options).unlearn(other.job())),
    )
    tuned = [build_method("cf_k", options).unlearn(c.job()) for c in (case, other)]
    assert not same_state(*map(state_of, tuned))


def test_a_checkpoint_of_another_k_is_refused(tmp_path):
    build_method("cf_k", {"k": 1, "fit": FIT}).unlearn(classifier_case().job(folder=tmp_path))
    with pytest.raises(TrainingError, match="another run"):
        build_method("cf_k", {"k": 2, "fit": FIT}).unlearn(classifier_case().job(folder=tmp_path, resume=True))


def test_a_negative_k_is_refused():
    for name in ("cf_k", "eu_k"):
        with pytest.raises(ConfigError, match="k must be >= 0"):
            build_method(name, {"k": -1})
