"""Gradients of many records at once: of each by itself, their squares, and their sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from forgetmi.batch import Batch, Loader
from forgetmi.errors import MethodError
from forgetmi.tasks.base import Task
from forgetmi.tasks.divergence import wide
from forgetmi.training.modes import preserved_mode

Tensors = dict[str, Tensor]
Targets = Literal["true", "model"]
Gradients = Literal["per_sample", "batch"]


def trainable(model: nn.Module) -> Tensors:
    """The parameters that may change, detached, by name; a weight that two layers share stands once."""
    found = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise MethodError("no parameter of the model requires a gradient: nothing may be edited")
    return found


def per_sample_gradients(
    model: nn.Module, task: Task, batch: Batch, *, targets: Targets = "true", chunk: int | None = None
) -> tuple[Tensors, Tensor]:
    """The gradients of each record's loss by itself, by ``torch.func``: one vectorised pass instead of B.

    The model is asked in eval mode, so BatchNorm couples no records. Records that have the same modalities and masks go
    together; inside, each is a batch of one, so a loss means what it means for that record alone.

    Args:
        model: left as it is.
        task: gives the loss.
        batch: B records on the model's device.
        targets: ``"true"``: the training loss of the record (K = 1, weight 1). ``"model"``: the negative
            log-likelihood of each target it could have had, weighed by the model's probability of it
            (:meth:`~forgetmi.tasks.base.Task.outcomes`): what a Fisher matrix is an expectation over.
        chunk: records at a time; memory grows with it, B where ``None``.

    Returns:
        Gradients, name to [B, K, *shape], and weights [B, K].

    Raises:
        MethodError: the task cannot list its targets, or the model does something that ``torch.func`` cannot follow.
    """
    task.check_labels(batch)
    weights = trainable(model)
    parts: list[tuple[Tensors, Tensor]] = []
    order: list[Tensor] = []
    with preserved_mode(model):
        model.eval()
        for rows in _alike(batch):
            some = batch.rows(rows.tolist())
            order.append(rows)
            parts.append(_vectorised(model, task, some, weights, targets, chunk))
    back = torch.cat(order).argsort().to(batch.device)
    gradients = {name: torch.cat([part[name] for part, _ in parts])[back] for name in weights}
    return gradients, torch.cat([chances for _, chances in parts])[back]


def squared_gradients(
    model: nn.Module,
    task: Task,
    loader: Loader,
    indices: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    gradients: Gradients = "per_sample",
    targets: Targets = "true",
) -> Tensors:
    """The diagonal of the Fisher matrix, or what published code takes for it: how much each weight matters.

    ``per_sample``: (1/N) sum_i sum_k w_ik g_ik^2. ``batch``: the mean over batches of the squared gradient of the
    batch's mean loss; it shrinks as batches grow, and is here because published figures were made with it.

    Args:
        indices: N positions.
        batch_size: changes memory and speed only; with ``batch`` it is part of the definition.
        targets: see :func:`per_sample_gradients`; ``model`` needs ``per_sample``.

    Returns:
        Name to the parameter's shape, float32 or wider.
    """
    sums = {name: wide(torch.zeros_like(weight)) for name, weight in trainable(model).items()}
    if gradients == "batch":
        for gradient, _ in _batch_gradients(model, task, loader, indices, batch_size, device):
            for name in sums:
                sums[name] += gradient[name].square()
        count = -(-len(indices) // batch_size)
    else:
        for batch in loader.batches(indices, batch_size):
            found, chances = per_sample_gradients(model, task, batch.to(device), targets=targets)
            for name, rows in found.items():
                sums[name] += torch.einsum("bk...,bk->...", rows.square(), chances.to(rows.dtype))
        count = len(indices)
    return {name: total / count for name, total in sums.items()}


def gradient_sum(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], *, batch_size: int, device: torch.device
) -> Tensors:
    """The sum over records of the gradient of the training loss, in eval mode: name to the parameter's shape.

    A batch's mean loss counts as many times as it has records. Float32 or wider, whatever the weights are: in bfloat16
    a sum of hundreds stops growing.
    """
    sums = {name: wide(torch.zeros_like(weight)) for name, weight in trainable(model).items()}
    for gradient, size in _batch_gradients(model, task, loader, indices, batch_size, device):
        for name in sums:
            sums[name] += gradient[name] * size
    return sums


def _batch_gradients(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], batch_size: int, device: torch.device
) -> Iterator[tuple[Tensors, int]]:
    """Each batch's gradient of its training loss, and its size. ``.grad`` is not touched."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for batch in loader.batches(indices, batch_size):
        with preserved_mode(model), torch.enable_grad():
            model.eval()
            loss = task.loss(model, batch.to(device))
            found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True, allow_unused=True)
        yield dict(zip(parameters, found, strict=True)), len(batch)


def _vectorised(
    model: nn.Module, task: Task, batch: Batch, weights: Tensors, targets: Targets, chunk: int | None
) -> tuple[Tensors, Tensor]:
    """Records whose masks are the same."""
    leaves, form = tree_flatten(dict(batch.inputs))
    shared = [_is_mask(leaf) and bool((leaf == leaf[:1]).all()) for leaf in leaves]
    present = {name: mask[:1] for name, mask in batch.present.items()}

    def values(weights: Tensors, rows: list[Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = tree_unflatten(
            [row if same else row.unsqueeze(0) for row, same in zip(rows, shared, strict=True)], form
        )
        row = Batch(inputs, present, None if labels is None else labels.unsqueeze(0), batch.indices[:1])

        def called(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, weights, args, kwargs)

        if targets == "true":
            loss = task.loss(called, row)  # type: ignore[arg-type]  # it is called as the model is
            return loss, torch.ones_like(loss)
        nll = task.outcomes(task.output(called, row))[0]  # type: ignore[arg-type]
        return nll, torch.exp(-nll.detach())

    rows = [leaf[:1] if same else leaf for leaf, same in zip(leaves, shared, strict=True)]
    single = vmap(
        grad(values, has_aux=True) if targets == "true" else jacrev(values, has_aux=True),
        in_dims=(None, [None if same else 0 for same in shared], None if batch.labels is None else 0),
        chunk_size=chunk,
    )
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kinds have no vectorised form
            gradients, chances = single(weights, rows, batch.labels)
    except RuntimeError as error:
        raise MethodError(
            f"gradients of single records cannot be vectorised for this model ({str(error).splitlines()[0]})",
            fix="where the method has the option, set gradients: batch",
        ) from error
    if targets == "true":  # one target each
        return {name: gradient.unsqueeze(1) for name, gradient in gradients.items()}, chances.unsqueeze(1)
    return gradients, chances


def _is_mask(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and bool(((tensor == 0) | (tensor == 1)).all())


def _alike(batch: Batch) -> Iterator[Tensor]:
    """Places in the batch [n] of records that have the same modalities and the same masks over their inputs.

    Models look at masks to choose their way, and within ``torch.func`` a value can be looked at only where it is the
    same for all records.
    """
    masks = [mask[:, None] for mask in batch.present.values()]
    masks += [leaf.flatten(1) for leaf in tree_flatten(dict(batch.inputs))[0] if _is_mask(leaf)]
    if not masks:
        yield torch.arange(len(batch))
        return
    _, pattern = torch.cat([mask.bool() for mask in masks], dim=1).cpu().unique(dim=0, return_inverse=True)
    for number in range(int(pattern.max()) + 1):
        yield (pattern == number).nonzero()[:, 0]
