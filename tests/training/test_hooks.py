"""Hooks of a fit: on gradients before clipping, after each step, at each epoch."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from forgetmi.training.modes import set_fit_mode
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.training.toys import Net, fit, largest_difference

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 11, "lr": 0.1}


def test_update_sees_the_whole_steps_gradient_before_it_is_clipped():
    """Three pieces a step: the hook is called once a step, with the sum of the pieces, and clipping comes after it."""
    seen = []

    def ten_times(named):
        seen.append({name: p.grad.clone() for name, p in named})
        for _, p in named:
            p.grad.mul_(1e4)

    start = Net()
    model, _ = fit(FitOptions(epochs=1, accumulate=3, clip_norm=0.5, **SGD), model=deepcopy(start), update=ten_times)
    assert len(seen) == 1
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), start.parameters(), strict=True)])
    assert abs(float(moved.detach().norm()) - 0.1 * 0.5) < 1e-6
    whole = []
    fit(FitOptions(epochs=1, **SGD), update=lambda named: whole.append({n: p.grad.clone() for n, p in named}))
    assert all(torch.allclose(seen[0][name], whole[0][name], atol=1e-6) for name in whole[0])


def test_after_step_can_put_weights_back_exactly():
    start = Net()

    def restore(named):
        for (_, p), q in zip(named, start.parameters(), strict=True):
            p.copy_(q)

    model, result = fit(FitOptions(epochs=2, batch_size=4, weight_decay=0.5), model=deepcopy(start), after_step=restore)
    assert result.steps == 6 and largest_difference(model, start) == 0


def test_hooks_of_a_constrained_trainer_run_after_the_fits_own_and_leave_the_trainer_as_it_was():
    order = []
    trainer = Trainer(device="cpu", progress=False)
    inner = trainer.constrained(update=lambda named: order.append("outer")).constrained(
        update=lambda named: order.append("inner"), after_step=lambda named: order.append("after")
    )
    options = FitOptions(epochs=1, **SGD)
    fit(options, trainer=inner, update=lambda named: order.append("own"))
    assert order == ["own", "inner", "outer", "after"]
    fit(options, trainer=trainer)
    assert len(order) == 4


def test_on_epoch_is_told_each_epoch():
    epochs = []
    fit(FitOptions(epochs=3, batch_size=4), on_epoch=epochs.append)
    assert epochs == [0, 1, 2]


def test_batchnorm_with_frozen_weights_keeps_its_statistics_in_train_mode():
    model = Net(batchnorm=True)
    for p in model.norm.parameters():
        p.requires_grad_(False)
    before = {k: v.clone() for k, v in model.norm.state_dict().items()}
    fit(FitOptions(epochs=2, batch_size=4, weight_decay=0.5), model=model)
    assert all(torch.equal(before[k], v) for k, v in model.norm.state_dict().items())
    free = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    set_fit_mode(free, "train")
    assert free[1].training


def test_schedules_know_that_epochs_differ_in_length():
    """lr reaches its end at the last step, also when later epochs are shorter."""
    from forgetmi.training.losses import task_objective
    from forgetmi.training.plans import ShuffledPlan
    from tests.training.toys import TASK, vector_loader

    class Shrinking(ShuffledPlan):
        def steps(self, epoch):
            return super().steps(epoch)[: 3 - epoch]

    plan, rates = Shrinking(vector_loader(), range(11), batch_size=4, seed=1), []
    model = Net()
    fitter = Trainer(device="cpu", progress=False)
    weights = []
    options = FitOptions(
        epochs=3,
        batch_size=4,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        lr=0.6,
        schedule="linear",
        clip_norm=None,
    )

    def note(named):
        weights.append([p.detach().clone() for _, p in named] + [p.grad.clone() for _, p in named])

    def measure(named):
        n = len(named)
        before, grads = weights[-1][:n], weights[-1][n:]
        rates.append(float((before[0].detach() - named[0][1].detach()).norm() / grads[0].norm()))

    fitter.fit(model, plan, task_objective(TASK, "records"), options, seed=0, update=note, after_step=measure)
    assert [round(r, 4) for r in rates] == [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_a_prefix_gives_fits_checkpoints_of_their_own(tmp_path):
    trainer = Trainer(device="cpu", progress=False, checkpoint_dir=tmp_path)
    fit(FitOptions(epochs=1), trainer=trainer)
    fit(FitOptions(epochs=1, lr=0.1), trainer=trainer.constrained(prefix="a-").constrained(prefix="b-"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-b-fit.checkpoint.pt", "fit.checkpoint.pt"]
