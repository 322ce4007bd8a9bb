"""Shrinking weights that matter more for some records than for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def dampened(
    weights: Mapping[str, Tensor],
    forget: Mapping[str, Tensor],
    everything: Mapping[str, Tensor],
    *,
    alpha: float,
    lam: float,
    exponent: float = 1.0,
    bound: float = 1.0,
) -> dict[str, Tensor]:
    """SSD, Foster et al. 2024 (arXiv 2308.07707), eqs. 6-7.

        theta <- min( (lambda I_D / I_f)^p, b ) theta   where I_f > alpha I_D,   else theta.

    Args:
        weights: theta, name to tensor.
        forget, everything: I_f and I_D, importances of the same shapes, >= 0.
        alpha: selection threshold, >= 0; at 1 or more, equal importances select nothing.
        lam: lambda, >= 0; 0 makes selected weights 0.
        exponent: p, > 0.
        bound: b, in (0, 1]: with it no weight grows.

    Returns:
        New weights; no sign changes.
    """
    found = {}
    for name, theta in weights.items():
        i_f, i_d = forget[name], everything[name]
        # Where I_f is 0 nothing is selected; the ratio there is never used.
        factor = (lam * i_d / i_f.clamp(min=torch.finfo(i_f.dtype).tiny)).pow(exponent).clamp(max=bound)
        found[name] = torch.where(i_f > alpha * i_d, theta * factor, theta)
    return found
