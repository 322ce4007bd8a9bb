"""A small residual network for images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError

Norm = Literal["batch", "group"]


def check_channels(images: Tensor, channels: int, name: str) -> None:
    """Raise :class:`ModelError` unless ``images`` is [B, channels, H, W]."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise ModelError(
            f"{name} was given images of shape {list(images.shape)}",
            expected=f"[B, {channels}, H, W]",
            fix=f"set the image modality's channels to {channels}, or the encoder's channels to what the images have",
        )


@dataclass(frozen=True)
class SmallResNetOptions:
    """Options of :class:`SmallResNet`.

    Attributes:
        channels: of the images, 1 or 3.
        widths: feature maps of each stage; every stage after the first halves the resolution.
        blocks: residual blocks a stage.
        norm: ``"batch"``, or ``"group"``, whose output for a record does not depend on the records beside it even
            while training.
        stem_stride: stride of the first convolution; 2 for images of 128 pixels and more.
    """

    channels: Literal[1, 3] = 1
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    norm: Norm = "batch"
    stem_stride: int = 1

    def __post_init__(self) -> None:
        problems = []
        if not self.widths or min(self.widths) < 1:
            problems.append(f"widths must name at least one positive width, got {list(self.widths)}")
        if self.blocks < 1:
            problems.append(f"blocks must be at least 1, got {self.blocks}")
        if self.stem_stride < 1:
            problems.append(f"stem_stride must be at least 1, got {self.stem_stride}")
        if problems:
            raise ConfigError(problems)


class SmallResNet(nn.Module):
    """Residual network (He et al. 2016, basic blocks with the projection shortcut) and global average pooling.

    Input: images [B, channels, H, W] in [0, 1]. Output: [B, D] with D = the last width.
    """

    Options = SmallResNetOptions

    def __init__(self, options: SmallResNetOptions) -> None:
        super().__init__()
        self.options = options
        self.dim = options.widths[-1]
        first = options.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(options.channels, first, 3, stride=options.stem_stride, padding=1, bias=False),
            _norm(options.norm, first),
            nn.ReLU(),
        )
        blocks: list[nn.Module] = []
        width = first
        for stage, wider in enumerate(options.widths):
            for block in range(options.blocks):
                blocks.append(_Block(width, wider, 2 if stage and not block else 1, options.norm))
                width = wider
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, D].

        Raises:
            ModelError: the images do not have the encoder's number of channels.
        """
        check_channels(images, self.options.channels, "small_resnet")
        return self.blocks(self.stem(images)).mean(dim=(2, 3))

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "small_resnet", **asdict(self.options), "widths": list(self.options.widths)}


class _Block(nn.Module):
    def __init__(self, width: int, wider: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False),
            _norm(norm, wider),
            nn.ReLU(),
            nn.Conv2d(wider, wider, 3, padding=1, bias=False),
            _norm(norm, wider),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != wider:
            self.shortcut = nn.Sequential(nn.Conv2d(width, wider, 1, stride=stride, bias=False), _norm(norm, wider))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _norm(norm: Norm, width: int) -> nn.Module:
    # At most 8 groups, and a number that divides the width.
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(math.gcd(8, width), width)
