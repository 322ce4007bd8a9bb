"""FLAT: a template answer is told from the answer to forget by an f-divergence; no retain data, no reference.

================  ==================  =====================  =================  ================
divergence        g*(v)               f*(g*(v))              weight of dP_e     weight of dP_f
================  ==================  =====================  =================  ================
kl                v                   e^(v - 1)              1                  e^(P_f - 1)
jensen_shannon    ln 2 - ln(1+e^-v)   ln(1 + e^v) - ln 2     1 / (1 + e^P_e)    1 / (1 + e^-P_f)
pearson           v                   v^2 / 4 + v            1                  1 + P_f / 2
total_variation   tanh(v) / 2         tanh(v) / 2            sech^2(P_e) / 2    sech^2(P_f) / 2
================  ==================  =====================  =================  ================

The weights are how much of the step goes to teaching the template and to forgetting the answer.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetmi.parts.objectives.sequence import sequence_means

Divergence = Literal["kl", "jensen_shannon", "pearson", "total_variation"]


def variational(divergence: Divergence, v: Tensor) -> Tensor:
    """g*(v), the divergence's optimal variational function, of the table above; any shape."""
    if divergence == "jensen_shannon":
        return math.log(2) - F.softplus(-v)
    return torch.tanh(v) / 2 if divergence == "total_variation" else v


def conjugate(divergence: Divergence, v: Tensor) -> Tensor:
    """f*(g*(v)), f* the convex conjugate of the divergence's f, of the table above; any shape."""
    if divergence == "kl":
        return torch.exp(v - 1)
    if divergence == "jensen_shannon":
        return F.softplus(v) - math.log(2)
    return v.square() / 4 + v if divergence == "pearson" else torch.tanh(v) / 2


def answer_probability(token_nll: Tensor, mask: Tensor, *, reference_compat: bool = False) -> Tensor:
    """P = (1/|y|) sum_t p(y_t | x, y_<t): the mean probability (not log-probability) of an answer's tokens.

    Args:
        token_nll: -log p_t [B, T].
        mask: true for answer tokens [B, T].
        reference_compat: the published code's averaging: one P for the batch, over all B T positions, at which those
            of prompt and padding count 0. P then shrinks with padding, and every divergence becomes linear in it.

    Returns:
        [B], in [0, 1]; with ``reference_compat`` a scalar.
    """
    probabilities = torch.exp(-token_nll.masked_fill(~mask, torch.inf))
    return probabilities.mean() if reference_compat else sequence_means(probabilities, mask)


def flat_loss(
    template_nll: Tensor,
    template_mask: Tensor,
    forget_nll: Tensor,
    forget_mask: Tensor,
    divergence: Divergence,
    *,
    reference_compat: bool = False,
) -> Tensor:
    """FLAT, Wang et al. 2025 (ICLR, arXiv 2410.11143): L = -( g*(P_e) - f*(g*(P_f)) ), P of :func:`answer_probability`.

    Lower as the template grows likelier and the answer to forget less likely, always. The derivative of p by its logit
    is p (1 - p): learning is slow where an answer is known by heart.

    Our reading: each record's two answers are compared, and the loss is the mean over records, so that batches change
    nothing. ``reference_compat`` takes the two numbers of the batch, as published code does.

    Args:
        template_nll, template_mask: of a template answer y_e to each forget question [B, T_e].
        forget_nll, forget_mask: of the answer to forget y_f [B, T_f].
        divergence: see the table above.
        reference_compat: see :func:`answer_probability`.

    Returns:
        A scalar.
    """
    template = answer_probability(template_nll, template_mask, reference_compat=reference_compat)
    forget = answer_probability(forget_nll, forget_mask, reference_compat=reference_compat)
    return (conjugate(divergence, forget) - variational(divergence, template)).mean()
