"""Which weights matter for what is to be forgotten: scores of entries, rows and modules, and masks of them.

Functions of one parameter's gradients (a scalar or tensor each) can be called while gradients are read one after
another, so that no more than two sets of them need be held.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from forgetmi.tasks.divergence import wide

Level = Literal["module", "row"]


def gradient_ratio(forget: Tensor, retain: Tensor, epsilon: float) -> Tensor:
    """GRIN's score, Anjarlekar & Pombra 2025 (arXiv 2508.06467): s = |g_f| / ( |g_r| + epsilon ) for each entry.

    Our reading: g is the gradient of the mean loss at theta_0 (no code is published). An entry that neither gradient
    touches scores 0, whatever epsilon. The ratio is large above all where g_r is nearly 0: rows of an embedding whose
    tokens stand in the forget set alone have s = |g_f| / epsilon. So report :func:`shares` of a mask.

    Args:
        forget, retain: g_f and g_r of one parameter, of its shape.
        epsilon: >= 0.

    Returns:
        s, of the parameter's shape.
    """
    return torch.where(forget == 0, torch.zeros_like(forget), forget.abs() / (retain.abs() + epsilon))


def row_norms(gradient: Tensor) -> Tensor:
    """[rows]: the 2-norm of each row (index of the first dimension) of one parameter; a vector's rows are entries."""
    rows = wide(gradient).reshape(len(gradient) if gradient.ndim else 1, -1)
    return rows.norm(dim=1)


def saliency_masks(gradients: Mapping[str, Tensor], percentile: float, level: Level) -> dict[str, Tensor]:
    """SURE, Zhang et al. 2025 (ICLR, arXiv 2410.16454): m_i = 1[ || grad_i L_forget ||_2 >= gamma ].

    gamma is a percentile of the norms of all units together. ``module``: the paper's units, from the gradient at
    theta_0, fixed. ``row``: those of the released code, from each step's forget batch. Our reading of a module: the
    parameters of one layer (weight and bias), i.e. whatever shares a name up to its last dot.

    Args:
        gradients: of the forget loss, name to the parameter's shape.
        percentile: in [0, 100]; between two norms, linear. 0: every unit moves; 100: the one with the largest norm.
            Published: 90, 99.
        level: the units.

    Returns:
        Name to a mask of the parameter's shape (a view of the units' own).
    """
    norms = {name: row_norms(gradient).double().cpu() for name, gradient in gradients.items()}
    units = norms
    if level == "module":
        squares: defaultdict[str, float] = defaultdict(float)
        for name, norm in norms.items():
            squares[_module(name)] += float(norm.square().sum())
        units = {module: torch.tensor([square], dtype=torch.float64).sqrt() for module, square in squares.items()}
        norms = {name: units[_module(name)] for name in gradients}
    gamma = torch.quantile(torch.cat(list(units.values())), percentile / 100)
    return {name: _along_rows((norms[name] >= gamma).to(g.device), g) for name, g in gradients.items()}


def shares(masks: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """(chosen, all) entries for each kind of module, a kind being a name without its numbers: ``model.layers.mlp.up``.

    Args:
        masks: parameter name to mask.
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, mask in masks.items():
        kind = re.sub(r"\.\d+(?=\.|$)", "", _module(name))
        chosen, total = counts.get(kind, (0, 0))
        counts[kind] = (chosen + int(mask.sum()), total + mask.numel())
    return counts


def _module(name: str) -> str:
    return name.rpartition(".")[0] or name


def _along_rows(chosen: Tensor, like: Tensor) -> Tensor:
    """[rows] or [1] to the shape of ``like``."""
    return chosen.reshape(-1, *[1] * max(like.ndim - 1, 0)).expand(like.shape) if like.ndim else chosen.reshape(())
