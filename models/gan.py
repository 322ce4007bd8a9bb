"""Generator and discriminator pairs: of images, and of rows of numbers (embeddings, tables)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forgetmi.errors import ModelError
from forgetmi.training.seeds import scoped_seed

SMALLEST_SIDE = 8


class GanPair(nn.Module):
    """A generator and its discriminator.

    ``generator(noise, conditions)`` maps [B, latent] and [B, M] to rows [B, *shape]; ``discriminator(rows,
    conditions)`` to scores [B], larger for what looks real. M may be 0.

    Args:
        generator, discriminator: the two networks.
        latent: width of the noise.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, latent: int) -> None:
        super().__init__()
        self.generator, self.discriminator, self.latent = generator, discriminator, latent


def build_gan(shape: Sequence[int], *, conditions: int, latent: int, width: int, seed: int) -> GanPair:
    """A pair for rows of a shape: images [C, H, W] in [0, 1], or vectors [F].

    Args:
        shape: of one row.
        conditions: width M of what both networks are told beside it.
        latent: width of the noise.
        width: feature maps of the widest image layer's last stage, or hidden units.
        seed: of the weights.

    Raises:
        ModelError: there is no pair for this shape.
    """
    with scoped_seed(seed):
        if len(shape) == 1:
            return GanPair(
                VectorGenerator(shape[0], conditions, latent, width),
                VectorDiscriminator(shape[0], conditions, width),
                latent,
            )
        if len(shape) == 3 and min(shape[1:]) >= SMALLEST_SIDE and not conditions:
            channels, height, side = shape
            return GanPair(
                ImageGenerator(channels, (height, side), latent, width),
                ImageDiscriminator(channels, (height, side), width),
                latent,
            )
    raise ModelError(
        f"there is no generator for rows of shape {list(shape)}",
        expected=f"vectors, or images [channels, height, width] of at least {SMALLEST_SIDE} pixels a side",
    )


def doublings(size: tuple[int, int]) -> int:
    """How often an image is halved until its shorter side is 4 to 7 pixels."""
    return int(math.log2(min(size) / 4))


class ImageGenerator(nn.Module):
    """DCGAN's generator (Radford, Metz and Chintala 2016): transposed convolutions that double the side, batch norm and
    ReLU, tanh at the end; here from 4 to 7 pixels a side up to any size, cropped, and scaled from [-1, 1] to [0, 1].
    """

    def __init__(self, channels: int, size: tuple[int, int], latent: int, width: int) -> None:
        super().__init__()
        stages = doublings(size)
        self.size = size
        self.start = (width * 2 ** (stages - 1), *(-(-side // 2**stages) for side in size))
        self.first = nn.Linear(latent, math.prod(self.start), bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.start[0]), nn.ReLU()]
        wide = self.start[0]
        for _ in range(stages - 1):
            layers += [
                nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide // 2),
                nn.ReLU(),
            ]
            wide //= 2
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(wide, channels, 4, stride=2, padding=1), nn.Tanh())
        _initialise(self)

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1]."""
        images = self.layers(self.first(noise).view(-1, *self.start))
        top, left = ((there - wanted) // 2 for there, wanted in zip(images.shape[2:], self.size, strict=True))
        return (images[:, :, top : top + self.size[0], left : left + self.size[1]] + 1) / 2


class ImageDiscriminator(nn.Module):
    """DCGAN's discriminator: strided convolutions and leaky ReLU. Without its batch norm, which would let the score of
    a record depend on the records beside it, and a small forget set be told by its batches' statistics.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        wide, sides = channels, size
        for stage in range(doublings(size)):
            layers += [nn.Conv2d(wide, width * 2**stage, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            wide, sides = width * 2**stage, (sides[0] // 2, sides[1] // 2)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * math.prod(sides), 1))
        _initialise(self)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        """[B]."""
        return self.layers(2 * images - 1)[:, 0]


class VectorGenerator(nn.Module):
    """Two hidden layers with layer norm; unbounded output."""

    def __init__(self, features: int, conditions: int, latent: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide in (latent + conditions, width):
            layers += [nn.Linear(wide, width), nn.LayerNorm(width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, features))

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        """[B, F]."""
        return self.layers(torch.cat([noise, conditions], dim=1))


class VectorDiscriminator(nn.Module):
    """Two hidden layers."""

    def __init__(self, features: int, conditions: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide in (features + conditions, width):
            layers += [nn.Linear(wide, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, rows: Tensor, conditions: Tensor) -> Tensor:
        """[B]."""
        return self.layers(torch.cat([rows, conditions], dim=1))[:, 0]


def _initialise(network: nn.Module) -> None:
    """As published: convolutions from N(0, 0.02), batch norm scales from N(1, 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
