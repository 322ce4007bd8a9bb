"""Quantisers that look at weights alone: int8, int4, NF4, FP4."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from forgetmi.attacks.quantisation import grid
from forgetmi.attacks.quantisation.grid import Coded, Granularity, Scale
from forgetmi.attacks.quantisation.tensors import Selection, quantised_copy
from forgetmi.errors import ConfigError, unmet


class Quantiser(Protocol):
    """What the attack applies to every model alike.

    ``name`` is what it is registered as, ``selection`` which weights it rounds.
    """

    name: ClassVar[str]

    @property
    def selection(self) -> Selection:
        """Which weights."""

    @property
    def label(self) -> str:
        """With its options."""

    def quantised(self, model: nn.Module) -> nn.Module:
        """A rounded copy, in the model's mode; the model itself is left as it is."""


@runtime_checkable
class HasLevels(Protocol):
    """A quantiser that rounds each matrix on its own, to numbered levels."""

    def coded(self, rows: Tensor) -> Coded:
        """Levels and values of a matrix [out, in]."""


@dataclass(frozen=True)
class Int4:
    """Rounding to the nearest of a uniform grid, see :func:`~forgetmi.attacks.quantisation.grid.round_to_nearest`.

    Attributes:
        granularity: what shares a bucket width: ``tensor`` (the paper's formula as written), ``channel`` or ``group``.
        group_size: of ``group``; 128 is what the reproduction of the paper takes.
        scale: ``paper`` divides the largest weight by 2^(N-1), ``symmetric`` by 2^(N-1) - 1.
        selection: which weights.
    """

    granularity: Granularity = "group"
    group_size: int = 128
    scale: Scale = "symmetric"
    selection: Selection = field(default_factory=Selection)

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if problems := unmet({f"group_size must be >= 1, not {self.group_size}": self.group_size >= 1}):
            raise ConfigError(problems)

    @property
    def label(self) -> str:
        """With its options."""
        over = f"group of {self.group_size}" if self.granularity == "group" else self.granularity
        return f"{self.name}, {over}" + (", paper's scale" if self.scale == "paper" else "")

    def coded(self, rows: Tensor) -> Coded:
        """Levels and values of a matrix [out, in]."""
        return grid.round_to_nearest(
            rows, self.bits, granularity=self.granularity, group_size=self.group_size, scale=self.scale
        )

    def quantised(self, model: nn.Module) -> nn.Module:
        """A rounded copy."""
        return quantised_copy(model, lambda rows: self.coded(rows).values, self.selection)


@dataclass(frozen=True)
class Int8(Int4):
    """As :class:`Int4` with 8 bits and, by default, one bucket width a channel."""

    granularity: Granularity = "channel"

    name: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8


@dataclass(frozen=True)
class NF4:
    """bitsandbytes' NormalFloat, 4 bits (Dettmers et al. 2023, arXiv 2305.14314).

    On a GPU bitsandbytes itself rounds, where it is installed (extra ``bitsandbytes``); elsewhere
    :func:`~forgetmi.attacks.quantisation.grid.round_to_table` does, which gives the same values.

    Attributes:
        block: weights that share a maximum.
        double: the maxima are rounded to 8 bits.
        selection: which weights.
    """

    block: int = 64
    double: bool = False
    selection: Selection = field(default_factory=Selection)

    name: ClassVar[str] = "nf4"
    table: ClassVar[tuple[float, ...]] = grid.NF4

    def __post_init__(self) -> None:
        sizes = (32, 64, 128, 256, 512, 1024, 2048, 4096)
        checks = {f"block must be one of {', '.join(map(str, sizes))}, not {self.block}": self.block in sizes}
        if problems := unmet(checks):
            raise ConfigError(problems)

    @property
    def label(self) -> str:
        """With its options."""
        changed = "" if self.block == 64 else f", block of {self.block}"
        return f"{self.name}{changed}{', double' if self.double else ''}"

    def coded(self, rows: Tensor) -> Coded:
        """Levels and values of a matrix [out, in]."""
        return grid.round_to_table(rows, self.table, block=self.block, double=self.double)

    def quantised(self, model: nn.Module) -> nn.Module:
        """A rounded copy."""

        def values(rows: Tensor) -> Tensor:
            if rows.is_cuda and rows.dtype != torch.float64 and find_spec("bitsandbytes") is not None:
                return by_bitsandbytes(rows, self.name, self.block, double=self.double)
            return self.coded(rows).values

        return quantised_copy(model, values, self.selection)


@dataclass(frozen=True)
class FP4(NF4):
    """bitsandbytes' 4-bit float: what ``load_in_4bit=True`` alone gives, and what the paper's code runs."""

    name: ClassVar[str] = "fp4"
    table: ClassVar[tuple[float, ...]] = grid.FP4


def by_bitsandbytes(rows: Tensor, kind: str, block: int, *, double: bool) -> Tensor:
    """A matrix [out, in] rounded and unpacked by bitsandbytes."""
    from bitsandbytes import functional

    library: Any = functional
    packed, state = library.quantize_4bit(
        rows.contiguous(), blocksize=block, quant_type=kind, compress_statistics=double
    )
    values: Tensor = library.dequantize_4bit(packed, state)
    return values
