"""Divergences between distributions, at least in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """In float32, where they are not in float64 already."""
    return values if values.dtype == torch.float64 else values.float()


def categorical_kl(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """KL( softmax(target / T) || softmax(logits / T) ) of each row.

    Summed over the C classes. ``F.kl_div`` with its default reduction would divide by C as well, and with raw logits
    for log-probabilities it is no divergence at all; both stand in published code.

    Args:
        logits, target: [..., C].
        temperature: T > 0.

    Returns:
        [...], not negative up to rounding; zero, with zero gradient, where both are equal.
    """
    p = F.log_softmax(wide(logits) / temperature, dim=-1)
    q = F.log_softmax(wide(target) / temperature, dim=-1)
    return F.kl_div(p, q, reduction="none", log_target=True).sum(dim=-1)


def bernoulli_kl(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """The same for L independent labels with one logit each, summed over them: [..., L] to [...]."""
    z, t = wide(logits) / temperature, wide(target) / temperature
    q = torch.sigmoid(t)
    return (q * (F.logsigmoid(t) - F.logsigmoid(z)) + (1 - q) * (F.logsigmoid(-t) - F.logsigmoid(-z))).sum(dim=-1)


def excluded(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [..., C] with those of ``targets`` [...] so low that softmax gives them 0, and finite all the same."""
    logits = wide(logits)
    return logits.scatter(-1, targets.unsqueeze(-1), torch.finfo(logits.dtype).min / 4)
