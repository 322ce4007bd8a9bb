"""The loop: what a step is, what stops it, and what may not change the result."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, TrainingError
from forgetmi.modalities.tokens import TokenModality
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.losses import Loss, task_objective
from forgetmi.training.modes import scoring
from forgetmi.training.options import FitOptions, build_optimizer, lr_factor
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.progress import Progress
from forgetmi.training.runlog import RunLog
from forgetmi.training.trainer import Trainer
from tests.tiny import same_state, state_of, tiny_gpt2, tiny_sequences
from tests.training.toys import TASK, N, Net, fit, largest_difference, vector_loader

PLAIN = FitOptions(epochs=3, batch_size=4, lr=0.05, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_norm=None)
STEPS = math.ceil(N / 4)


def cpu(**options) -> Trainer:
    return Trainer(device="cpu", **{"progress": False, **options})


# What a step is


def test_one_epoch_of_sgd_is_the_loop_that_one_would_write():
    model, _ = fit(replace(PLAIN, epochs=2))
    expected, loader = Net(), vector_loader()
    plan = ShuffledPlan(loader, range(N), batch_size=4, seed=1)
    for epoch in range(2):
        for step in plan.steps(epoch):
            loss = TASK.nll(expected, loader.batch(step["records"])).mean()
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    parameter -= 0.05 * gradient
    assert largest_difference(model, expected) < 1e-6


def test_terms_of_a_sum_are_computed_one_after_the_other_and_make_the_same_step():
    """What is left to add is asked for when the gradient of the first term is there; two pieces a step."""
    halves = []

    def in_turn(model, batches):
        loss = TASK.nll(model, batches["records"])

        def rest():
            halves.append(all(parameter.grad is not None for parameter in model.parameters()))
            second = TASK.nll(model, batches["records"])[1:].sum() / len(loss)
            return Loss(second, {"second": second})

        return Loss(loss[:1].sum() / len(loss), {"first": loss[:1].sum() / len(loss)}, rest)

    options = replace(PLAIN, optimizer="adamw", clip_norm=0.5, accumulate=2)
    whole, one = fit(options)
    parts, two = fit(options, objective=in_turn)
    assert all(halves) and len(halves) == 2 * 3 * STEPS
    assert largest_difference(whole, parts) < 1e-6
    for a, b in zip(one.history, two.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6) and b["first"] + b["second"] == pytest.approx(b["loss"])


def test_row_14_one_step_a_batch_and_epoch_0_trains():
    _, result = fit(PLAIN)
    assert result.steps == 3 * STEPS and result.epochs == 3 and len(result.history) == 3
    before = Net()
    after, result = fit(replace(PLAIN, epochs=1), model=Net())
    assert result.steps == STEPS and largest_difference(before, after) > 1e-3


def test_no_epoch_changes_nothing_and_writes_nothing(tmp_path):
    model, result = fit(replace(PLAIN, epochs=0), trainer=cpu(checkpoint_dir=tmp_path))
    assert same_state(state_of(model), state_of(Net())) and result.best_epoch == -1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulating_changes_neither_the_weights_nor_the_loss(pieces, optimizer):
    """Also with more pieces than records (9 of a batch of 4), where some pieces are empty."""
    options = replace(PLAIN, optimizer=optimizer, clip_norm=0.5)
    whole, one = fit(options)
    split, many = fit(replace(options, accumulate=pieces))
    assert largest_difference(whole, split) < 1e-6
    assert [h["loss"] for h in many.history] == pytest.approx([h["loss"] for h in one.history], rel=1e-6)
    assert many.steps == one.steps


def test_item_7_the_mean_loss_does_not_depend_on_the_batch_size():
    """With lr = 0, an epoch's loss is the mean over records, though the last batch is smaller."""
    losses = [fit(replace(PLAIN, lr=0.0, epochs=1, batch_size=size))[1].history[0]["loss"] for size in (1, 3, 4, N)]
    loader = vector_loader()
    expected = float(TASK.nll(Net(), loader.batch(range(N))).mean().detach())
    assert losses == pytest.approx([expected] * 4, rel=1e-6)


def test_padding_changes_no_weight():
    class Wide(TokenModality):
        def collate(self, examples):
            tensors = super().collate(examples)
            fill = {"input_ids": 5, "attention_mask": 0, "labels": -100}
            return {k: nn.functional.pad(v, (0, 4), value=fill[k]) for k, v in tensors.items()}

    models, task, dataset = [], CausalLMTask(), tiny_sequences()
    for modality in (TokenModality(0), Wide(0)):
        model, loader = tiny_gpt2(), Loader(dataset, {"tokens": modality})
        plan = ShuffledPlan(loader, range(10), batch_size=4, seed=0)
        options = replace(PLAIN, epochs=1, lr=0.1, mode="eval")
        cpu().fit(model, plan, task_objective(task, "records"), options, seed=0)
        models.append(model)
    assert largest_difference(*models) < 1e-6
    assert largest_difference(models[0], tiny_gpt2()) > 1e-3


def test_schedules_by_hand():
    def factors(total, **options):
        return [lr_factor(FitOptions(**options), step, total) for step in range(total)]

    assert factors(3) == [1.0, 1.0, 1.0]
    assert factors(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    half = 0.5 * math.sqrt(0.5)
    assert factors(4, schedule="cosine") == pytest.approx([1.0, 0.5 + half, 0.5, 0.5 - half])
    assert factors(8, warmup=0.5, schedule="linear") == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert factors(4, warmup=0.5) == [0.5, 1.0, 1.0, 1.0]
    assert factors(2, warmup=1.0, schedule="cosine") == [0.5, 1.0]


def test_the_schedule_reaches_the_optimiser():
    """Plain SGD on a loss whose gradient is 1 moves by the sum of the learning rates."""
    model = nn.Linear(1, 1, bias=False)
    start = float(model.weight.detach())
    options = replace(PLAIN, epochs=2, lr=0.1, schedule="linear", warmup=0.5)
    fit(options, model=model, objective=lambda m, b: Loss(m.weight.sum(), {}))
    rates = [lr_factor(options, step, 2 * STEPS) for step in range(2 * STEPS)]
    assert start - float(model.weight.detach()) == pytest.approx(0.1 * sum(rates), rel=1e-5)


def test_clip_norm_bounds_the_step_and_only_then():
    def moved(clip, slope):
        model = nn.Linear(1, 1, bias=False)
        start = float(model.weight.detach())
        fit(replace(PLAIN, epochs=1, batch_size=N, lr=1.0, clip_norm=clip), model=model,
            objective=lambda m, b: Loss(slope * m.weight.sum(), {}))  # fmt: skip
        return start - float(model.weight.detach())

    assert moved(2.0, 10.0) == pytest.approx(2.0, rel=1e-4)
    assert moved(2.0, 0.5) == pytest.approx(0.5, rel=1e-4)
    assert moved(None, 10.0) == pytest.approx(10.0, rel=1e-4)


def test_gradients_that_were_left_on_the_model_do_not_count():
    model = Net()
    TASK.nll(model, vector_loader().batch([0, 1])).sum().backward()
    stale, _ = fit(PLAIN, model=model)
    assert same_state(state_of(stale), state_of(fit(PLAIN)[0]))


def test_weight_decay_spares_biases_and_frozen_weights_are_not_in_the_optimiser():
    model = Net()
    model.first.weight.requires_grad_(False)
    groups = build_optimizer(model, FitOptions(weight_decay=0.3)).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] == 0.3 for p in g["params"]}
    spared = {id(p) for g in groups if g["weight_decay"] == 0.0 for p in g["params"]}
    assert decayed == {id(model.last.weight)} and spared == {id(model.first.bias), id(model.last.bias)}
    with pytest.raises(ConfigError, match="nothing to train"):
        build_optimizer(model.requires_grad_(False), FitOptions())
    with pytest.raises(ConfigError, match="nothing to train"):
        fit(PLAIN, model=Net().requires_grad_(False))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_frozen_weights_do_not_move(optimizer):
    model = Net()
    model.first.requires_grad_(False)
    options = replace(PLAIN, optimizer=optimizer, weight_decay=0.5, momentum=0.9)
    fit(options, model=model)
    assert torch.equal(model.first.weight, Net().first.weight) and not torch.equal(model.last.weight, Net().last.weight)


# What may not change the result


def test_the_seed_decides_and_the_global_random_state_does_not():
    options = replace(PLAIN, optimizer="adamw")
    torch.manual_seed(1)
    first, _ = fit(options, model=Net(dropout=0.5))
    torch.manual_seed(2)
    model, before = Net(dropout=0.5), torch.get_rng_state()
    second, _ = fit(options, model=model, trainer=cpu(num_workers=1))
    assert torch.equal(before, torch.get_rng_state()), "the caller's random state moved"
    assert same_state(state_of(first), state_of(second))
    third, _ = fit(options, model=Net(dropout=0.5), seed=4)
    assert largest_difference(first, third) > 1e-4, "dropout ignores the seed"


def test_dropout_differs_from_step_to_step():
    """A seed that were set anew each epoch would draw the same masks again (rows 11 and 17)."""
    masks = []

    def objective(model, batches):
        drawn = nn.functional.dropout(torch.ones(64), 0.5)
        masks.append(drawn)
        return Loss(model.weight.sum() * 0.0 + drawn.sum() * 0.0, {})

    fit(replace(PLAIN, epochs=2), model=nn.Linear(1, 1), objective=objective)
    assert len({tuple(mask.tolist()) for mask in masks}) == 2 * STEPS


@pytest.mark.parametrize("mode", ["train", "frozen_batchnorm", "eval"])
def test_modes(mode):
    model = Net(dropout=0.3, batchnorm=True).eval()
    model.last.train()
    flags, buffers = [m.training for m in model.modules()], [b.clone() for b in model.buffers()]
    seen = {}

    def objective(m, batches):
        seen.update(dropout=m.dropout.training, norm=m.norm.training)
        return Loss(TASK.loss(m, batches["records"]), {})

    fit(replace(PLAIN, mode=mode), model=model, objective=objective)
    assert seen == {"dropout": mode != "eval", "norm": mode == "train"}
    still = all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert still == (mode != "train")
    assert [m.training for m in model.modules()] == flags


def test_bf16_differs_a_little_and_precisions_live_side_by_side():
    plain, half = cpu(), cpu(precision="bf16")
    exact = fit(PLAIN)[0]
    rounded = fit(PLAIN, trainer=half)[0]
    assert 1e-6 < largest_difference(exact, rounded) < 2e-2
    assert next(rounded.parameters()).dtype == torch.float32
    assert largest_difference(fit(PLAIN, trainer=plain)[0], exact) == 0.0, "the older trainer lost its precision"
    assert largest_difference(fit(PLAIN, trainer=half)[0], rounded) == 0.0
    assert plain.precision == "no" and half.precision == "bf16"


def test_what_this_machine_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        cpu(precision="fp16")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda was asked for"):
            Trainer(device="cuda")


# What stops it


def _breaks_at(step: int, how):
    calls = []

    def objective(model, batches):
        calls.append(1)
        loss = TASK.loss(model, batches["records"])
        return Loss(how(loss, model) if len(calls) == step + 1 else loss, {})

    return objective


def _nan_gradient(loss, model):
    return loss + torch.sqrt(model.last.bias.sum() * 0.0)  # finite value, gradient 0 * inf = NaN


@pytest.mark.parametrize(
    ("how", "message", "clip"),
    [
        (lambda loss, model: loss * float("nan"), r"not finite \(loss\)", 1.0),
        (lambda loss, model: loss + 1e7, "diverged to 1e\\+07", None),
        (lambda loss, model: loss - 1e7, "diverged to -1e\\+07", None),
        (_nan_gradient, "gradient is not finite", 1.0),
        (_nan_gradient, "gradient is not finite", None),
    ],
)
def test_a_broken_step_stops_the_fit_and_leaves_weights_and_checkpoint_whole(tmp_path, how, message, clip):
    bad = 2 * STEPS + 1  # the last epoch's second step
    options = replace(PLAIN, checkpoint_every=1, clip_norm=clip)
    trainer, model = cpu(checkpoint_dir=tmp_path), Net()
    with pytest.raises(TrainingError, match=message) as caught:
        fit(options, model=model, trainer=trainer, objective=_breaks_at(bad, how))
    positions = ShuffledPlan(vector_loader(), range(N), batch_size=4, seed=1).steps(2)[1]["records"]
    assert "epoch 2, step 1 (7 steps done)" in caught.value.what
    assert str(list(positions)) in caught.value.where
    assert all(p.isfinite().all() for p in model.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["fit.checkpoint.pt"]
    assert trainer.log.events[-1]["event"] == "diverged"
    resumed, _ = fit(options, trainer=cpu(checkpoint_dir=tmp_path, resume=True))  # with the cause put right
    assert same_state(state_of(resumed), state_of(fit(options)[0]))


def test_a_loss_part_that_is_not_finite_is_named():
    def objective(model, batches):
        loss = TASK.loss(model, batches["records"])
        return Loss(loss, {"good": loss, "bad": loss * float("inf")})

    with pytest.raises(TrainingError, match=r"not finite \(bad\)"):
        fit(PLAIN, objective=objective)


def test_a_validation_that_is_not_finite_stops_the_fit():
    with pytest.raises(TrainingError, match="validation gave nan after epoch 1"):
        fit(PLAIN, validate=lambda model, epoch: [1.0, float("nan"), 0.0][epoch])


# Validation


def test_validation_sees_eval_mode_without_gradients_and_modes_come_back():
    model, seen = Net(dropout=0.5, batchnorm=True), []

    def validate(m, epoch):
        seen.append((m.training, any(x.training for x in m.modules()), torch.is_grad_enabled()))
        with scoring(m):
            return float(TASK.nll(m, vector_loader().batch([0, 1])).mean())

    fit(PLAIN, model=model, validate=validate)
    assert seen == [(False, False, False)] * 3
    # Training went on in train mode after each validation.
    forwards = STEPS * [True] + [False]
    assert model.modes == 3 * forwards


def test_validating_changes_no_weight():
    options = replace(PLAIN, optimizer="adamw")
    plain = fit(options, model=Net(dropout=0.5, batchnorm=True))[0]

    def validate(m, epoch):
        torch.rand(3)  # even one that draws
        return float(TASK.nll(m, vector_loader().batch(range(N))).mean())

    watched = fit(options, model=Net(dropout=0.5, batchnorm=True), validate=validate)[0]
    assert same_state(state_of(plain), state_of(watched))


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([3, 2, 5, 5, 5, 5], 1, 3, 1),  # one epoch without a better one, then it stops
        ([3, 2, 5, 5, 5, 5], 2, 4, 1),
        ([3, 2, 5, 1, 5, 5], 2, 6, 3),  # a better one starts the count again
        ([3, 3, 3, 3, 3, 3], 1, 2, 0),  # equal is not better
        ([6, 5, 4, 3, 2, 1], 1, 6, 5),
    ],
)
def test_patience_and_the_best_weights(values, patience, epochs, best):
    kept = {}

    def validate(model, epoch):
        kept[epoch] = state_of(model)
        return float(values[epoch])

    options = replace(PLAIN, epochs=6, patience=patience, select="best")
    model, result = fit(options, model=Net(batchnorm=True), validate=validate)
    assert (result.epochs, result.best_epoch) == (epochs, best)
    assert [h["validation"] for h in result.history] == values[:epochs]
    assert same_state(state_of(model), kept[best])
    model, result = fit(replace(options, select="last"), model=Net(batchnorm=True), validate=validate)
    assert (result.epochs, result.best_epoch) == (epochs, epochs - 1)
    assert same_state(state_of(model), kept[epochs - 1])


@pytest.mark.parametrize("options", [{"select": "best"}, {"patience": 1}])
def test_choosing_without_validation_is_refused(options):
    with pytest.raises(ConfigError, match="need validation"):
        fit(replace(PLAIN, **options))


# What it says


def test_the_log_is_valid_json_without_ids(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    fit(PLAIN, trainer=cpu(log=log), validate=lambda model, epoch: 1.0)
    with pytest.raises(TrainingError):
        fit(PLAIN, trainer=cpu(log=log), objective=_breaks_at(1, lambda loss, model: loss * float("nan")))
    lines = path.read_text().splitlines()
    events = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) for line in lines]
    assert [e["event"] for e in events] == [
        "fit_started", "epoch", "epoch", "epoch", "fit_finished", "fit_started", "diverged",
    ]  # fmt: skip
    assert events[1]["validation"] == 1.0 and events[1]["loss"] > 0
    assert all(word not in path.read_text() for word in ("PATIENT", "STUDY", "SAMPLE"))


def test_progress_is_lines_where_there_is_no_terminal(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="forgetmi")
    now = [0.0]
    monkeypatch.setattr("forgetmi.training.progress.time.monotonic", lambda: now[0])
    bar = Progress(10, "unlearning", enabled=True, every=20.0, done=4)  # resumed after 4 steps
    now[0] = 10.0
    bar.advance({"loss": 1.0})  # silent
    now[0] = 30.0
    bar.advance({"loss": 0.5}, steps=2)  # 3 steps took 30 s, 3 are left
    now[0] = 49.0
    bar.advance({"loss": 0.4})
    bar.close()
    assert [r.getMessage() for r in caplog.records] == ["unlearning: step 7 of 10, loss 0.5, about 30 s left"]


def test_progress_that_is_switched_off_says_nothing(caplog, capsys):
    caplog.set_level(logging.INFO, logger="forgetmi")
    bar = Progress(2, "x", enabled=False, every=-1.0)
    bar.advance({"loss": 1.0})
    bar.close()
    assert not caplog.records and not capsys.readouterr().err


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        FitOptions(epochs=-1, lr=float("nan"), warmup=2.0, clip_norm=0.0, accumulate=0, patience=0)
    assert len(caught.value.problems) == 6
