"""A mask that is made anew at each step, of the step's own forget records."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.parts.updates.streamed import gradient_now
from forgetmi.tasks.base import Task
from forgetmi.training.trainer import Named, Trainer

Masks = dict[str, Tensor]


class StepMask:
    """At each step, what lies outside of the mask of the step's forget records does not move, exactly: it gets no
    gradient, and is put back after the step to what it was before.

    A step without forget records (the retain pass of a method that takes turns) keeps the mask of the step before; as
    long as there was none, nothing moves. A fit of another model is left alone.

    Args:
        model: the architecture, in eval mode; a copy that nobody trains.
        task: gives the loss.
        forget: positions of the forget records.
        masks: gradients of the forget loss, by name, to masks of their shapes.
    """

    def __init__(
        self, model: nn.Module, task: Task, forget: Collection[int], masks: Callable[[dict[str, Tensor]], Masks]
    ) -> None:
        self.model, self.task, self.forget, self.masks = model, task, frozenset(forget), masks
        self.names = {name for name, _ in model.named_parameters()}
        self.seen: list[Batch] = []
        self.current: Masks = {}
        self.before: dict[str, Tensor] = {}

    def constrain(self, trainer: Trainer, identity: str) -> Trainer:
        """A trainer whose fits of the model keep to the mask."""
        return trainer.constrained(
            update=self._update, after_step=self._after_step, watch=self._watch, kept=self, identity=identity
        )

    def state_dict(self) -> dict[str, Any]:
        """The mask of the last step that had one."""
        return {"current": dict(self.current)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self.current = dict(state["current"])

    def _watch(self, batches: dict[str, Batch]) -> None:
        streams = {"forget": batches["forget"]} if "forget" in batches else batches
        for batch in streams.values():
            rows = [place for place, index in enumerate(batch.indices.tolist()) if index in self.forget]
            if rows:
                self.seen.append(batch if len(rows) == len(batch) else batch.rows(rows))

    def _update(self, named: Named) -> None:
        seen, self.seen = self.seen, []
        if not all(name in self.names for name, _ in named):
            self.before = {}
            return
        if seen:
            self.current = self.masks(self._gradient(named, seen))
        self.before = {name: parameter.detach().clone() for name, parameter in named}
        for name, parameter in named:
            if parameter.grad is not None:
                parameter.grad.mul_(self._mask(name, parameter))

    def _after_step(self, named: Named) -> None:
        for name, parameter in named:
            if name in self.before:
                parameter.copy_(torch.where(self._mask(name, parameter), parameter, self.before[name]))
        self.before = {}

    def _mask(self, name: str, parameter: Tensor) -> Tensor:
        mask = self.current.get(name)
        return torch.zeros_like(parameter, dtype=torch.bool) if mask is None else mask.to(parameter.device)

    def _gradient(self, named: Named, seen: list[Batch]) -> dict[str, Tensor]:
        """Of the mean over the step's forget records, piece by piece."""
        size = sum(len(batch) for batch in seen)
        found: dict[str, Tensor] = {}
        for batch in seen:
            for (name, _), gradient in zip(named, gradient_now(self.model, named, self.task, batch), strict=True):
                found[name] = found.get(name, 0.0) + gradient * (len(batch) / size)
        return found
