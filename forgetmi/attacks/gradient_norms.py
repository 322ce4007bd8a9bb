"""How steep the loss is at each record: what a model was trained on lies near the bottom of its loss.

The score of an attack with white-box access (the norm of a record's gradient; small = member). A pass over B records
gives the gradients of all of them: what goes into each layer and the gradient of what comes out are kept, and the
gradient of the layer's weights is made of the two for each record by itself, one layer at a time, so that the gradients
of no more than one layer are held. Of every batch one record is also done by itself; where the two disagree, or a layer
is not fed record by record, all records are done one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from forgetmi.batch import Batch
from forgetmi.errors import AuditError, ConfigError, ModelError, unmet
from forgetmi.metrics.roc import Floats
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.lora import copy_sharing
from forgetmi.tasks.base import Task
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.divergence import wide

MAX_VALUES = 2**27
"""How many values of gradients are held at a time: 512 MiB in float32 (or one record's, of one weight)."""


@dataclass(frozen=True)
class GradientOptions:
    """What the norm of a gradient is.

    Attributes:
        p: of the p-norm: 1, 2, ..., or ``inf``.
        aggregate: ``global``: one norm of all weights. ``mean_of_tensors``: the mean of the norms of the weight
            tensors, as in published code; a bias of ten numbers then weighs as much as an embedding. Published values
            are made with dropout on, so that two runs differ; ours never are.
        weights: ``all``: every weight, frozen or not, with an adapter merged first: models that were trained in
            different ways are then asked the same. ``trained``: those that require a gradient; of a model with an
            adapter, the adapter's alone.
    """

    p: float = 2.0
    aggregate: Literal["global", "mean_of_tensors"] = "global"
    weights: Literal["all", "trained"] = "all"

    def __post_init__(self) -> None:
        checks = {
            f"p must be at least 1, not {self.p}": self.p >= 1,
            f"aggregate must be global or mean_of_tensors, not {self.aggregate!r}": self.aggregate
            in ("global", "mean_of_tensors"),
            f"weights must be all or trained, not {self.weights!r}": self.weights in ("all", "trained"),
        }
        if problems := unmet(checks):
            raise ConfigError(problems)


def gradient_norms(
    model: nn.Module,
    task: Task | CausalLMTask,
    batches: Iterable[Batch],
    device: torch.device,
    options: GradientOptions | None = None,
    *,
    max_values: int = MAX_VALUES,
) -> Floats:
    """The norm of the gradient of each record's loss [N]: of a language model, its mean over the record's tokens.

    Args:
        model: where ``device`` is. It is left in its mode, no gradient is left on it, and no weight is copied but
            those that an adapter is merged into.
        task: scores it.
        batches: N records in all; how they are batched changes speed and memory only.
        device: where the model is.
        options: see :class:`GradientOptions`.
        max_values: of gradients held at a time.

    Raises:
        ModelError: its weights cannot have gradients (4 bits), or none requires one.
        AuditError: a norm is not finite.
    """
    options = options or GradientOptions()
    work, by_itself = _differentiable(model, options.weights), False
    weights = {name: weight for name, weight in work.named_parameters() if weight.requires_grad}
    if isinstance(task, CausalLMTask):  # the head sees all rows of a batch at once, or it could not be followed
        task = replace(task, max_logits=2**62)
    found: list[Tensor] = []
    with torch.enable_grad():
        for batch in batches:
            task.check_labels(batch)
            moved, norms = batch.to(device), None
            if len(batch) > 1 and not by_itself:
                norms = _all_at_once(work, task, moved, weights, options.p, max_values)
                by_itself = norms is None
            if norms is None:
                norms = torch.stack([_alone(work, task, moved, i, weights, options.p) for i in range(len(batch))], 1)
            found.append(_aggregated(norms, options).cpu())
    values: Floats = torch.cat(found).double().numpy()
    if wrong := int((~np.isfinite(values)).sum()):
        raise AuditError(
            f"the gradients of {wrong} of {values.size} records are not finite",
            fix="score in float32: the model overflows",
        )
    return values


def mean_losses(task: Task | CausalLMTask, model: nn.Module, batch: Batch) -> Tensor:
    """[B]: the mean negative log-likelihood over the tokens of each record (a classifier's has one, or one a label)."""
    losses, mask = task.token_nll(model, batch)
    return losses.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _aggregated(norms: Tensor, options: GradientOptions) -> Tensor:
    """[weights, B] norms of tensors to one a record [B]. The p-norm of p-norms of pieces is that of the whole."""
    return (
        norms.mean(dim=0) if options.aggregate == "mean_of_tensors" else torch.linalg.vector_norm(norms, options.p, 0)
    )


def _differentiable(model: nn.Module, which: str) -> nn.Module:
    """The same model over the same numbers, with parameters of its own, in eval mode."""
    if which == "all" and isinstance(model, CausalLM) and model.is_quantised:
        raise ModelError(
            "weights that are kept in 4 bits have no gradient", fix="set weights: trained, for the adapter's gradients"
        )
    if which == "all" and isinstance(model, CausalLM) and model.has_adapter:
        work: nn.Module = model.without_adapter(merge=True)
    else:
        work = copy_sharing(model, everything=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for name, weight in work.named_parameters():
        if weight.is_floating_point():
            weight.requires_grad_(which == "all" or name in trained)
    if not any(weight.requires_grad for weight in work.parameters()):
        raise ModelError("no weight of the model requires a gradient", fix="set weights: all")
    return work.eval()


def _alone(
    model: nn.Module, task: Task | CausalLMTask, batch: Batch, row: int, weights: dict[str, nn.Parameter], p: float
) -> Tensor:
    """Norms of the gradients of one record by themselves [weights]."""
    loss = mean_losses(task, model, batch.rows([row]))[0]
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    return torch.stack([torch.linalg.vector_norm(wide(gradient), p) for gradient in found])


@dataclass
class _Use:
    """One call of a layer: what went in and came out, record by record [B, ...]."""

    layer: nn.Module
    given: Tensor
    made: Tensor
    rows: Tensor | None  # [B, T]: where its rows [N, ...] stand, or ``None`` where it has the records' dimension


@dataclass
class _Tape:
    """The calls of all layers that have weights."""

    n_records: int
    mask: Tensor  # [B, T], N true
    uses: list[_Use] = field(default_factory=list)
    followed: bool = True

    def spread(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Positions [1, T], which all records share, once for each record: else their gradients would come summed."""
        if given and isinstance(given[0], Tensor) and given[0].ndim > 1 and given[0].shape[0] == 1 < self.n_records:
            return (given[0].expand(self.n_records, *given[0].shape[1:]), *given[1:])
        return None

    def note(self, layer: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        """Keep a call."""
        if isinstance(made, Tensor) and not made.requires_grad:
            return  # the model is asked something else, without gradients
        if not (len(given) == 1 and isinstance(given[0], Tensor) and isinstance(made, Tensor) and given[0].ndim):
            self.followed = False
        elif given[0].shape[0] == made.shape[0] == self.n_records:
            self.uses.append(_Use(layer, given[0].detach(), made, None))
        elif given[0].shape[0] == made.shape[0] == int(self.mask.sum()):
            self.uses.append(_Use(layer, given[0].detach(), made, self.mask))
        else:
            self.followed = False


@contextmanager
def _taped(model: nn.Module, tape: _Tape) -> Iterator[None]:
    handles = []
    for layer in model.modules():
        if any(weight.requires_grad for weight in layer.parameters(recurse=False)):
            handles += [layer.register_forward_pre_hook(tape.spread), layer.register_forward_hook(tape.note)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _all_at_once(
    model: nn.Module,
    task: Task | CausalLMTask,
    batch: Batch,
    weights: dict[str, nn.Parameter],
    p: float,
    max_values: int,
) -> Tensor | None:
    """Norms of the gradients of each record [weights, B]; ``None`` where the model's layers cannot be followed."""
    tape = _Tape(len(batch), task.token_mask(batch))
    with _taped(model, tape):
        losses = mean_losses(task, model, batch)
    if not tape.followed:
        return None
    steep = torch.autograd.grad(
        losses.sum(), [use.made for use in tape.uses], allow_unused=True, materialize_grads=True
    )
    fed = [(use, *_by_record(use, gradient)) for use, gradient in zip(tape.uses, steep, strict=True)]
    norms = []
    for weight in weights.values():
        calls = [
            (_own_gradient(use.layer, name), given, gradient)
            for use, given, gradient in fed
            for name, own in use.layer.named_parameters(recurse=False)
            if own is weight
        ]
        size = max(1, max_values // weight.numel())
        norms.append(torch.cat([_norms(calls, part, weight, p) for part in torch.arange(len(batch)).split(size)]))
    found = torch.stack(norms)
    alone = _alone(model, task, batch, 0, weights, p)
    agree = torch.allclose(found[:, 0], alone, rtol=1e-2, atol=1e-4 * float(alone.max()))
    return found if agree else None


def _by_record(use: _Use, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer was given and the gradient of what it made, [B, ...]; rows in their places, zeros between them."""
    if use.rows is None:
        return use.given, gradient

    def placed(rows: Tensor) -> Tensor:
        whole = rows.new_zeros(*use.rows.shape, *rows.shape[1:])  # type: ignore[union-attr]
        whole[use.rows] = rows
        return whole

    return placed(use.given), placed(gradient)


Call = tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]


def _norms(calls: list[Call], part: Tensor, weight: nn.Parameter, p: float) -> Tensor:
    """Norms of one weight's gradients of some records; a weight that is used twice has the sum of two gradients."""
    if not calls:
        return torch.zeros(len(part), device=weight.device)
    rows = part.to(weight.device)
    total = sum(wide(gradient(given[rows], steep[rows])) for gradient, given, steep in calls)
    assert isinstance(total, Tensor)
    return torch.linalg.vector_norm(total.flatten(1), p, dim=1)


def _own_gradient(layer: nn.Module, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(what went in [B, ...], the gradient of what came out [B, ...]) to the weight's gradient of each record."""
    weight = layer.get_parameter(name).detach()

    def of_one(given: Tensor, steep: Tensor) -> Tensor:
        def call(weight: Tensor) -> Tensor:
            return functional_call(layer, {name: weight}, (given.unsqueeze(0),))

        return vjp(call, weight)[1](steep.unsqueeze(0))[0]

    return vmap(of_one)
