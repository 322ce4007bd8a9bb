"""Inverted labels: never the own one, by hand, for classes and for independent labels."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import MethodError
from forgetmi.parts.selection.inverted import inverted_labels, likeliest_labels
from forgetmi.tasks.classification import ClassificationTask

RULES = ("random_other", "complement", "least_likely", "runner_up")
NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def invert(rule, labels, logits, kind="multiclass", seed=0):
    task = ClassificationTask(logits.shape[1], kind=kind)
    return inverted_labels(rule, task, labels, logits, generator(seed))


@pytest.mark.parametrize("rule", RULES)
def test_no_label_stays_what_it_is(rule):
    labels = torch.arange(4).repeat(50)
    logits = torch.randn(200, 4, generator=generator(1))
    found = invert(rule, labels, logits)
    assert not (found == labels).any()
    assert found.dtype == labels.dtype and found.min() >= 0 and found.max() <= 3
    assert torch.equal(found, invert(rule, labels, logits))


def test_by_hand():
    labels = torch.tensor([0, 2, 1])
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [9.0, 1.0, 2.0, 3.0], [9.0, 1.0, 2.0, 3.0]])
    assert invert("complement", labels, logits).tolist() == [3, 1, 2]
    assert invert("runner_up", labels, logits).tolist() == [3, 0, 0]
    assert invert("least_likely", labels, logits).tolist() == [1, 1, 2]  # the last one's own label is the least likely


def test_complement_is_an_involution_and_refuses_a_middle_class():
    labels = torch.arange(6)
    logits = torch.zeros(6, 6)
    assert torch.equal(invert("complement", invert("complement", labels, logits), logits), labels)
    with pytest.raises(MethodError, match="the middle one of 3 classes"):
        invert("complement", torch.tensor([0]), torch.zeros(1, 3))


def test_random_others_are_uniform_and_of_their_generator():
    labels, logits = torch.zeros(6000, dtype=torch.long), torch.zeros(6000, 4)
    found = invert("random_other", labels, logits)
    assert torch.allclose(found.bincount(minlength=4) / 6000, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), atol=0.03)
    assert not torch.equal(found, invert("random_other", labels, logits, seed=1))


@pytest.mark.parametrize("rule", RULES)
def test_independent_labels_differ_somewhere_and_unknown_ones_stay_unknown(rule):
    labels = torch.randint(0, 2, (200, 3), generator=generator(1)).float()
    labels[torch.rand(200, 3, generator=generator(2)) < 0.3] = NAN
    known = ~labels.isnan()
    logits = torch.randn(200, 3, generator=generator(3))
    found = invert(rule, labels, logits, "multilabel")
    assert torch.equal(found.isnan(), ~known)
    assert torch.equal(((found != labels) & known).any(dim=1), known.any(dim=1))
    assert set(found[known].tolist()) <= {0.0, 1.0}


def test_independent_labels_by_hand():
    labels = torch.tensor([[1.0, 0.0, NAN], [1.0, 0.0, NAN], [0.0, 1.0, NAN]])
    logits = torch.tensor([[2.0, -0.5, 0.1], [-2.0, 0.5, 0.1], [2.0, -0.5, 0.1]])
    same = {"equal_nan": True}
    flipped = torch.tensor([[0.0, 1.0, NAN], [0.0, 1.0, NAN], [1.0, 0.0, NAN]])
    assert torch.allclose(invert("complement", labels, logits, "multilabel"), flipped, **same)
    # The first record's labels are what the model thinks: the one that it doubts most differs.
    likely = torch.tensor([[1.0, 1.0, NAN], [0.0, 1.0, NAN], [1.0, 0.0, NAN]])
    assert torch.allclose(invert("runner_up", labels, logits, "multilabel"), likely, **same)
    # The other two records' labels are the opposite of what the model thinks.
    unlikely = torch.tensor([[0.0, 1.0, NAN], [1.0, 1.0, NAN], [0.0, 0.0, NAN]])
    assert torch.allclose(invert("least_likely", labels, logits, "multilabel"), unlikely, **same)


def test_likeliest_labels_have_the_form_asked_for():
    logits = torch.tensor([[2.0, -1.0], [-3.0, -1.0]])
    assert likeliest_labels(logits, torch.tensor([0])).tolist() == [0, 1]
    assert likeliest_labels(logits, torch.zeros(1, 2)).tolist() == [[1.0, 0.0], [0.0, 0.0]]
