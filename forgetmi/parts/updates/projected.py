"""Gradients that do not conflict with another, or with a space of them; and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from forgetmi.training.trainer import Hook, Named

When = Literal["conflict", "always"]


def without(gradient: Tensor, other: Tensor, when: When) -> Tensor:
    """The gradient without its component along another one: g - (<g, r> / ||r||^2) r.

    ``conflict``: only where <g, r> < 0, i.e. where a step down g would raise, to first order, the loss that r is the
    gradient of (the rule of PCGrad, Yu et al. 2020, and of gradient-rectified unlearning). ``always``: orthogonal.

    Args:
        gradient, other: [P].
        when: see above.
    """
    along = torch.dot(gradient, other)
    if when == "conflict" and along >= 0:
        return gradient
    norm = torch.dot(other, other)
    return gradient if norm == 0 else gradient - along / norm * other


class Smoothed:
    """An exponential mean of the gradients of a fit's steps: m <- (1 - s) r + s m, from the first r on.

    A gradient of another length (of a fit of other weights) begins anew. Checkpoints hold it.

    Args:
        smoothing: s in [0, 1); 0 keeps nothing.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing
        self.mean: Tensor | None = None

    def update(self, gradient: Tensor) -> Tensor:
        """The mean with this gradient [P] in it."""
        if not self.smoothing:
            return gradient
        if self.mean is None or self.mean.shape != gradient.shape:
            self.mean = gradient
        else:
            self.mean = torch.lerp(gradient, self.mean.to(gradient), self.smoothing)
        return self.mean

    def state_dict(self) -> dict[str, Any]:
        """The mean, if there is one."""
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self.mean = state["mean"]


def orthonormal(rows: Tensor, tolerance: float = 1e-6) -> Tensor:
    """An orthonormal basis [r, P] of the space that rows [n, P] span, r <= n its dimension.

    Directions whose singular value is below ``tolerance`` of the largest are left out.
    """
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[sizes > tolerance * sizes.max().clamp(min=torch.finfo(rows.dtype).tiny)]


def outside(gradient: Tensor, basis: Tensor) -> Tensor:
    """The gradient without its component in a space with orthonormal basis Q [r, P]: g - Q^T Q g."""
    return gradient - basis.T @ (basis @ gradient)


def on_flat(change: Callable[[Tensor, Named], Tensor]) -> Hook:
    """A hook from a function on the whole gradient [P]; parameters without a gradient count as zeros, and stay so."""

    def hook(named: Named) -> None:
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in named])
        pieces = change(flat, named).split([p.numel() for _, p in named])
        for (_, parameter), piece in zip(named, pieces, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(piece.view_as(parameter))

    return hook


def noise(sd: float) -> Hook:
    """A hook that adds N(0, sd^2) to every entry of the gradient, drawn by the step's own seed."""
    return on_flat(lambda flat, named: flat + sd * torch.randn(flat.shape).to(flat))
