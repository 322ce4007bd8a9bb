"""Rounding to the nearest level of a uniform grid, or of a table: functions of tensors alone.

A matrix is [out, in], one row an output. Levels are numbered, so that two models can be compared level by level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Granularity = Literal["tensor", "channel", "group"]
Scale = Literal["symmetric", "paper"]


@dataclass(frozen=True)
class Coded:
    """A rounded matrix.

    Attributes:
        codes: the level of each weight [out, in], int16.
        values: what it stands for [out, in], in the weights' own precision.
    """

    codes: Tensor
    values: Tensor


def round_to_nearest(
    weight: Tensor,
    bits: int,
    *,
    granularity: Granularity = "group",
    group_size: int = 128,
    scale: Scale = "symmetric",
) -> Coded:
    """Q(w) = Delta round(w / Delta), uniform and symmetric about 0; halves go to the even level.

        scale    Delta                        levels
        symmetric  max |w| / (2^(N-1) - 1)    -(2^(N-1) - 1) ... 2^(N-1) - 1: what N bits hold
        paper      max |w| / 2^(N-1)          -2^(N-1) ... 2^(N-1), one more than N bits hold

    Zhang et al. 2025 (arXiv 2410.16454), equation 2, is ``paper``; that its uppermost level is not cut off is our
    reading (it would break |Q(w) - w| <= Delta / 2). There, each grid holds that of one bit less, so that another bit
    never makes any weight's error larger.

    Args:
        weight: [out, in].
        bits: N.
        granularity: over what the maximum is taken: the matrix, each row, or ``group_size`` neighbours in a row (the
            last group of a row is shorter where the size does not divide it).
        group_size: see there.
        scale: see above.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if granularity == "tensor":
        blocks = wide.reshape(1, -1)
    elif granularity == "channel":
        blocks = wide
    else:
        blocks = F.pad(wide, (0, -wide.shape[1] % group_size)).reshape(-1, group_size)
    top = 2 ** (bits - 1) - (scale == "symmetric")
    delta = blocks.abs().amax(dim=1, keepdim=True) / top
    codes = torch.round(blocks / delta.where(delta > 0, 1.0))  # a group of zeros stays one
    shaped = [part.reshape(len(wide), -1)[:, : wide.shape[1]] for part in (codes, codes * delta)]
    return Coded(shaped[0].to(torch.int16), shaped[1].to(weight.dtype))


NF4: tuple[float, ...] = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""NormalFloat: 16 quantiles of a normal law (Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""

_FP4_POSITIVE = (0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
FP4: tuple[float, ...] = tuple(value / 12.0 for value in (*(-v for v in reversed(_FP4_POSITIVE)), 0.0, *_FP4_POSITIVE))
"""Sign, two bits of exponent, one of mantissa, as bitsandbytes reads them: 15 values, for zero has two signs."""


def round_to_table(weight: Tensor, table: tuple[float, ...], *, block: int = 64, double: bool = False) -> Coded:
    """The nearest entry of a table, times the largest |w| of each block of neighbours, as bitsandbytes does it.

    Blocks run through the rows one after the other, over their ends; the last may be shorter. A weight in the middle
    between two entries gets the lower one.

    Args:
        weight: [out, in].
        table: ascending, from -1 to 1.
        block: weights that share a maximum.
        double: the maxima themselves are rounded to 8 bits, in blocks of 256 ("double quantisation").
    """
    flat = weight.reshape(-1).float()
    blocks = F.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
    largest = blocks.abs().amax(dim=1)
    entries = torch.tensor(table, dtype=torch.float32, device=weight.device)
    scaled = (blocks * (1.0 / largest.clamp(min=1e-38))[:, None]).clamp(-1.0, 1.0)
    codes = torch.bucketize(scaled, (entries[:-1] + entries[1:]) / 2.0)
    values = entries[codes] * (rounded_maxima(largest) if double else largest)[:, None]
    shaped = [part.reshape(-1)[: len(flat)].reshape(weight.shape) for part in (codes, values)]
    return Coded(shaped[0].to(torch.int16), shaped[1].to(weight.dtype))


def rounded_maxima(largest: Tensor, block: int = 256) -> Tensor:
    """Maxima [n] as double quantisation keeps them: their mean, and the rest in 8 bits (:func:`dynamic_table`)."""
    mean = largest.mean()
    return round_to_table((largest - mean)[None], dynamic_table(), block=block).values[0] + mean


def dynamic_table() -> tuple[float, ...]:
    """The signed 8-bit "dynamic" type (Dettmers 2015, arXiv 1511.04561): 256 values, ascending.

    For each of seven exponents 10^-6 ... 10^0, 2^i middles of equal parts of [0.1, 1], of either sign; 0; and 1.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1.0, 2**i + 1, dtype=torch.float32)
        middles = (10.0 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
        values += [*middles, *(-value for value in middles)]
    return tuple(sorted(values))
