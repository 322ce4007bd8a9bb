"""Small residual convolutional networks for signals (1D) and volumes (3D)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Conv1dOptions:
    """Options of :class:`Conv1d`.

    Attributes:
        leads: of the signals.
        widths: feature maps of each stage; every stage halves the length.
        kernel: length of the convolutions, odd.
    """

    leads: int = 12
    widths: tuple[int, ...] = (32, 64, 128)
    kernel: int = 7

    def __post_init__(self) -> None:
        _check(self.leads, "leads", self.widths, self.kernel)


@dataclass(frozen=True)
class Conv3dOptions:
    """Options of :class:`Conv3d`.

    Attributes:
        channels: of the volumes.
        widths: feature maps of each stage; every stage halves each side.
        kernel: side of the convolutions, odd.
    """

    channels: int = 1
    widths: tuple[int, ...] = (16, 32, 64)
    kernel: int = 3

    def __post_init__(self) -> None:
        _check(self.channels, "channels", self.widths, self.kernel)


class _SmallConv(nn.Module):
    """Stages of a strided residual block each, then the mean over all positions.

    Group norm: a record's embedding does not depend on the records beside it, which a forget batch would disturb.
    """

    name: str
    shape: str

    def __init__(self, options: Any, channels: int, conv: type[nn.Module]) -> None:
        super().__init__()
        self.options, self.channels = options, channels
        self.dim: int = options.widths[-1]
        blocks: list[nn.Module] = []
        width = channels
        for wider in options.widths:
            blocks.append(_Block(width, wider, options.kernel, conv))
            width = wider
        self.blocks = nn.Sequential(*blocks)

    def forward(self, inputs: Tensor) -> Tensor:
        """Embeddings [B, D].

        Raises:
            ModelError: the inputs have another shape.
        """
        if inputs.ndim != len(self.shape.split(",")) or inputs.shape[1] != self.channels:
            raise ModelError(
                f"{self.name} was given inputs of shape {list(inputs.shape)}",
                expected=self.shape.format(self.channels),
                fix=f"set the encoder's first dimension to {inputs.shape[1]}" if inputs.ndim > 1 else None,
            )
        return self.blocks(inputs).flatten(2).mean(dim=2)

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": self.name, **asdict(self.options), "widths": list(self.options.widths)}


class Conv1d(_SmallConv):
    """Signals [B, leads, samples] to [B, D] with D = the last width."""

    Options = Conv1dOptions
    name = "conv1d"
    shape = "[B, {}, samples]"

    def __init__(self, options: Conv1dOptions) -> None:
        super().__init__(options, options.leads, nn.Conv1d)


class Conv3d(_SmallConv):
    """Volumes [B, channels, D, H, W] to [B, D] with D = the last width."""

    Options = Conv3dOptions
    name = "conv3d"
    shape = "[B, {}, D, H, W]"

    def __init__(self, options: Conv3dOptions) -> None:
        super().__init__(options, options.channels, nn.Conv3d)


class _Block(nn.Module):
    def __init__(self, width: int, wider: int, kernel: int, conv: Any) -> None:
        super().__init__()
        groups = math.gcd(8, wider)
        self.body = nn.Sequential(
            conv(width, wider, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.GroupNorm(groups, wider),
            nn.ReLU(),
            conv(wider, wider, kernel, padding=kernel // 2, bias=False),
            nn.GroupNorm(groups, wider),
        )
        self.shortcut = nn.Sequential(conv(width, wider, 1, stride=2, bias=False), nn.GroupNorm(groups, wider))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _check(channels: int, name: str, widths: tuple[int, ...], kernel: int) -> None:
    problems = []
    if channels < 1:
        problems.append(f"{name} must be at least 1, got {channels}")
    if not widths or min(widths) < 1:
        problems.append(f"widths must name at least one positive width, got {list(widths)}")
    if kernel < 1 or kernel % 2 == 0:
        problems.append(f"kernel must be odd and at least 1, got {kernel}")
    if problems:
        raise ConfigError(problems)
