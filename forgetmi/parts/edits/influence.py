"""A Newton step from gradients of single records."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_curvature_product(rows: Tensor, vector: Tensor, n: int, damping: float) -> Tensor:
    """(lambda I + (1/n) G^T G)^-1 v, by the Woodbury identity: a system of m equations instead of P.

        = ( v - G^T (n lambda I + G G^T)^-1 G v ) / lambda

    The published recursion over single gradients reaches the same matrix only where all gradients are parallel; this
    is what it stands for.

    Args:
        rows: G, [m, P].
        vector: v, [P].
        n: number of records that the rows are a sum over.
        damping: lambda, > 0.

    Returns:
        [P]; the system is solved in float64.
    """
    gram = rows.double() @ rows.double().T
    system = gram + n * damping * torch.eye(len(rows), dtype=gram.dtype, device=gram.device)
    inner = torch.linalg.solve(system, rows.double() @ vector.double())
    return ((vector.double() - rows.double().T @ inner) / damping).to(vector.dtype)
