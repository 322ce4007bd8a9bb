"""Weights of tokens in gradient ascent: which of an answer's tokens are to be forgotten, and how hard.

Each gives w [B, T] for :func:`~forgetmi.parts.objectives.ascent.ascent_loss`, in which they count as constants:
dL/d(-log p_t) = -w_t / N. They are computed from -log p, so that a p that rounds to 0 or 1 costs no digits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wga_weights(token_nll: Tensor, beta: float) -> Tensor:
    """WGA, weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301): w_t = p_t^beta.

    Tokens that the model has unlearned weigh nothing, so the ascent stops by itself; beta = 0 is gradient ascent.

    Args:
        token_nll: -log p_t [B, T].
        beta: >= 0. Published: 1, and 5 in the authors' code.
    """
    return torch.exp(-beta * token_nll.detach())


def satimp_weights(token_nll: Tensor, beta1: float, beta2: float) -> Tensor:
    """SatImp (Yang et al. 2025, arXiv 2505.11953): w_t = p_t^beta1 (1 - p_t)^beta2.

    The first factor is saturation (what is unlearned counts less), the second importance (what the model is sure of
    anyway, as of most words, counts less). beta2 = 0 is WGA, both 0 gradient ascent.

    Args:
        token_nll: -log p_t [B, T].
        beta1, beta2: >= 0. Published: 5 and 1.
    """
    return wga_weights(token_nll, beta1) * (-torch.expm1(-token_nll.detach())) ** beta2


def tnpo_weights(token_nll: Tensor, reference_nll: Tensor, beta: float, alpha: float = 0.0) -> Tensor:
    """TNPO and WTNPO (Wang et al. 2025, arXiv 2502.19301): NPO with each token as a sequence of its own.

        w_t = 2 p_t^(beta + alpha) / ( p_t^beta + p0_t^beta ) = 2 p_t^alpha sigmoid( beta log(p_t / p0_t) )

    With alpha = 0 (TNPO) the gradient is that of ``npo_loss`` over the batch's answer tokens, to the letter; beta -> 0
    is WGA.

    Args:
        token_nll: -log p_t [B, T].
        reference_nll: -log p0_t, of the frozen original [B, T].
        beta: inverse temperature, > 0. Authors' code: 4.
        alpha: >= 0. Authors' code: 1.5 (WTNPO).
    """
    return 2.0 * wga_weights(token_nll, alpha) * torch.sigmoid(beta * (reference_nll - token_nll).detach())
