"""Inputs pushed over the nearest boundary."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.tasks.base import Task
from forgetmi.training.modes import preserved_mode


def pushed(model: nn.Module, task: Task, batch: Batch, step: float) -> Batch:
    """The fast gradient sign method: x + step * sign(d loss / d x), for every continuous input.

    The model is asked in eval mode and left as it is; what is no number (tokens), and what is missing, stays.

    Args:
        model, task: give the loss.
        batch: on the model's device.
        step: in the units of the prepared inputs (images: of the full range of intensities).

    Raises:
        MethodError: the batch has no continuous input that the loss depends on.
    """
    leaves, form = tree_flatten(dict(batch.inputs))
    moving = [leaf.detach().clone().requires_grad_() if leaf.is_floating_point() else leaf for leaf in leaves]
    wanted = [leaf for leaf in moving if leaf.requires_grad]
    gradients: tuple[torch.Tensor | None, ...] = ()
    if wanted:
        with preserved_mode(model), torch.enable_grad():
            model.eval()
            loss = task.loss(model, replace(batch, inputs=tree_unflatten(moving, form)))
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise MethodError(
            "inputs are to be pushed along their gradient, and these records have no continuous input",
            fix="choose a method that does not change inputs: forgetmi ls methods",
        )
    found = iter(gradients)
    changed = []
    for leaf in moving:
        gradient = next(found) if leaf.requires_grad else None
        changed.append(leaf.detach() if gradient is None else leaf.detach() + step * gradient.sign())
    return replace(batch, inputs=tree_unflatten(changed, form))
