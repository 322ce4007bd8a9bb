"""Taking directions out of what a layer can say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def most_affected(forget: Tensor, retain: Tensor, share: float) -> Tensor:
    """Places [k] of the outputs whose mean magnitude over the forget records exceeds that over the retain records most.

    Args:
        forget, retain: mean |a|, [D] each.
        share: of the D outputs, rounded down; one at least.
    """
    return torch.topk(forget - retain, max(1, int(share * len(forget)))).indices


def differential(target: Tensor, siblings: Tensor) -> Tensor | None:
    """The unit vector from the siblings' mean to the target's, [k] each; ``None`` where they are the same."""
    difference = target - siblings
    norm = difference.norm()
    return difference / norm if norm > 1e-8 else None


def common_space(directions: Sequence[Tensor], variance: float) -> Tensor:
    """Orthonormal columns Q [k, r]: the first right singular vectors of the directions that hold so much of them.

    r is the smallest number whose squared singular values sum to at least ``variance`` of all.
    """
    _, sizes, vectors = torch.linalg.svd(torch.stack(list(directions)).double(), full_matrices=False)
    squares = sizes.square()
    rank = int((squares.cumsum(0) < variance * squares.sum() * (1 - 1e-12)).sum()) + 1
    return vectors[: min(rank, len(sizes))].T


def without_space(rows: Tensor, space: Tensor) -> Tensor:
    """(I - Q Q^T) W for rows W [k, ...] and Q [k, r]: what comes out has no component in the space."""
    flat = rows.flatten(1) if rows.ndim > 1 else rows[:, None]
    wide = flat.double()
    return (wide - space @ (space.T @ wide)).to(rows.dtype).view_as(rows)
