"""Gradient ascent on answers, and the sum of a forget term and a retain term that most methods minimise.

==================  ===================================  =====================================================
method              forget term                          retain term
==================  ===================================  =====================================================
gradient ascent     :func:`ascent_loss`                  none
GradDiff            :func:`ascent_loss`                  token mean of the negative log-likelihood
KL-min              :func:`ascent_loss`                  the task's divergence from the original
IDK (PO)            token mean of -log p of "I don't     token mean of the negative log-likelihood
                    know" answers to forget questions
NPO, DPO, ...       of their own modules                 either of the two
==================  ===================================  =====================================================
"""

from __future__ import annotations

from torch import Tensor

from forgetmi.parts.objectives.sequence import token_mean


def ascent_loss(token_nll: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Gradient ascent: L = - (1/N) sum_t w_t (-log p_t) over the N answer tokens of the batch. Unbounded below.

    (Jang et al. 2023, arXiv 2210.01504; the baseline of TOFU, Maini et al. 2024, arXiv 2401.06121.) Without weights
    w = 1. Sequences are left out (as selective gradient ascent does) by leaving them out of the mask.

    Args:
        token_nll: -log p_t [B, T].
        mask: true for answer tokens [B, T].
        weights: w [B, T], of :mod:`forgetmi.parts.objectives.reweighted`; no gradient goes through them.

    Returns:
        A scalar.
    """
    if weights is None:
        return -token_mean(token_nll, mask)
    return -token_mean(weights.detach().masked_fill(~mask, 0.0) * token_nll, mask)


def forget_retain_loss(forget: Tensor, retain: Tensor, *, gamma: float = 1.0, alpha: float = 1.0) -> Tensor:
    """The sum gamma L_forget + alpha L_retain (GradDiff: Liu et al. 2022, arXiv 2203.12817, with gamma = alpha = 1).

    Args:
        forget, retain: scalars.
        gamma, alpha: their weights, >= 0.
    """
    return gamma * forget + alpha * retain
