"""Likelihoods and training losses of classifiers, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.models.output import ModelOutput
from forgetmi.tasks import build_task
from forgetmi.tasks.classification import ClassificationTask

NAN = float("nan")


def batch(labels, present=None, studies=None) -> Batch:
    labels = None if labels is None else torch.as_tensor(labels)
    n = 0 if labels is None else len(labels)
    studies = torch.arange(n) if studies is None else torch.tensor(studies)
    return Batch({}, present or {}, labels, torch.arange(100, 100 + n), studies)


def output(logits, **more) -> ModelOutput:
    return ModelOutput(torch.as_tensor(logits, dtype=torch.float32), **more)


def model_of(result: ModelOutput):
    return lambda batch: result


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_multiclass_nll_by_hand(kind):
    task = ClassificationTask(3, kind=kind)
    # Probabilities 1/2, 1/4, 1/4 and 1/3 each.
    logits = [[math.log(2.0), 0.0, 0.0], [5.0, 5.0, 5.0]]
    values = task.nll_of(output(logits), batch([0, 2]))
    assert values.tolist() == pytest.approx([math.log(2.0), math.log(3.0)], rel=1e-6)
    assert float(task.loss(model_of(output(logits)), batch([0, 2]))) == pytest.approx(math.log(6.0) / 2, rel=1e-6)


def test_multilabel_nll_by_hand_and_unknown_labels_count_for_nothing():
    task = ClassificationTask(3, kind="multilabel")
    logit = math.log(3.0)  # probability 3/4
    logits = torch.tensor([[logit, -logit, 0.0], [logit, 9.0, -9.0], [1.0, 2.0, 3.0]], requires_grad=True)
    labels = [[1.0, 1.0, 0.0], [0.0, NAN, NAN], [NAN, NAN, NAN]]
    values = task.nll_of(ModelOutput(logits), batch(labels))
    by_hand = [math.log(4 / 3) + math.log(4) + math.log(2), math.log(4), 0.0]
    assert values.tolist() == pytest.approx(by_hand, rel=1e-6)
    values.sum().backward()
    unknown = torch.tensor(labels).isnan()
    assert (logits.grad[unknown] == 0).all() and (logits.grad[~unknown] != 0).all()


def test_large_logits_in_half_precision_stay_finite():
    task = ClassificationTask(2)
    logits = ModelOutput(torch.tensor([[6e4, -6e4]], dtype=torch.float16))
    assert task.nll_of(logits, batch([1])).tolist() == pytest.approx([119_936.0], rel=1e-3)  # beyond float16


def test_row_6_labels_of_shape_n_1_are_refused_and_never_broadcast():
    for task, labels in (
        (ClassificationTask(3), [[0], [2]]),
        (ClassificationTask(3), [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),  # would be read as class probabilities
        (ClassificationTask(3), [0.0, 2.0]),
        (ClassificationTask(3, kind="multilabel"), [[1.0], [0.0]]),
        (ClassificationTask(3, kind="multilabel"), [1.0, 0.0]),
    ):
        for check in (task.check_labels, lambda b, t=task: t.nll_of(output(torch.zeros(2, 3)), b)):
            with pytest.raises(DataError, match="labels"):
                check(batch(labels))


def test_perfect_predictions_have_loss_zero_whatever_the_class():
    """Row 6: the published evaluation scores perfect predictions by the share of class 0."""
    labels = torch.tensor([0, 1, 2, 2, 1, 2])
    values = ClassificationTask(3).nll_of(output(100.0 * F.one_hot(labels)), batch(labels))
    assert values.max() < 1e-6


@pytest.mark.parametrize("label", [3, -1, -100])
def test_a_label_out_of_range_is_named_and_never_ignored(label):
    """-100 is torch's silent ignore index: such a record would have loss 0."""
    task, wrong = ClassificationTask(3), batch([0, label, 1])
    for check in (task.check_labels, lambda b: task.nll_of(output(torch.zeros(3, 3)), b)):
        with pytest.raises(DataError, match=f"the first is {label}") as caught:
            check(wrong)
        assert "position 101" in caught.value.where and caught.value.expected == "0..2"


def test_an_uncertain_label_of_minus_one_is_refused():
    task = ClassificationTask(2, kind="multilabel")
    task.check_labels(batch([[0.0, NAN], [1.0, 0.0]]))
    with pytest.raises(DataError, match=r"the first is \[1\.0, -1\.0\]"):
        task.check_labels(batch([[0.0, NAN], [1.0, -1.0]]))


def test_missing_labels_are_refused():
    with pytest.raises(DataError, match="no label"):
        ClassificationTask(3).nll_of(output(torch.zeros(1, 3)), batch(None))


def test_wrong_tasks_are_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        ClassificationTask(1)
    ClassificationTask(1, kind="multilabel")
    with pytest.raises(ConfigError, match="no multilabel form"):
        ClassificationTask(4, kind="multilabel", loss_kind="published")
    with pytest.raises(ConfigError) as caught:
        build_task("classification", {"n_classes": "many", "kid": "ordinal", "kind": "nominal"})
    assert len(caught.value.problems) == 3 and "Did you mean 'kind'" in str(caught.value)


# Losses over several heads


def draw(n=6, classes=4, dim=5, seed=0, missing=True) -> tuple[ModelOutput, Batch]:
    g = torch.Generator().manual_seed(seed)
    names = ("picture", "words")
    present = {name: torch.ones(n, dtype=torch.bool) for name in names}
    if missing:
        present["picture"][2], present["words"][4] = False, False
    shown = {name: present[name][:, None] for name in names}
    unimodal = {name: torch.randn(n, dim, generator=g) * shown[name] for name in names}
    logits = {name: torch.randn(n, classes, generator=g) * shown[name] for name in names}
    labels = torch.randint(classes, (n,), generator=g)
    whole = ModelOutput(torch.randn(n, classes, generator=g), unimodal, None, logits, present)
    return whole, batch(labels, present, studies=[0, 0, 1, 2, 3, 3][:n])


def slow_published_loss(result: ModelOutput, records: Batch) -> float:
    """CE of the picture's head + CE of the words' head + the ranking loss, pair by pair in Python numbers."""
    n, total = len(records), 0.0
    for name, logits in result.unimodal_logits.items():
        losses = [
            -math.log(math.exp(logits[i][records.labels[i]]) / sum(math.exp(v) for v in logits[i]))
            for i in range(n)
            if result.present[name][i]
        ]
        total += sum(losses) / len(losses)
    x, y = result.unimodal["picture"].tolist(), result.unimodal["words"].tolist()
    usable = [bool(result.present["picture"][i] and result.present["words"][i]) for i in range(n)]

    def s(i, j):
        return sum(a * b for a, b in zip(x[i], y[j], strict=True))

    pairs = []
    for i in range(n):
        j = (i + 1) % n
        if not (usable[i] and usable[j]):
            continue
        margin = max(0.5, abs(int(records.labels[i]) - int(records.labels[j])))
        if records.studies[i] == records.studies[j]:
            margin = 0.0
        pairs.append(max(0.0, margin + s(i, j) - s(i, i)) + max(0.0, margin + s(j, i) - s(i, i)))
    return total + (sum(pairs) / len(pairs) if pairs else 0.0)


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_published_loss_is_two_cross_entropies_and_the_ranking_pair_by_pair(seed, missing):
    result, records = draw(seed=seed, missing=missing)
    task = ClassificationTask(4, kind="ordinal", loss_kind="published")
    assert float(task.loss(model_of(result), records)) == pytest.approx(slow_published_loss(result, records), rel=1e-5)


def test_the_published_loss_of_one_record_is_its_cross_entropies():
    result, records = draw(n=1, missing=False)
    task = ClassificationTask(4, loss_kind="published")
    assert float(task.loss(model_of(result), records)) == pytest.approx(slow_published_loss(result, records), rel=1e-5)


def test_per_modality_is_the_mean_of_the_heads_over_records_that_have_them():
    result, records = draw()
    value = float(ClassificationTask(4, loss_kind="per_modality").loss(model_of(result), records))
    heads = [
        F.cross_entropy(result.unimodal_logits[name][mask], records.labels[mask])
        for name, mask in result.present.items()
    ]
    assert value == pytest.approx(float(sum(heads)) / 2, rel=1e-6)


@pytest.mark.parametrize("loss_kind", ["per_modality", "published"])
def test_nothing_depends_on_what_stands_in_the_row_of_a_missing_modality(loss_kind):
    result, records = draw()
    task = ClassificationTask(4, loss_kind=loss_kind)
    before = float(task.loss(model_of(result), records))
    for group in (result.unimodal, result.unimodal_logits):
        group["picture"][2], group["words"][4] = 7.0, torch.arange(len(group["words"][4])).float()
    assert float(task.loss(model_of(result), records)) == pytest.approx(before, rel=1e-6)


def test_a_batch_without_a_modality_is_finite():
    result, records = draw()
    result.present["picture"][:] = False
    for loss_kind in ("per_modality", "published"):
        assert torch.isfinite(ClassificationTask(4, loss_kind=loss_kind).loss(model_of(result), records))


def test_the_loss_of_heads_needs_heads():
    result, records = draw()
    bare = ModelOutput(result.logits, result.unimodal, present=result.present)
    with pytest.raises(ModelError, match="one head a modality"):
        ClassificationTask(4, loss_kind="per_modality").loss(model_of(bare), records)
    single = ModelOutput(
        result.logits, {"a": result.unimodal["words"]}, None, {"a": result.logits}, {"a": result.present["words"]}
    )
    with pytest.raises(ModelError, match="two modalities"):
        ClassificationTask(4, loss_kind="published").loss(model_of(single), records)


def test_signals_hold_the_nll_and_the_logits():
    result, records = draw()
    task = ClassificationTask(4)
    signals = task.signals(result, records)
    assert torch.equal(signals["nll"], task.nll_of(result, records))
    assert torch.equal(signals["logits"], result.logits)
