"""Spaces in which records are synthesised, and plans that mix them with real ones."""

from __future__ import annotations

import math

import pytest
import torch

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.parts.selection.synthetic import (
    SYNTHETIC,
    InputSpace,
    JointSpace,
    MixedPlan,
    Rows,
    Synthetic,
    UnimodalSpace,
    answers,
    choose_space,
    joined,
    nearest,
    scale_of,
)
from forgetmi.training.plans import ShuffledPlan
from tests.tiny import classifier_case


@pytest.fixture
def case():
    return classifier_case()


def test_real_rows_give_the_originals_own_answers(case):
    """Whatever is missing: what the model says of a record's row is what it says of the record."""
    job = case.job()
    indices = case.partition.train
    with torch.no_grad():
        expected = torch.cat([case.model(b).logits for b in case.loader.batches(indices, 64)])
    joint = JointSpace(job.reference)
    rows = joint.rows(case.loader, indices)
    assert (len(rows), rows.left_out) == (len(indices), 0)
    assert torch.allclose(answers(joint, job.reference, rows.values, rows.conditions), expected, atol=1e-6)

    unimodal = UnimodalSpace(job.reference, {"film": 8, "note": 8})
    rows = unimodal.rows(case.loader, indices)
    has = torch.tensor([[case.dataset[i].value(m) is not None for m in ("film", "note")] for i in indices])
    some = has.any(dim=1)
    assert rows.left_out == int((~some).sum()) == 1
    assert torch.equal(rows.conditions.bool(), has[some])
    assert torch.allclose(answers(unimodal, job.reference, rows.values, rows.conditions), expected[some], atol=1e-6)
    noisy = rows.values + (unimodal.masked(torch.ones_like(rows.values), rows.conditions) == 0)
    assert torch.equal(
        answers(unimodal, job.reference, noisy, rows.conditions),
        answers(unimodal, job.reference, rows.values, rows.conditions),
    ), "what stands in a missing modality's place was looked at"

    inputs = InputSpace(case.loader, "film")
    rows = inputs.rows(case.loader, indices)
    assert (len(rows), rows.left_out) == (int(has[:, 0].sum()), int((~has[:, 0]).sum()))
    only = case.loader.restricted_to({i: case.dataset[i].keep_only(["film"]) for i in indices})
    having = [i for i, there in zip(indices, has[:, 0].tolist(), strict=True) if there]
    with torch.no_grad():
        expected = torch.cat([case.model(b).logits for b in only.batches(having, 64)])
    assert torch.allclose(answers(inputs, job.reference, rows.values, rows.conditions), expected, atol=1e-6)


def test_which_space_is_chosen(case):
    job = case.job()

    def chosen(name="auto", modality=None, loader=case.loader, reference=job.reference):
        return choose_space(name, modality, loader, reference, case.partition.retain).name

    assert chosen() == "joint"
    assert chosen(modality="film") == "inputs"
    assert chosen("inputs") == "inputs"  # only the films have a generator
    late = classifier_case(heads="per_modality", fusion=None)
    assert chosen(reference=late.job().reference) == "unimodal"
    with pytest.raises(MethodError, match="behind its fusion"):
        chosen("joint", reference=late.job().reference)
    with pytest.raises(MethodError, match="1 suit \\(film\\)"):
        chosen("inputs", modality="note")


def test_a_model_of_one_modality_gets_inputs_and_one_that_cannot_be_split_is_refused(case):
    from forgetmi.batch import Loader
    from forgetmi.training.reference import Reference

    class Whole(torch.nn.Module):
        def forward(self, batch: Batch) -> ModelOutput:
            return ModelOutput(torch.zeros(len(batch), 3))

    whole = Reference(Whole(), case.task, torch.device("cpu"))
    films = Loader(case.dataset, {"film": case.loader.modalities["film"]})
    assert choose_space("auto", None, films, whole, case.partition.retain).name == "inputs"
    with pytest.raises(MethodError, match="a Whole like this one cannot"):
        choose_space("auto", None, case.loader, whole, case.partition.retain)


def test_scale_by_hand_over_what_is_there(case):
    space = UnimodalSpace(case.job().reference, {"film": 1, "note": 1})
    rows = Rows(torch.tensor([[1.0, 5.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]), 0)
    mean, sd = scale_of(space, rows)
    assert mean.tolist() == [2.0, 5.0] and sd.tolist() == [1.0, 1.0]  # one note: nothing varies
    images = Rows(torch.rand(2, 1, 8, 8), torch.empty(2, 0), 0)
    assert [part.item() for part in scale_of(InputSpace(case.loader, "film"), images)] == [0.0, 1.0]


def test_nearest_by_hand():
    rows, others = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    assert nearest(rows, others).tolist() == pytest.approx([5 / math.sqrt(2), 0.0])
    assert nearest(others, others, same=True).tolist() == pytest.approx([5 / math.sqrt(2)] * 2)
    assert nearest(others[:1], others[:1], same=True).tolist() == [math.inf]
    many = torch.rand(1500, 1, 4, 4)
    direct = (many[:, None] - many[None, :40]).square().mean(dim=(2, 3, 4)).sqrt().min(dim=1).values
    assert torch.allclose(nearest(many, many[:40]).float(), direct, atol=1e-6)


def test_all_sets_are_shuffled_together_and_each_record_comes_once(case):
    made = joined([
        Synthetic(torch.arange(n)[:, None] + 100.0 * k, torch.empty(n, 0), torch.full((n,), k))
        for k, n in enumerate((5, 0, 7))
    ])  # fmt: skip
    assert made is not None and len(made) == 12
    assert joined([]) is None
    first = len(case.dataset)
    real = case.partition.train
    plan = ShuffledPlan(case.loader, (*real, *range(first, first + 12)), batch_size=6, seed=0)
    mixed = MixedPlan(plan, made, first)
    steps = mixed.steps(0)
    assert sorted(i for step in steps for i in step["records"]) == sorted((*real, *range(first, first + 12)))
    assert steps != mixed.steps(1)
    loaded = [mixed.load(step, 0) for step in steps]
    assert sum(len(batches) == 2 for batches in loaded) > 2
    for step, batches in zip(steps, loaded, strict=True):
        places = [i - first for i in step["records"] if i >= first]
        others = [i for i in step["records"] if i < first]
        assert (SYNTHETIC in batches, "records" in batches) == (bool(places), bool(others))
        if others:
            assert batches["records"].indices.tolist() == others
        if places:
            assert batches[SYNTHETIC].labels.tolist() == [0 if place < 5 else 2 for place in places]
            expected = [place if place < 5 else 200 + place - 5 for place in places]
            assert batches[SYNTHETIC].inputs["rows"][:, 0].tolist() == expected
