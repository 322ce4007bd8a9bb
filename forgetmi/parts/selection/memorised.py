"""Selection by memorisation: which sequences selective gradient ascent still climbs, and when it is enough.

From "To Each (Textual Sequence) Its Own", Barbulescu & Triantafillou 2024 (ICML, arXiv 2405.03097). Memorisation g(x)
in [0, 1] is exact memorisation: the share of tokens that are the likeliest one given what stands before them, i.e. one
minus ``task.errors_of``. With theta_0 the original, theta_t = theta_0 trained on (descending) the forget set:

======  =============================================================================================================
GA      ascend on all of D_f until :func:`mean_below` (g, .33)
SGA     each epoch measure g; in each batch ascend on :func:`still_memorised` (g, .7) alone; until the mean is below .33
TA      deploy theta_0 + c (theta_t - theta_0), c = -3 (``edits/task_vectors.py``); until the *edited* model's mean g is
        below .33
TAU     SGA until the mean is below .5 (at theta_s), then TA from theta_s with c = -1, until the edited model's mean is
        below .33. With a switch at 1 it is TA (as soon as any token is missed), with one at 0 SGA
======  =============================================================================================================

The numbers are those of the authors' code. Its stopping rule is a mean, which can hide sequences that are as well known
as before: :func:`count_outliers` is the paper's own figure for them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def still_memorised(memorisation: Tensor, threshold: float) -> Tensor:
    """[B]: g(x) >= gamma, and always the batch's largest (of equal ones the first).

    Before the first measurement g counts as gamma for every sequence: all are kept. gamma = 0 keeps all, so that SGA
    is gradient ascent; gamma > 1 keeps the most memorised one alone.

    Args:
        memorisation: g of a batch's sequences [B], B >= 1.
        threshold: gamma. Published: .7.
    """
    kept = memorisation >= threshold
    kept[memorisation.argmax()] = True
    return kept


def mean_below(memorisation: Tensor, target: float) -> bool:
    """Whether the mean of g over the forget set [N] is below the target, strictly."""
    return bool(memorisation.to(torch.float64).mean() < target)


def count_outliers(memorisation: Tensor, low: float = 0.15, high: float = 0.60) -> int:
    """How many of [N] an attacker could still tell: g >= high is remembered; g <= low stands out by its absence.

    The bounds are those of the authors' analysis.
    """
    return int(((memorisation >= high) | (memorisation <= low)).sum())
