"""Noise on weights: on those that matter little for what is kept, and on those that matter most for what is not."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetmi.tasks.divergence import wide


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


def noisy(weight: Tensor, mask: Tensor, sd: float, generator: torch.Generator, *, relative: bool = False) -> Tensor:
    """GRIN, Anjarlekar & Pombra 2025 (arXiv 2508.06467): theta + sigma m z, z ~ N(0, I), on the chosen entries alone.

    The paper's abstract says that noise goes into the chosen weights before fine-tuning, and no more; the size is our
    option.

    Args:
        weight: theta, one parameter of any shape; it is left as it is.
        mask: m, of the same shape; outside it the result is theta bit by bit.
        sd: sigma >= 0.
        generator: of the draws, on the CPU; as many as the mask has entries, in their order.
        relative: sigma is in units of the parameter's own standard deviation.

    Returns:
        A new tensor of the weight's type.
    """
    changed = weight.detach().clone()
    scale = sd * float(wide(changed).std(correction=0)) if relative else sd
    drawn = torch.randn(int(mask.sum()), generator=generator).to(changed.device)
    changed[mask] = (wide(changed[mask]) + scale * drawn).to(changed.dtype)
    return changed
