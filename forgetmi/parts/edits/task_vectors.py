"""Task vectors: weights beyond, or on the far side of, what training made of them; and merging several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from forgetmi.errors import MethodError
from forgetmi.parts.updates.mask import Scope, largest
from forgetmi.tasks.divergence import wide

Tensors = Mapping[str, Tensor]


def extrapolated(start: Tensors, end: Tensors, scale: float) -> dict[str, Tensor]:
    """theta_0 + c (theta_t - theta_0), Ilharco et al. 2023 (arXiv 2212.04089).

    theta_t was trained on the forget set; c < 0 is negation (there c = -alpha; -3 and -1 in TA and TAU, see
    ``selection/memorised.py``). c = 0 gives theta_0 and c = 1 theta_t, bit by bit.

    Args:
        start, end: name to theta_0 and theta_t, of the same names and shapes.
        scale: c.

    Returns:
        Tensors of theta_0's types, computed in float32 at least; what is no floating-point number is theta_0's.
    """
    _check_alike([start, end])
    return {
        name: torch.lerp(wide(first), wide(end[name]), scale).to(first.dtype) if first.is_floating_point() else first
        for name, first in start.items()
    }


def ties(
    vectors: Sequence[Tensors], weights: Sequence[float], *, density: float, scope: Scope = "all"
) -> dict[str, Tensor]:
    """TIES, Yadav et al. 2023 (arXiv 2306.01708): trim, elect a sign, merge what agrees with it.

        trim    tau_i: of each vector its largest entries (by magnitude), a share ``density``; the others are 0
        elect   gamma = sign( sum_i tau_i ), + where the sum is 0
        merge   tau = sum_{i in A} w_i tau_i / |A|,  A = { i: sign(tau_i) = gamma }, by entry; 0 where A is empty

    The sign is elected without the weights, as in PEFT's ``combination_type="ties"``, which trims each tensor by
    itself (``scope="each"``); the paper trims a vector as a whole.

    Args:
        vectors: task vectors theta_i - theta_0, or adapters, name to tensor; of the same names and shapes.
        weights: w_i, one each.
        density: in [0, 1]. Of n entries ``round(density * n)`` stay.
        scope: what the share is of.

    Returns:
        tau, name to tensor, in float32 at least.
    """
    _check_alike(vectors)
    if len(weights) != len(vectors):
        raise MethodError(f"{len(vectors)} task vectors were given {len(weights)} weights", expected="one weight each")
    kept = [largest({name: value.abs() for name, value in vector.items()}, density, scope) for vector in vectors]
    merged = {}
    for name in vectors[0]:
        pairs = zip(vectors, kept, strict=True)
        trimmed = torch.stack([wide(vector[name]) * masks[name] for vector, masks in pairs])
        elected = torch.where(trimmed.sum(dim=0) >= 0, 1.0, -1.0)
        agrees = trimmed.sign() == elected
        factors = torch.tensor(weights, dtype=trimmed.dtype, device=trimmed.device)
        total = torch.tensordot(factors, trimmed * agrees, dims=1)
        merged[name] = total / agrees.sum(dim=0).clamp(min=1)
    return merged


def _check_alike(states: Sequence[Tensors]) -> None:
    first = states[0]
    for other in states[1:]:
        names = sorted(first.keys() ^ other.keys())
        if names or any(first[name].shape != other[name].shape for name in first):
            odd = names or [name for name in first if first[name].shape != other[name].shape]
            raise MethodError(
                f"weights of {len(odd)} names differ in name or shape ({odd[0]})", expected="models of one architecture"
            )
