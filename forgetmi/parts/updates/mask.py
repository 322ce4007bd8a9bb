"""Masks: only chosen entries of the weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import MethodError
from forgetmi.models.weights import state_sha256
from forgetmi.tasks.divergence import wide
from forgetmi.training.trainer import Named, Trainer

Scope = Literal["all", "each"]


def largest(scores: Mapping[str, Tensor], share: float, scope: Scope = "all") -> dict[str, Tensor]:
    """Masks of the entries with the largest scores: exactly ``round(share * n)`` of n.

    Of equal scores those that stand first are taken. Nothing is sorted or joined, so that beside the masks it takes no
    more memory than one tensor's, however many there are.

    Args:
        scores: name to a tensor of any shape; infinities are in order.
        share: in [0, 1].
        scope: ``"all"``: of the entries of all tensors together; ``"each"``: of each tensor's by itself.

    Raises:
        MethodError: a score is NaN.
    """
    if bad := next((name for name, score in scores.items() if score.isnan().any()), None):
        raise MethodError(f"scores of {bad} are NaN: weights cannot be ranked by them")
    if scope == "each":
        return {name: _largest([score], share)[0] for name, score in scores.items()}
    return dict(zip(scores, _largest(list(scores.values()), share), strict=True))


def _largest(scores: Sequence[Tensor], share: float) -> list[Tensor]:
    n = round(share * sum(score.numel() for score in scores))
    if n == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    bound = _nth_largest(scores, n)
    masks = [(wide(score) > bound).contiguous() for score in scores]
    left = n - sum(int(mask.sum()) for mask in masks)
    for score, mask in zip(scores, masks, strict=True):
        equal = (wide(score) == bound).flatten().nonzero()[:left, 0]
        mask.view(-1)[equal] = True
        left -= len(equal)
    return masks


def _nth_largest(scores: Sequence[Tensor], n: int) -> float:
    """By bisection over the bits of floating-point numbers, which read as integers are in the numbers' order."""
    double = any(score.dtype == torch.float64 for score in scores)
    dtype, integer, flip = (
        (torch.float64, torch.int64, 2**63 - 1) if double else (torch.float32, torch.int32, 2**31 - 1)
    )

    def key(number: float) -> int:
        bits = int(torch.tensor(number, dtype=dtype).view(integer))
        return bits if bits >= 0 else bits ^ flip

    def number(key: int) -> float:
        return float(torch.tensor(key if key >= 0 else key ^ flip, dtype=integer).view(dtype))

    filled = [score for score in scores if score.numel()]
    low, high = (key(bound) for bound in (min(float(s.min()) for s in filled), max(float(s.max()) for s in filled)))
    while low < high:
        middle = (low + high + 1) // 2
        if sum(int((wide(score) >= number(middle)).sum()) for score in filled) >= n:
            low = middle
        else:
            high = middle - 1
    return number(low)


class WeightMask:
    """Entries outside the mask get no gradient and are put back after each step, exactly: weight decay and momentum,
    which move weights without a gradient, cannot move them.

    Args:
        masks: parameter name to a mask of its shape; true entries may move.
        model: gives the values that the others keep.
    """

    def __init__(self, masks: Mapping[str, Tensor], model: nn.Module) -> None:
        self.masks = dict(masks)
        self.start = {name: p.detach().clone() for name, p in model.named_parameters() if name in self.masks}

    def constrain(self, trainer: Trainer) -> Trainer:
        """A trainer whose fits of the masked model keep to the mask.

        A fit of another model (a gate, a generator), whose parameters have other names, is left alone.
        """
        return trainer.constrained(
            update=self._update, after_step=self._after_step, identity=f"mask {state_sha256(self.masks)}"
        )

    def restore(self, model: nn.Module) -> None:
        """Put every entry outside the mask back."""
        named = [(name, p) for name, p in model.named_parameters() if name in self.masks]
        if len(named) != len(self.masks):
            raise MethodError("the masked method gave a model of another kind: a mask cannot hold its weights")
        with torch.no_grad():
            self._after_step(named)

    def _update(self, named: Named) -> None:
        if self._concerns(named):
            for name, parameter in named:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.masks[name])

    def _after_step(self, named: Named) -> None:
        if self._concerns(named):
            for name, parameter in named:
                parameter.copy_(torch.where(self.masks[name], parameter, self.start[name]))

    def _concerns(self, named: Named) -> bool:
        if not all(name in self.masks for name, _ in named):
            return False
        for name, parameter in named:
            if parameter.shape != self.masks[name].shape:
                raise MethodError(f"the masked method changes the shape of {name}: a mask cannot hold its weights")
        return True
