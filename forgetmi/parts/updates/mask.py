"""Masks: only chosen entries of the weights move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from forgetmi.errors import MethodError
from forgetmi.models.weights import state_sha256
from forgetmi.training.trainer import Named, Trainer


def largest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the entries with the largest scores of all tensors together: exactly ``round(share * n)`` of n.

    Of equal scores those that stand first are taken.

    Args:
        scores: name to a tensor of any shape.
        share: in [0, 1].
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[flat.argsort(descending=True, stable=True)[: round(share * len(flat))]] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


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
