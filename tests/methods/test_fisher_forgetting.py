"""Fisher forgetting: the variance by hand, and that much Fisher information means little noise."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.parts.edits.importance import squared_gradients
from forgetmi.parts.edits.layers import layers
from forgetmi.parts.edits.noise import noise_variance
from tests.tiny import classifier_case, language_case, same_state, state_of

CPU = torch.device("cpu")


def test_the_variance_by_hand():
    one = noise_variance(torch.tensor([0.5, 4.0, 0.0]), alpha=2.0, cap=100.0)
    assert one.tolist() == pytest.approx([4.0, 0.5, 200.0])
    two = noise_variance(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), alpha=1.0, cap=3.0)
    assert two.tolist() == [pytest.approx([1.5, 1.5]), pytest.approx([2.0, 2.0])]  # means over what comes in
    kernel = torch.rand(2, 3, 3, 3)
    assert noise_variance(kernel, alpha=1.0, cap=3.0).shape == kernel.shape


@pytest.mark.parametrize("case", [classifier_case(), language_case()])
def test_no_scale_is_no_noise(case):
    method = build_method("fisher_forgetting", {"alpha": 0.0, "targets": "true"})
    assert same_state(state_of(case.model), state_of(method.unlearn(case.job())))


def test_the_noise_has_the_stated_deviation():
    """Over many seeds; the last layer's and one-dimensional parameters' variance is ten times as large."""
    case, alpha, retain = classifier_case(), 1e-4, classifier_case().partition.retain
    fisher = squared_gradients(case.model, case.task, case.loader, retain, batch_size=8, device=CPU, targets="model")
    last = layers(case.model, case.task, case.loader, retain, device=CPU)[0].weights
    runs = [
        dict(build_method("fisher_forgetting", {"alpha": alpha}).unlearn(case.job(seed=k)).named_parameters())
        for k in range(6)
    ]
    assert last == ("head.weight", "head.bias")
    some = (
        "head.weight",
        "head.bias",
        "projections.film.weight",
        "projections.film.bias",
        "encoders.note.tokens.weight",
    )
    for name in some:
        noise = torch.stack([(run[name] - case.model.get_parameter(name)).detach() for run in runs])
        variance = noise_variance(fisher[name], alpha=alpha, cap=1e2 if name in last else 1e3)
        variance = variance * (10 if name in last or noise.ndim <= 2 else 1)
        ratio = float((noise.square() / variance).mean())
        spread = (2 / noise.numel()) ** 0.5
        assert abs(ratio - 1) < 5 * spread, name
        assert noise.std() > 0


def test_a_cap_on_the_deviation():
    case = classifier_case()
    model = build_method("fisher_forgetting", {"alpha": 1.0, "max_sd": 1e-3}).unlearn(case.job())
    largest = max(float((p - case.model.get_parameter(n)).detach().abs().max()) for n, p in model.named_parameters())
    assert 1e-3 < largest < 6e-3


def test_too_many_targets_are_refused_and_the_true_ones_are_a_way_out():
    with pytest.raises(MethodError, match=r"causal_lm.*every possible target"):
        build_method("fisher_forgetting").unlearn(language_case().job())
    with pytest.raises(ConfigError, match=r"(?s)alpha.*cap.*max_sd.*batch_size"):
        build_method("fisher_forgetting", {"alpha": -1, "cap": 0, "max_sd": 0, "batch_size": 0})
