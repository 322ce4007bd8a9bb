"""Boundary shrink and expand: labels of the other side, and a class that comes and goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits.adversarial import pushed
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 3, "batch_size": 4, "lr": 1e-2}
BOTH = ["boundary_shrink", "boundary_expand"]


class Line(nn.Module):
    """Two classes on a line with the boundary at 0: logits (-x, x)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> ModelOutput:
        x = batch.inputs["x"] * self.slope
        return ModelOutput(torch.cat([-x, x], dim=1))


def test_a_push_goes_up_the_loss_by_the_step_and_no_further():
    batch = Batch({"x": torch.tensor([[0.05], [-0.05], [3.0]])}, {}, torch.tensor([1, 0, 1]), torch.arange(3))
    model, task = Line(), ClassificationTask(2)
    away = pushed(model, task, batch, 0.1)
    assert away.inputs["x"][:, 0].tolist() == pytest.approx([-0.05, 0.05, 2.9])
    assert batch.inputs["x"][0, 0] == pytest.approx(0.05) and model.slope.grad is None and model.training
    assert pushed(model, task, batch, 0.0).inputs["x"].tolist() == batch.inputs["x"].tolist()


def test_missing_records_and_tokens_stay_and_without_numbers_it_is_refused():
    case = classifier_case()
    batch = case.loader.batch(case.partition.retain)
    away = pushed(case.model, case.task, batch, 0.1)
    change = (away.inputs["film"] - batch.inputs["film"]).abs().flatten(1).amax(dim=1)
    assert (change[~batch.present["film"]] == 0).all() and (~batch.present["film"]).any()
    assert change[batch.present["film"]].tolist() == pytest.approx([0.1] * int(batch.present["film"].sum()), abs=1e-6)
    assert torch.equal(away.inputs["note"]["input_ids"], batch.inputs["note"]["input_ids"])
    words = replace(batch, present={**batch.present, "film": torch.zeros(len(batch), dtype=torch.bool)})
    with pytest.raises(MethodError, match="no continuous input"):
        pushed(case.model, case.task, words, 0.1)


def labels_given(case, options):
    job, found = case.job(), {}

    def fit(model, plan, *args, **more):
        for step in plan.steps(0):
            batch = plan.load(step, 0)["forget"]
            found.update(zip(batch.indices.tolist(), batch.labels.tolist(), strict=True))

    job.trainer.fit = fit
    build_method("boundary_shrink", {**options, "fit": FIT}).unlearn(job)
    return found, next(e for e in job.trainer.log.events if e["event"] == "pushed")


def test_no_forget_record_keeps_its_label_unless_asked_for():
    """A push that does not flip the answer must not teach the true label once more."""
    case = classifier_case()
    true = {i: case.dataset[i].label for i in case.partition.forget}
    for step in (0.0, 0.1, 10.0):
        given, event = labels_given(case, {"step": step})
        assert given.keys() == true.keys() and all(given[i] != true[i] for i in given)
        published, _ = labels_given(case, {"step": step, "true_label_may_stay": True})
        kept = [i for i in published if published[i] == true[i]]
        assert len(kept) == event["answer_stayed"]
        assert all(published[i] == given[i] for i in given if i not in kept)
    unmoved, _ = labels_given(case, {"step": 0.0})
    with torch.no_grad():
        logits = case.model(case.loader.batch(list(true))).logits
    for row, (index, label) in enumerate(true.items()):
        others = [k for k in range(3) if k != label]
        assert unmoved[index] == max(others, key=lambda k, row=row: float(logits[row, k]))


def test_expand_gives_the_form_and_the_outputs_of_the_original_back():
    case = classifier_case()
    model = build_method("boundary_expand", {"fit": FIT}).unlearn(case.job())
    assert model.state_dict().keys() == case.model.state_dict().keys()
    assert model.head.weight.shape == case.model.head.weight.shape and model.head.weight.requires_grad
    still = build_method("boundary_expand", {"fit": {**FIT, "epochs": 0}}).unlearn(case.job())
    assert same_state(state_of(case.model), state_of(still))


def test_expand_trains_the_forget_records_to_the_new_class():
    case = classifier_case()
    job, found = case.job(), {}

    def fit(model, plan, objective, *args, **more):
        batch = plan.load(plan.steps(0)[0], 0)
        found.update(labels=batch["forget"].labels, logits=model(batch["forget"]).logits)
        found["loss"] = float(objective(model.eval(), batch).total.detach())
        found["hand"] = float(-model(batch["forget"]).logits.detach().log_softmax(dim=1)[:, 3].mean())

    job.trainer.fit = fit
    build_method("boundary_expand", {"fit": FIT}).unlearn(job)
    assert (found["labels"] == 3).all() and found["logits"].shape[1] == 4
    assert found["loss"] == pytest.approx(found["hand"], rel=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_forget_records_become_less_certain(name):
    case = classifier_case()
    plan = ShuffledPlan(case.loader, case.partition.train, batch_size=8, seed=0)
    objective = task_objective(case.task, "records")
    case.job().trainer.fit(case.model, plan, objective, FitOptions(epochs=8, lr=1e-2), seed=0)
    batch = case.loader.batch(case.partition.forget)
    model = build_method(name, {"fit": {**FIT, "epochs": 10}}).unlearn(case.job())
    with torch.no_grad():
        assert case.task.loss(model, batch) > case.task.loss(case.model, batch)


def test_a_model_without_one_last_layer_is_refused():
    case = classifier_case()
    job = replace(case.job(), task=ClassificationTask(3, loss_kind="per_modality"))
    with pytest.raises(MethodError, match="loss_kind: fused"):
        build_method("boundary_expand").unlearn(job)


@pytest.mark.parametrize("name", BOTH)
def test_a_language_model_and_wrong_options_are_refused(name):
    with pytest.raises(MethodError, match=f"{name} cannot serve the task 'causal_lm'"):
        build_method(name).unlearn(language_case().job())
    with pytest.raises(ConfigError, match="measures no validation"):
        build_method(name, {"fit": {"patience": 1}})
