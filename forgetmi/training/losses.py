"""What a fit minimises: a scalar and its parts, from the model and the batches of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.tasks.base import Task


class Loss(NamedTuple):
    """A scalar to minimise, and its parts for the log.

    Attributes:
        total: the scalar.
        parts: scalars.
        rest: what is to be added, computed when the gradient of ``total`` is there and its graph is gone: of the terms
            of a sum, one at a time is held.
    """

    total: Tensor
    parts: dict[str, Tensor]
    rest: Callable[[], Loss] | None = None

    def whole(self) -> Loss:
        """The same with nothing left to add."""
        if self.rest is None:
            return self
        more = self.rest().whole()
        return Loss(self.total + more.total, {**self.parts, **more.parts})


Objective = Callable[[nn.Module, dict[str, Batch]], Loss]
"""A loss on the model and the step's batches."""


def task_objective(task: Task, stream: str) -> Objective:
    """The task's own training loss on one stream: how originals are trained, retrained and fine-tuned."""

    def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
        return Loss(task.loss(model, batches[stream]), {})

    return objective
