"""Random labels: what each epoch sees, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import DataError, MethodError
from forgetmi.methods import build_method
from forgetmi.parts.selection.relabelled import RelabelledPlan, labels_of
from forgetmi.parts.selection.sequences import InTurnPlan
from forgetmi.training.plans import ShuffledPlan
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 3, "batch_size": 5, "lr": 1e-2}


def seen(case, options, seed=0):
    """[epoch][(position, label)] in the order of the steps, as the trainer loads them."""
    job, epochs = case.job(seed=seed), []

    def fit(model, plan, *args, **more):
        for epoch in range(3):
            batches = [plan.load(step, epoch) for step in plan.steps(epoch)]
            assert all(len(batch) == 1 for batch in batches)
            flat = [next(iter(batch.values())) for batch in batches]
            epochs.append([(i, y) for b in flat for i, y in zip(b.indices.tolist(), b.labels.tolist(), strict=True)])

    job.trainer.fit = fit
    build_method("random_labels", {**options, "fit": FIT}).unlearn(job)
    return epochs


@pytest.mark.parametrize("order", ["in_turn", "together"])
def test_each_epoch_sees_every_record_once_and_retain_labels_are_true(order):
    case = classifier_case()
    forget, retain = case.partition.forget, case.partition.retain
    for epoch in seen(case, {"order": order}):
        assert sorted(i for i, _ in epoch) == sorted((*forget, *retain))
        assert all(y == case.dataset[i].label for i, y in epoch if i in retain)
        assert all(y != case.dataset[i].label for i, y in epoch if i in forget)
        first = [i for i, _ in epoch[: len(forget)]]
        assert (sorted(first) == sorted(forget)) == (order == "in_turn")


def test_drawn_afresh_or_once_and_reproducibly():
    case = classifier_case()

    def forgets(redraw, seed=0):
        epochs = seen(case, {"redraw": redraw}, seed)
        return [sorted((i, y) for i, y in epoch if i in case.partition.forget) for epoch in epochs]

    once = forgets(False)
    assert once[0] == once[1] == once[2]
    again = forgets(True)
    assert len({tuple(epoch) for epoch in again}) > 1
    assert again == forgets(True) and again != forgets(True, seed=1)


def test_the_true_label_may_come_up_where_it_is_not_excluded():
    """Six records and three epochs: that none of eighteen fair draws is the true label has a chance under 0.1 %."""
    case = classifier_case()
    drawn = [(i, y) for epoch in seen(case, {"exclude_true": False}) for i, y in epoch if i in case.partition.forget]
    assert any(y == case.dataset[i].label for i, y in drawn)
    assert any(y != case.dataset[i].label for i, y in drawn)


def test_with_true_labels_and_both_together_it_is_training_on_everything():
    """The wrapped plan changes labels and nothing else."""
    case = classifier_case()
    both = (*case.partition.forget, *case.partition.retain)
    plan = ShuffledPlan(case.loader, both, batch_size=7, seed=3)
    true = labels_of(case.loader, case.partition.forget)
    same = RelabelledPlan(plan, case.task, case.partition.forget, lambda epoch: true)
    for step in plan.steps(1):
        a, b = plan.load(step, 1)["records"], same.load(step, 1)["records"]
        assert torch.equal(a.labels, b.labels) and torch.equal(a.inputs["film"], b.inputs["film"])


def test_no_steps_and_no_rate_change_nothing():
    case = classifier_case()
    for fit in ({"epochs": 0}, {"lr": 0.0, "epochs": 1, "mode": "eval"}):
        assert same_state(
            state_of(case.model), state_of(build_method("random_labels", {"fit": fit}).unlearn(case.job()))
        )


def test_turns_end_after_their_epochs():
    case = classifier_case()
    plans = {
        part: ShuffledPlan(case.loader, case.partition.indices(part), batch_size=100, seed=1, stream=part)
        for part in ("forget", "retain")
    }
    plan = InTurnPlan(plans, {"forget": 2})
    assert [[list(step) for step in plan.steps(epoch)] for epoch in range(3)] == [
        [["forget"], ["retain"]], [["forget"], ["retain"]], [["retain"]]
    ]  # fmt: skip
    assert len(plan.load(plan.steps(0)[0], 0)["forget"]) == len(case.partition.forget)


def test_a_language_model_and_records_without_labels_are_refused():
    with pytest.raises(MethodError, match="random_labels cannot serve the task 'causal_lm'"):
        build_method("random_labels").unlearn(language_case().job())
    with pytest.raises(DataError, match="no label"):
        labels_of(language_case().loader, [0, 1])
