"""Norms of the gradients of single records, from one pass over all of them.

What goes into each layer (x, position by position) and the gradient of what comes out (g) are kept; a weight's gradient
for a record is made of that record's own. That of a linear layer is sum_t g_t x_t^T over the record's positions, so its
squared 2-norm is sum_ts (g_t . g_s)(x_t . x_s): where that is less work, no gradient is formed at all (Goodfellow 2015,
arXiv 1510.01799; over positions Li et al. 2022, arXiv 2110.05679). An embedding is a linear layer of unit vectors, and
one that is the output layer too has the positions of both uses. Any other layer is asked by ``torch.func``, so many
records at a time as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from forgetmi.batch import Batch
from forgetmi.tasks.base import Task
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.divergence import wide


def mean_losses(task: Task | CausalLMTask, model: nn.Module, batch: Batch) -> Tensor:
    """[B]: the mean negative log-likelihood over the tokens of each record (a classifier's has one, or one a label)."""
    losses, mask = task.token_nll(model, batch)
    return losses.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def norms_of_one(
    model: nn.Module, task: Task | CausalLMTask, batch: Batch, row: int, weights: dict[str, nn.Parameter], p: float
) -> Tensor:
    """Norms of the gradients of one record by themselves [weights]."""
    loss = mean_losses(task, model, batch.rows([row]))[0]
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    return torch.stack([torch.linalg.vector_norm(gradient, p, dtype=torch.float64) for gradient in found])


@dataclass
class _Use:
    """One call of a layer: what went in and came out, record by record [B, ...]."""

    layer: nn.Module
    given: Tensor
    made: Tensor
    rows: Tensor | None  # [B, T], N true: whose its rows [N, ...] are; ``None`` where it has the records' dimension


@dataclass
class _Tape:
    """The calls of all layers that have weights."""

    n_records: int
    mask: Tensor  # [B, T], N true
    uses: list[_Use] = field(default_factory=list)
    followed: bool = True

    def spread(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Positions [1, T], which all records share, once for each record: else their gradients would come summed."""
        first = given[0] if given else None
        if isinstance(first, Tensor) and not first.is_floating_point() and first.ndim > 1 and first.shape[0] == 1:
            return (first.expand(self.n_records, *first.shape[1:]), *given[1:])
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


def norms_of_all(
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
    fed = [(use.layer, *_by_record(use, gradient)) for use, gradient in zip(tape.uses, steep, strict=True)]
    norms = []
    for weight in weights.values():
        calls = [
            _Call(layer, name, given, gradient)
            for layer, given, gradient in fed
            for name, own in layer.named_parameters(recurse=False)
            if own is weight
        ]
        norms.append(_norms(calls, weight, len(batch), p, max_values))
    found = torch.stack(norms)
    alone = norms_of_one(model, task, batch, 0, weights, p)
    agree = torch.allclose(found[:, 0], alone, rtol=1e-2, atol=1e-4 * float(alone.max()))
    return found if agree else None


def _by_record(use: _Use, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer was given and the gradient of what it made, [B, ...]; a record's rows, and zeros behind them."""
    if use.rows is None:
        return use.given, gradient
    counts = use.rows.sum(dim=1)
    there = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]

    def placed(rows: Tensor) -> Tensor:
        whole = rows.new_zeros(*there.shape, *rows.shape[1:])
        whole[there] = rows
        return whole

    return placed(use.given), placed(gradient)


@dataclass
class _Call:
    """A use of one weight, record by record."""

    layer: nn.Module
    name: str
    given: Tensor
    steep: Tensor

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """U and V [B, S, ...] with the gradient of each record sum_s u_s v_s^T; ids [B, S] stand for unit vectors."""
        kind = type(self.layer)
        if self.name != "weight" or self.steep.ndim < 3:
            return None
        if kind is nn.Embedding:
            ids, padding = self.given.flatten(1), getattr(self.layer, "padding_idx", None)
            steep = _wide_rows(self.steep)  # padding gives its row no gradient
            return ids, steep if padding is None else steep * (ids != padding)[..., None]
        if kind is nn.Linear:
            return _wide_rows(self.steep), _wide_rows(self.given)
        if kind.__name__ == "Conv1D":  # of transformers: a linear layer whose weight is transposed
            return _wide_rows(self.given), _wide_rows(self.steep)
        return None

    def gradients(self, part: Tensor) -> Tensor:
        """The weight's gradient for each of some records [b, *shape]."""
        weight = self.layer.get_parameter(self.name).detach()

        def of_one(given: Tensor, steep: Tensor) -> Tensor:
            def call(weight: Tensor) -> Tensor:
                return functional_call(self.layer, {self.name: weight}, (given.unsqueeze(0),))

            return vjp(call, weight)[1](steep.unsqueeze(0))[0]

        if type(self.layer) is nn.Linear and self.steep.ndim > 2:  # not run again
            steep = _wide_rows(self.steep[part])
            return steep.sum(dim=1) if self.name == "bias" else steep.mT @ _wide_rows(self.given[part])
        return wide(vmap(of_one)(self.given[part], self.steep[part]))


def _wide_rows(values: Tensor) -> Tensor:
    return wide(values.flatten(1, -2))


def _norms(calls: Sequence[_Call], weight: nn.Parameter, n_records: int, p: float, max_values: int) -> Tensor:
    """Norms of one weight's gradients [B]; one that is used twice has the sum of two gradients."""
    if not calls:
        return torch.zeros(n_records, device=weight.device, dtype=torch.float64)
    pairs = [call.factors() for call in calls] if p == 2 else [None]
    known = [pair for pair in pairs if pair is not None]
    positions = sum(u.shape[1] for u, _ in known)
    if len(known) == len(calls) and positions * sum(weight.shape) < weight.numel():
        squares = sum((_inner(u, w) * _inner(v, x)).sum(dim=(1, 2)) for u, v in known for w, x in known)
        assert isinstance(squares, Tensor)
        return squares.clamp(min=0).sqrt()
    found = []
    for part in torch.arange(n_records, device=weight.device).split(max(1, max_values // weight.numel())):
        total = sum(call.gradients(part) for call in calls)
        assert isinstance(total, Tensor)
        found.append(torch.linalg.vector_norm(total.flatten(1), p, dim=1, dtype=torch.float64))
    return torch.cat(found)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """[B, S, T]: inner products of the rows of a [B, S, D] and b [B, T, D]; ids [B, S] stand for unit vectors.

    In double precision: large terms cancel.
    """
    if a.ndim == 2 and b.ndim == 2:
        return (a[:, :, None] == b[:, None, :]).double()
    if a.ndim == 2:
        return _inner(b, a).mT
    return a.double() @ b.double().mT if b.ndim == 3 else a.gather(2, b[:, None].expand(-1, a.shape[1], -1)).double()
