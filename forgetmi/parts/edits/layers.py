"""A model's layers, last first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import MethodError
from forgetmi.parts.selection.covering import covering
from forgetmi.tasks.base import Task
from forgetmi.training.modes import preserved_mode


@dataclass(frozen=True)
class Layer:
    """Names of parameters.

    Attributes:
        weights: of one linear, convolution or attention layer.
        along: of what stands behind it, up to the next such layer (normalisation, embeddings, single parameters).
    """

    weights: tuple[str, ...]
    along: tuple[str, ...]


def layers(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], *, device: torch.device
) -> list[Layer]:
    """The layers that the training loss reaches, in reverse order of their definition.

    A layer is a module with a weight of two dimensions or more, embeddings excepted. One that the loss does not reach
    (a head that another loss trains) is none: to count it as the last would leave nothing to be trained. A weight that
    two modules share stands where it is met first. What stands before the first layer goes with the first.

    Args:
        model: left as it is.
        task, loader: give the loss.
        indices: records among which one with each set of modalities is asked.
        device: where the model is.

    Raises:
        MethodError: the model has no such layer.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    reached = _reached(model, task, loader, indices, device)
    found: list[Layer] = []
    behind: list[str] = []
    met: set[str] = set()
    for module in reversed(list(model.modules())):
        own = {names[id(p)]: (key, p.ndim) for key, p in module.named_parameters(recurse=False)}
        own = {name: kind for name, kind in own.items() if name in reached and name not in met}
        met.update(own)
        is_layer = any("weight" in key and ndim > 1 for key, ndim in own.values())
        if is_layer and not isinstance(module, nn.Embedding):
            found.append(Layer(tuple(own), tuple(behind)))
            behind = []
        else:
            behind += own
    if not found:
        raise MethodError("the loss reaches no linear, convolution or attention layer of the model")
    found[-1] = Layer(found[-1].weights, (*found[-1].along, *behind))
    return found


def _reached(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], device: torch.device
) -> frozenset[str]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise MethodError("no parameter of the model requires a gradient: nothing may be edited")
    batch = loader.batch(covering(loader, indices, 1)).to(device)
    with preserved_mode(model), torch.enable_grad():
        model.eval()
        found = torch.autograd.grad(task.loss(model, batch), [p for _, p in named], allow_unused=True)
    return frozenset(name for (name, _), gradient in zip(named, found, strict=True) if gradient is not None)
