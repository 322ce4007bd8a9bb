"""Quantities of single tokens, computed some tokens at a time: the vocabulary of a whole batch is never held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # torch.func offers no public way to ask
from torch.utils.checkpoint import checkpoint

from forgetmi.models.output import ModelOutput
from forgetmi.tasks.divergence import wide

IGNORED = -100

TokenFunction = Callable[..., Tensor]
"""(logits [N, V] of each output, labels [N]) to [N], or to [N, K]: something, or K things, of each token on its own."""

MAX_LOGITS = 2**25
"""How many logits are held at a time by default: 128 MiB in float32, 223 tokens of a vocabulary of 150,000."""


def token_values(
    function: TokenFunction, outputs: Sequence[ModelOutput], labels: Tensor, max_logits: int = MAX_LOGITS
) -> tuple[Tensor, Tensor]:
    """A function of the logits of each answer token; logits of other positions are not even computed.

    Logits at t speak of the token at t + 1. With more answer tokens than fit, they are taken in chunks whose logits
    are thrown away after use and computed again for the gradient: values and gradients are those of the plain form up
    to rounding, and memory does not grow with the batch.

    Args:
        function: see :data:`TokenFunction`; must treat its rows independently.
        outputs: sequence outputs of one batch: of the model, of a reference, ...
        labels: [B, T], :data:`IGNORED` where a token is not part of the answer.
        max_logits: how many logits of one output may be held at a time.

    Returns:
        ([B, T-1] values, or [B, T-1, K], zero outside the answer; [B, T-1] mask of answer tokens).
    """
    mask = labels[:, 1:] != IGNORED
    if is_functorch_wrapped_tensor(labels):
        return _dense(function, outputs, labels, mask)
    chosen = F.pad(mask, (0, 1))  # positions [B, T] whose logits are asked for
    targets = labels[:, 1:][mask]
    rows, readers = zip(*(output.rows(chosen) for output in outputs), strict=True)

    def compute(targets: Tensor, *rows: Tensor) -> Tensor:
        return function(*(read(part) for read, part in zip(readers, rows, strict=True)), targets)

    with torch.no_grad():
        size = max(1, max_logits // max(1, readers[0](rows[0][:0]).shape[-1]))  # no row, all columns
    if len(targets) <= size:
        found = compute(targets, *rows)
    else:
        again = torch.is_grad_enabled()
        parts = zip(targets.split(size), *(part.split(size) for part in rows), strict=True)
        found = torch.cat(
            [checkpoint(compute, *part, use_reentrant=False) if again else compute(*part) for part in parts]
        )
    each = found.shape[1:]
    return found.new_zeros(mask.shape + each).masked_scatter(mask.view(*mask.shape, *(1 for _ in each)), found), mask


def _dense(
    function: TokenFunction, outputs: Sequence[ModelOutput], labels: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from all positions: inside torch.func shapes must not depend on which of them count."""
    logits = [output.logits[:, :-1].flatten(0, 1) for output in outputs]
    found = function(*logits, labels[:, 1:].clamp(min=0).flatten()).unflatten(0, mask.shape)
    return torch.where(mask.view(*mask.shape, *(1 for _ in found.shape[2:])), found, 0.0), mask


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(token) [N], at least in float32."""
    return F.cross_entropy(wide(logits), labels, reduction="none", ignore_index=IGNORED)
