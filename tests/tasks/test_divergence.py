"""Divergences, errors, outcomes and other labels, worked by hand, for every kind of task."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.errors import DataError, MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.tasks.divergence import bernoulli_kl, categorical_kl
from tests.tasks.test_causal_lm import tokens
from tests.tasks.test_classification import NAN, batch, output

CLASSES, LABELS = ClassificationTask(3), ClassificationTask(2, kind="multilabel")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def by_hand(q: float, p: float) -> float:
    """KL( Bernoulli(q) || Bernoulli(p) )."""
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


def test_two_bernoullis_as_two_classes_and_as_one_label():
    """The sum over classes, not their mean: dividing by C as well is the classical slip."""
    student, teacher = 0.2, 0.7
    two = categorical_kl(torch.tensor([[logit(student), 0.0]]), torch.tensor([[logit(teacher), 0.0]]))
    one = bernoulli_kl(torch.tensor([[logit(student)]]), torch.tensor([[logit(teacher)]]))
    assert two.item() == pytest.approx(by_hand(teacher, student), rel=1e-5)
    assert one.item() == pytest.approx(by_hand(teacher, student), rel=1e-5)


@pytest.mark.parametrize("kl", [categorical_kl, bernoulli_kl])
def test_equal_models_are_at_zero_with_zero_gradient_and_no_other_is_below(kl):
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(20, 4, generator=draw) * 5
    same = target.clone().requires_grad_()
    kl(same, target).sum().backward()
    assert same.grad.abs().max() < 1e-6
    assert kl(target, target).abs().max() < 1e-6
    assert (kl(torch.randn(20, 4, generator=draw), target) > 0).all()


def test_temperature_divides_both():
    a, b = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]])
    assert categorical_kl(a, b, 4.0).item() == pytest.approx(categorical_kl(a / 4, b / 4).item(), rel=1e-6)
    assert bernoulli_kl(a, b, 4.0).item() == pytest.approx(bernoulli_kl(a / 4, b / 4).item(), rel=1e-6)


def test_a_target_that_is_certain_stays_finite():
    logits = torch.zeros(1, 3, requires_grad=True)
    value = categorical_kl(logits, torch.tensor([[-1e30, 0.0, -1e30]])).sum()
    value.backward()
    assert value.item() == pytest.approx(math.log(3)) and torch.isfinite(logits.grad).all()


def test_a_classifiers_divergence_errors_and_outcomes():
    out, target = output([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]), output([[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    some = batch([0, 1])
    kl = CLASSES.divergence(out, target, some)
    z = math.log(math.exp(2) + 2)
    assert kl.tolist() == pytest.approx([math.log(1 / 3) - (2 - 3 * z) / 3, 0.0], abs=1e-6)
    assert CLASSES.errors_of(out, some).tolist() == [0.0, 1.0]
    assert torch.exp(-CLASSES.outcomes(out)).sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert CLASSES.outcomes(out).gather(1, some.labels[:, None])[:, 0].tolist() == pytest.approx(
        CLASSES.nll_of(out, some).tolist()
    )


def test_independent_labels():
    out = output([[logit(0.9), logit(0.2)]])
    assert LABELS.errors_of(out, batch([[0.0, NAN]])).tolist() == [1.0]
    assert LABELS.errors_of(out, batch([[1.0, 1.0]])).tolist() == [0.5]
    assert torch.exp(-LABELS.outcomes(out))[0].tolist() == pytest.approx([0.9, 0.2, 0.1, 0.8], rel=1e-5)


def test_a_language_models_divergence_and_errors_are_means_over_answer_tokens():
    some = tokens([[0, 1, 2, 1]], [[-100, -100, 2, 1]])
    logits = torch.zeros(1, 4, 3)
    logits[0, 1, 2], logits[0, 2, 0] = 5.0, 5.0  # right at the first answer token, wrong at the second
    logits[0, 0], logits[0, 3] = 77.0, -77.0  # predict no answer token
    task, zero = CausalLMTask(), ModelOutput(torch.zeros(1, 4, 3))
    assert task.errors_of(ModelOutput(logits), some).tolist() == [0.5]
    both = categorical_kl(logits[0, 1:3], torch.zeros(2, 3)).mean()
    assert task.divergence(ModelOutput(logits), zero, some).tolist() == pytest.approx([both.item()])


@pytest.mark.parametrize("call", ["outcomes", "relabel", "random_labels"])
def test_a_language_model_has_no_labels_and_says_so(call):
    task = CausalLMTask()
    arguments = {
        "outcomes": lambda: task.outcomes(ModelOutput(torch.zeros(1, 2, 3))),
        "relabel": lambda: task.relabel(tokens([[0, 1]], [[0, 1]]), torch.tensor([1])),
        "random_labels": lambda: task.random_labels(torch.tensor([1]), torch.Generator(), exclude_true=True),
    }
    with pytest.raises(MethodError, match="causal_lm"):
        arguments[call]()


def test_random_classes_are_uniform_and_reproducible():
    labels = torch.zeros(30_000, dtype=torch.long)
    drawn = {
        exclude: CLASSES.random_labels(labels, torch.Generator().manual_seed(1), exclude_true=exclude)
        for exclude in (True, False)
    }
    assert (drawn[True] != labels).all()
    for exclude, chances in ((True, [0, 0.5, 0.5]), (False, [1 / 3] * 3)):
        assert (drawn[exclude].bincount(minlength=3) / 30_000).tolist() == pytest.approx(chances, abs=0.01)
    again = CLASSES.random_labels(labels, torch.Generator().manual_seed(1), exclude_true=False)
    assert torch.equal(again, drawn[False])


def test_random_independent_labels_keep_unknown_ones_and_change_one_at_least():
    labels = torch.tensor([[0.0, 1.0], [1.0, NAN], [NAN, NAN]]).repeat(500, 1)
    drawn = LABELS.random_labels(labels, torch.Generator().manual_seed(2), exclude_true=True)
    assert torch.equal(drawn.isnan(), labels.isnan())
    known = ~labels.isnan()
    changed = (drawn != labels) & known
    assert changed.any(dim=1)[known.any(dim=1)].all()
    # Of (flip, flip), (flip, stay), (stay, flip) each is as likely: 2/3 of each label's coins are flipped.
    assert changed[0::3].float().mean(dim=0).tolist() == pytest.approx([2 / 3, 2 / 3], abs=0.06)
    free = LABELS.random_labels(labels, torch.Generator().manual_seed(2), exclude_true=False)
    assert ((free != labels) & known)[0::3].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_a_relabelled_batch_is_another_and_a_wrong_form_is_refused():
    some = batch([0, 1])
    changed = CLASSES.relabel(some, torch.tensor([2, 2]))
    assert changed.labels.tolist() == [2, 2] and some.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="3 labels for 2 records"):
        CLASSES.relabel(some, torch.tensor([1, 1, 1]))
    with pytest.raises(DataError, match="not class indices"):
        CLASSES.relabel(some, torch.tensor([0.5, 0.5]))
