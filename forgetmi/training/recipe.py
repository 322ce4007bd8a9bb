"""Training by a recipe: how originals are made, and, without the forgotten, retrained models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import TrainingError
from forgetmi.tasks.base import Task
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.scoring import collect_signals
from forgetmi.training.trainer import FitResult, Trainer, Validation


def train_by_recipe(
    model: nn.Module,
    *,
    task: Task,
    loader: Loader,
    train: Sequence[int],
    validation: Sequence[int],
    recipe: FitOptions,
    trainer: Trainer,
    order_seed: int,
    seed: int,
    name: str,
    identity: str = "",
) -> FitResult:
    """Fit a model to records by the task's own loss.

    Args:
        model: changed in place.
        task, loader: what is trained on and how it is scored.
        train: positions of the training records.
        validation: positions that an epoch is chosen by, where the recipe chooses one.
        recipe: see :class:`FitOptions`.
        trainer: the loop.
        order_seed: of the records' order.
        seed: of the fit.
        name: of the fit.
        identity: what else makes this fit the one that it is, see ``Trainer.fit``.

    Raises:
        TrainingError: the recipe looks at validation records and there are none; or what
            :meth:`~forgetmi.training.trainer.Trainer.fit` says.
    """
    validate = None
    if recipe.validates:
        if not validation:
            raise TrainingError(
                "the recipe chooses an epoch by validation records, and there are none",
                fix="give data.split a validation share, or set training.select: last and no patience",
            )
        validate = _mean_loss(task, loader, validation, recipe.batch_size, trainer)
    plan = ShuffledPlan(loader, train, batch_size=recipe.batch_size, seed=order_seed)
    objective = task_objective(task, "records")
    same = f"{task!r}{identity}"
    return trainer.fit(model, plan, objective, recipe, seed=seed, name=name, validate=validate, identity=same)


def _mean_loss(task: Task, loader: Loader, indices: Sequence[int], batch_size: int, trainer: Trainer) -> Validation:
    def mean_loss(model: nn.Module, epoch: int) -> float:
        signals = collect_signals(model, task, loader, indices, batch_size=batch_size, device=trainer.device)
        return float(signals["nll"].mean())

    return mean_loss
