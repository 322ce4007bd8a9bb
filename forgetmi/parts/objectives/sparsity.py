"""A penalty on the size of weights, and its schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["decreasing", "constant", "increasing"]


def l1_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The sum of absolute values over all entries of all of them; the gradient at 0 is 0."""
    return torch.stack([parameter.abs().sum() for parameter in parameters]).sum()


def l1_weight(alpha: float, epoch: int, penalised: int, schedule: Schedule) -> float:
    """The penalty's weight in an epoch (0-based), of which the first ``penalised`` have one.

    ``decreasing`` (Jia et al. 2023): alpha (1 - epoch / penalised): alpha at first, and 0 from ``penalised`` on.
    ``increasing``: alpha (epoch + 1) / penalised: alpha in the last penalised epoch.
    """
    if epoch >= penalised:
        return 0.0
    share = {"decreasing": 1 - epoch / penalised, "constant": 1.0, "increasing": (epoch + 1) / penalised}[schedule]
    return alpha * share
