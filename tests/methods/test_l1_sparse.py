"""l1-sparse: its schedule, its penalty, and fine-tuning as its limit."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.parts.objectives.sparsity import l1_norm, l1_weight
from tests.tiny import classifier_case, language_case, same_state, state_of

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "mode": "eval", "batch_size": 100}


def test_the_schedule_by_hand():
    weights = [l1_weight(0.8, epoch, 4, "decreasing") for epoch in range(6)]
    assert weights == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    assert [l1_weight(0.8, e, 4, "increasing") for e in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.0])
    assert [l1_weight(0.8, e, 2, "constant") for e in range(3)] == [0.8, 0.8, 0.0]
    for epoch in range(3):
        assert l1_weight(0.8, epoch, 0, "decreasing") == l1_weight(0.8, epoch, -1, "decreasing") == 0.0


def test_the_norm_by_hand_and_its_gradient_at_zero():
    a = torch.tensor([[1.0, -2.0], [0.0, 3.0]], requires_grad=True)
    norm = l1_norm([a, torch.tensor([-0.5])])
    norm.backward()
    assert float(norm.detach()) == 6.5 and a.grad.tolist() == [[1.0, -1.0], [0.0, 1.0]]


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_without_a_penalty_it_is_fine_tuning_exactly(make):
    fit = {"epochs": 2, "batch_size": 8, "lr": 1e-2}
    tuned = state_of(build_method("fine_tune", {"fit": fit}).unlearn(make().job()))
    for options in ({"alpha": 0.0}, {"alpha": 0.1, "free_epochs": 2}):
        model = build_method("l1_sparse", {**options, "fit": fit}).unlearn(make().job())
        assert same_state(tuned, state_of(model))


def test_a_step_adds_alpha_times_the_sign_and_the_weight_falls_with_the_epochs():
    case, alpha, lr = classifier_case(), 0.01, 0.01

    def after(alpha, epochs, free):
        options = {"alpha": alpha, "free_epochs": free, "fit": {**SGD, "lr": lr, "epochs": epochs}}
        return dict(build_method("l1_sparse", options).unlearn(case.job()).named_parameters())

    plain, penalised = after(0.0, 1, 0), after(alpha, 1, 0)
    for name, parameter in penalised.items():
        expected = plain[name] - lr * alpha * case.model.get_parameter(name).sign()
        assert torch.allclose(parameter, expected, atol=1e-6), name
    # Two epochs, the second at half the weight; a weight that the loss does not reach moves by the penalty alone.
    name = next(n for n in penalised if n.startswith("unimodal_heads") and n.endswith("weight"))
    start, end = case.model.get_parameter(name), after(alpha, 2, 0)[name]
    far = start.abs() > 0.01
    assert torch.allclose((start - end)[far], 1.5 * lr * alpha * start.sign()[far], atol=1e-6)


def test_a_larger_penalty_leaves_smaller_weights():
    case = classifier_case()
    norms = []
    for alpha in (0.0, 0.003, 0.03):
        options = {"alpha": alpha, "fit": {"epochs": 3, "batch_size": 8, "lr": 1e-2}}
        norms.append(float(l1_norm(build_method("l1_sparse", options).unlearn(case.job()).parameters()).detach()))
    assert norms[0] > norms[1] > norms[2]


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)alpha.*free_epochs.*measures no validation"):
        build_method("l1_sparse", {"alpha": -1, "free_epochs": -1, "fit": {"select": "best"}})
