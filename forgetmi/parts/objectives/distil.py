"""Losses on whole distributions over the vocabulary: towards one without the true token, the original's or its own.

Functions of one token's logits (``..._tokens``) take any leading shape: [B, T, V] with means over a mask afterwards, or
only the rows [N, V] of answer tokens, a chunk at a time, so that no vocabulary need be held for the prompt or padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetmi.tasks.divergence import excluded, wide


def undial_tokens(logits: Tensor, reference_logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """UNDIAL, Dong et al. 2024 (arXiv 2402.10052): distil the original with the true token's logit lowered.

        q = softmax( z_ref - beta onehot(y) ),    L_t = - sum_v q_v log p_theta(v)

    The gradient with respect to the logits is p - q. beta = 0 is self-distillation (no gradient at theta_ref); as beta
    grows, q becomes the original's distribution given that the token is not y.

    Args:
        logits, reference_logits: [..., V]; no gradient goes through the reference.
        labels: y [...]; negative where there is none (-100), where the value means nothing and must be masked.
        beta: >= 0. Published: 10 (3 to 30).

    Returns:
        L_t [...].
    """
    reference = wide(reference_logits.detach())
    index = labels.clamp(min=0).unsqueeze(-1)
    lowered = reference.scatter_add(-1, index, torch.full_like(index, -beta, dtype=reference.dtype))
    return _soft_cross_entropy(logits, lowered.softmax(dim=-1))


def ce_u_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """CE-U, Yang 2025 (arXiv 2503.01224): the model's own distribution, given that the token is not y, is the target.

        q = softmax( z with z_y = -inf ), a constant,    L_t = - sum_v q_v log p_theta(v)

    The gradient with respect to the logits is p - q: p_y at y, and -p_v p_y / (1 - p_y) at any other v. It vanishes
    with p_y and is bounded, unlike gradient ascent's. Published code leaves out the first answer token
    (:func:`~forgetmi.parts.objectives.sequence.after_first`).

    Args:
        logits: [..., V], V >= 2.
        labels: y [...]; negative where there is none, where the value means nothing and must be masked.

    Returns:
        L_t [...].
    """
    return _soft_cross_entropy(logits, excluded(logits.detach(), labels.clamp(min=0)).softmax(dim=-1))


def _soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """- sum_v q_v log p_v: [..., V] and probabilities [..., V] to [...]."""
    size = logits.shape[-1]
    losses = F.cross_entropy(wide(logits).reshape(-1, size), target.reshape(-1, size), reduction="none")
    return losses.view(logits.shape[:-1])
