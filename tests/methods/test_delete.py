"""DELETE: its target by hand."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.errors import MethodError
from forgetmi.methods import build_method
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.classification import ClassificationTask
from tests.tasks.test_causal_lm import tokens
from tests.tasks.test_classification import batch, output
from tests.tiny import classifier_case, language_case


def test_the_target_by_hand():
    """Probabilities .5, .3, .2 with the second one true: .5 / .7, 0, .2 / .7."""
    task, some = ClassificationTask(3), batch([1])
    teacher = output([[math.log(0.5), math.log(0.3), math.log(0.2)]])
    target = task.without_truth(teacher, some)
    assert target.logits.softmax(dim=1)[0].tolist() == pytest.approx([5 / 7, 0.0, 2 / 7])
    uniform = torch.zeros(1, 3, requires_grad=True)
    kl = task.divergence(ModelOutput(uniform), target, some)
    assert kl.tolist() == pytest.approx([math.log(3) + 5 / 7 * math.log(5 / 7) + 2 / 7 * math.log(2 / 7)])
    kl.sum().backward()
    assert uniform.grad[0].tolist() == pytest.approx([1 / 3 - 5 / 7, 1 / 3, 1 / 3 - 2 / 7])
    half = ModelOutput(teacher.logits.half())
    assert torch.isfinite(task.divergence(ModelOutput(uniform), task.without_truth(half, some), some, 0.5)).all()


def test_a_language_models_answer_tokens_only():
    some = tokens([[0, 1, 2, 1]], [[-100, -100, 2, 1]])
    target = CausalLMTask().without_truth(ModelOutput(torch.zeros(1, 4, 3)), some).logits.softmax(-1)[0]
    assert target[0].tolist() == pytest.approx([1 / 3] * 3) and target[3].tolist() == pytest.approx([1 / 3] * 3)
    assert target[1].tolist() == [0.5, 0.5, 0.0] and target[2].tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_the_truth_becomes_unlikely_and_the_rest_of_the_opinion_stays(make):
    case = make()
    model = build_method("delete", {"fit": {"epochs": 60, "lr": 2e-2, "mode": "eval"}}).unlearn(case.job())
    some = case.loader.batch(case.partition.forget)
    with torch.no_grad():
        before, after = case.task.output(case.model, some), case.task.output(model, some)
        assert (case.task.nll_of(after, some) > case.task.nll_of(before, some) + 0.3).all()
        target = case.task.without_truth(before, some)
        start, end = (case.task.divergence(out, target, some).mean() for out in (before, after))
    assert end < 0.3 * start


def test_independent_labels_are_refused():
    task = ClassificationTask(2, kind="multilabel")
    with pytest.raises(MethodError, match="independent labels"):
        task.without_truth(output([[0.0, 0.0]]), batch([[1.0, 0.0]]))
