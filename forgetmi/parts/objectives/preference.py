"""Preference losses for unlearning beside NPO, all of them NPO of other quantities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from forgetmi.parts.objectives.npo import npo_loss

Scale = Literal["dpo", "npo"]


def simnpo_loss(mean_nll: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """SimNPO, Fan et al. 2024 (arXiv 2410.07163): NPO without a reference, on length-normalised likelihoods.

        L = (2 / beta) E[ -log sigmoid( -(beta / |y|) log pi_theta(y|x) - gamma ) ]
          = (2 / beta) E[ softplus( gamma - beta nll / |y| ) ]

    i.e. NPO in which every record's reference is gamma / beta a token. Where published code puts the margin inside of
    the product with beta (``delta``), gamma = beta delta; both are 0 by default.
    dL/d mean_nll = -2 p^b / (p^b + e^-gamma) / B with p = exp(-mean_nll).

    Args:
        mean_nll: -log pi(y|x) / |y| [B], of :func:`~forgetmi.parts.objectives.sequence.sequence_means`.
        beta: inverse temperature, > 0. Published: 2.5 and 4.5 (TOFU, 5 % and 10 %).
        gamma: margin.

    Returns:
        A scalar.
    """
    return npo_loss(mean_nll, torch.full_like(mean_nll, gamma / beta), beta)


def dpo_loss(
    chosen_nll: Tensor,
    chosen_reference_nll: Tensor,
    rejected_nll: Tensor,
    rejected_reference_nll: Tensor,
    beta: float,
    scale: Scale = "dpo",
) -> Tensor:
    """DPO, Rafailov et al. 2023 (arXiv 2305.18290), eq. 7: another answer is preferred to the one to forget.

        L = E[ -log sigmoid( beta log( pi(y_w|x) / pi_ref(y_w|x) ) - beta log( pi(y_l|x) / pi_ref(y_l|x) ) ) ]

    IdkDPO (TOFU, Maini et al. 2024): y_w is a way to say "I don't know". AltPO (Mekala et al. 2024, arXiv 2409.13474):
    y_w is a plausible answer, made up by the model. Without y_w it is NPO, which has a factor 2 / beta of its own:
    ``scale="npo"`` multiplies by it, as published unlearning code does, so that the two may share a learning rate.

    Args:
        chosen_nll, chosen_reference_nll: -log pi(y_w|x), sums over tokens [B], of the model and the frozen original.
        rejected_nll, rejected_reference_nll: the same of y_l, the answer to forget.
        beta: inverse temperature, > 0.
        scale: ``"dpo"``: the equation above; ``"npo"``: 2 / beta times it.

    Returns:
        A scalar; ln 2 (times the scale) where the model is the reference.
    """
    loss = npo_loss(rejected_nll - chosen_nll, rejected_reference_nll - chosen_reference_nll, beta)
    return loss if scale == "npo" else beta / 2.0 * loss
