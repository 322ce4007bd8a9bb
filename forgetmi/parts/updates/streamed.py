"""Gradients at the weights of the moment: over many records, with one copy of them held; and within a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from forgetmi.batch import Batch, Loader
from forgetmi.parts.edits.importance import trainable
from forgetmi.tasks.base import Task
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.divergence import wide
from forgetmi.training.modes import preserved_mode
from forgetmi.training.trainer import Named


def mean_gradient(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], *, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """The gradient, over all these records, of the mean negative log-likelihood of an answer token (of a classifier's
    record), in eval mode: name to the parameter's shape, in float32 at least.

    Each parameter's gradient is added up and dropped as soon as it is there, so that beside the sums no more than one
    of them is held, whatever the model. ``.grad`` is ``None`` afterwards.

    Args:
        model: gives the weights; on ``device``.
        batch_size: changes speed and memory, not the result.
    """
    sums = {name: wide(torch.zeros_like(weight)) for name, weight in trainable(model).items()}

    def added(name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if parameter.grad is not None:
                sums[name] += parameter.grad
                parameter.grad = None

        return hook

    model.zero_grad(set_to_none=True)
    handles = [model.get_parameter(name).register_post_accumulate_grad_hook(added(name)) for name in sums]
    count = 0
    try:
        with preserved_mode(model), torch.enable_grad():
            model.eval()
            for batch in loader.batches(indices, batch_size):
                total, tokens = _total(model, task, batch.to(device))
                total.backward()
                count += tokens
    finally:
        for handle in handles:
            handle.remove()
    return {name: value.div_(max(count, 1)) for name, value in sums.items()}


def gradient_now(model: nn.Module, named: Named, task: Task, batch: Batch) -> list[Tensor]:
    """The gradient of the task's loss on a batch at these weights, one tensor for each; ``.grad`` is not touched.

    Args:
        model: the architecture, in the mode that it is to be asked in; its own weights play no part where others are
            named.
        named: the weights of the moment, as hooks are given them.
    """
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in named}

    def called(*args: Any, **kwargs: Any) -> Any:
        return functional_call(model, weights, args, kwargs)

    with torch.enable_grad():
        loss = task.loss(called, batch)  # type: ignore[arg-type]  # it is called as the model is
    return list(torch.autograd.grad(loss, list(weights.values()), materialize_grads=True, allow_unused=True))


def _total(model: nn.Module, task: Task, batch: Batch) -> tuple[Tensor, int]:
    """The sum of negative log-likelihoods, and of how many things it is."""
    if isinstance(task, CausalLMTask):
        values, mask = task.token_nll(model, batch)
        return values.sum(), int(mask.sum())
    return task.nll(model, batch).sum(), len(batch)
