"""Negative preference optimisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def npo_loss(nll: Tensor, reference_nll: Tensor, beta: float) -> Tensor:
    """NPO, Zhang et al. 2024 (arXiv 2404.05868), eq. 3.

        L = (2 / beta) E[ -log sigmoid( -beta log( pi_theta(y|x) / pi_ref(y|x) ) ) ]
          = (2 / beta) E[ softplus( beta (nll_ref - nll) ) ]

    At theta = theta_ref the value is (2 / beta) ln 2 and dL/dnll = -1 for each example (divided by B): the gradient of
    gradient ascent. As nll grows the gradient fades; as beta -> 0 it is gradient ascent everywhere.

    Args:
        nll: -log pi_theta(y|x), sums over the target's tokens [B].
        reference_nll: the same under the frozen original [B].
        beta: inverse temperature, > 0.

    Returns:
        A scalar.
    """
    return 2.0 / beta * F.softplus(beta * (reference_nll - nll)).mean()
