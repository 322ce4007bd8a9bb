"""RMU: representations of what is to be forgotten are steered to a random direction, all others held."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetmi.parts.objectives.sequence import sequence_means
from forgetmi.tasks.divergence import wide


def control_vector(width: int, coefficient: float, generator: torch.Generator) -> Tensor:
    """The vector c u [D]: u = r / ||r||, r uniform in [0, 1)^D. Drawn once: anew at each step it steers nowhere.

    Args:
        width: D.
        coefficient: c > 0. Published: 6.5 (Zephyr 7B); 2 in a later implementation.
        generator: of the draw, on the CPU.
    """
    drawn = torch.rand(width, generator=generator)
    return coefficient * drawn / drawn.norm()


def activation_loss(activations: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """RMU, Li et al. 2024 (arXiv 2403.03218): the forget term with target c u, the retain term with h_ref.

        L = (1/B) sum_i (1/|y_i|) sum_t (1/D) || h_it - target_it ||^2

    The paper's squared norm is D times as large, in both terms; the authors' code divides by D too. Our reading: each
    sequence counts the same, however long (the paper's form); a published version for batches divides the sequences'
    sums by each others' lengths as well.

    Args:
        activations: h of one layer [B, T, D].
        target: [D] or [B, T, D]; no gradient goes through it.
        mask: positions that count [B, T]. Published: those of answer tokens, or all but padding.

    Returns:
        A scalar.
    """
    squares = (wide(activations) - wide(target.detach())).square().mean(dim=-1)
    return sequence_means(squares, mask).mean()
