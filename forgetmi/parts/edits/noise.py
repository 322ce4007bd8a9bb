"""Noise on weights that matter little."""

from __future__ import annotations

from torch import Tensor


def noise_variance(fisher: Tensor, *, alpha: float, cap: float) -> Tensor:
    """Golatkar et al. 2020 (arXiv 1911.04933): alpha / F, at most alpha * cap, averaged over the second dimension.

    Args:
        fisher: F, the diagonal of the Fisher matrix for one parameter, any shape.
        alpha: scale, >= 0.
        cap: largest 1 / F.

    Returns:
        The variance, of F's shape; each output's incoming weights (dimension 1) share one value.
    """
    variance = alpha * (1.0 / (fisher + 1e-8)).clamp(max=cap)
    return variance.mean(dim=1, keepdim=True).expand_as(variance) if variance.ndim > 1 else variance
