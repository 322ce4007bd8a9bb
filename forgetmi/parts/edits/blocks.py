"""The blocks of a deep model, and what one of them says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.tasks.base import Task


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks that a transformer is a stack of: the elements of its longest list of modules, with their names.

    Raises:
        MethodError: the model has no list of modules.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise MethodError("the model is no stack of blocks", expected="a transformer, with its layers in a ModuleList")
    name, stack = max(lists, key=lambda found: len(found[1]))
    return [(f"{name}.{number}", block) for number, block in enumerate(stack)]


class _ThereIsEnoughError(Exception):
    """The rest of the forward pass is not needed."""


def activations(model: nn.Module, block: nn.Module, task: Task, batch: Batch) -> Tensor:
    """What a block of the model says [B, T, D]; what stands above it is not computed.

    Raises:
        MethodError: the model does not pass through the block.
    """
    said: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        said.append(output[0] if isinstance(output, tuple) else output)
        raise _ThereIsEnoughError

    handle = block.register_forward_hook(keep)
    try:
        task.output(model, batch)
    except _ThereIsEnoughError:
        return said[0]
    finally:
        handle.remove()
    raise MethodError("the model's forward pass does not go through the block that was chosen")


@contextmanager
def only_training(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """In this block, of the parameters that may move only those named do."""
    frozen = [p for name, p in model.named_parameters() if p.requires_grad and name not in names]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
