"""Volumes (CT, MR): 3D arrays to tensors in [0, 1] of one size, and Gaussian voxel noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.base import noise_options
from forgetmi.modalities.image import in_unit_range


@dataclass(frozen=True)
class VolumeNoise:
    """Voxel noise: ``clip(x + N(mean, sd), 0, 1)``.

    Ours: Forget-MI's pixel noise (arXiv 2506.23145), on voxels.

    Attributes:
        mean, sd: in units of the full intensity range. Both 0 is the identity.

    Raises:
        ConfigError: a value is not finite, or ``sd`` is negative.
    """

    kind: ClassVar[str] = "volume"
    mean: float = 0.0
    sd: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.sd) and self.sd >= 0):
            raise ConfigError([f"mean and sd must be finite, sd at least 0, got {self.mean} and {self.sd}"])


class VolumeModality:
    """Volumes of one size, one channel.

    Args:
        size: side, or (depth, height, width), in voxels. Axes that shrink are averaged over the voxels that fall into
            each new one (so nothing aliases), axes that grow are interpolated linearly.
        noise: what :meth:`perturb` applies when a method names none.

    Raises:
        ConfigError: a size below 1, or of other than three sides.
    """

    kind = "volume"
    channels = 1

    def __init__(self, size: int | Sequence[int], *, noise: VolumeNoise | None = None) -> None:
        sides = (size, size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 3 or any(not isinstance(side, int) or side < 1 for side in sides):
            raise ConfigError([f"volume size must be a side or (depth, height, width), at least 1, got {size!r}"])
        self.size = (sides[0], sides[1], sides[2])
        self._noise = noise or VolumeNoise()

    @property
    def default_noise(self) -> VolumeNoise:
        """The noise that :meth:`perturb` applies when a method names none."""
        return self._noise

    def prepare(self, value: Any) -> Tensor:
        """A volume as float32 [1, D, H, W] in [0, 1].

        Args:
            value: array [D, H, W]: floats in [0, 1], or uint8, uint16 or bool (divided by the type's largest value).

        Raises:
            DataError: the value is empty, has another shape or type, or holds NaN or values outside its range.
        """
        voxels = np.asarray(value)
        if voxels.ndim != 3 or voxels.size == 0:
            raise DataError(f"a volume has shape {voxels.shape}", expected="[D, H, W], at least one voxel")
        volume = torch.from_numpy(in_unit_range(voxels, "a volume"))[None, None]
        # Shrinking first: "area" is the mean over the source voxels, which linear interpolation would skip.
        smaller = [min(have, want) for have, want in zip(voxels.shape, self.size, strict=True)]
        if tuple(smaller) != voxels.shape:
            volume = F.interpolate(volume, size=smaller, mode="area")
        if tuple(smaller) != self.size:
            volume = F.interpolate(volume, size=self.size, mode="trilinear", align_corners=False)
        return volume[0].clamp_(0.0, 1.0).contiguous()

    def perturb(
        self,
        read: Callable[[], Any],
        example: Tensor,
        noise: VolumeNoise | Mapping[str, Any] | None,
        generator: torch.Generator,
    ) -> Tensor:
        """The prepared example with noise (:class:`VolumeNoise`)."""
        options = noise_options(VolumeNoise, noise, self._noise)
        if options.mean == 0 and options.sd == 0:
            return example
        drawn = torch.empty_like(example).normal_(options.mean, options.sd, generator=generator)
        return drawn.add_(example).clamp_(0.0, 1.0)

    def blank(self) -> Tensor:
        """A black volume."""
        return torch.zeros(1, *self.size)

    def collate(self, examples: Sequence[Tensor]) -> Tensor:
        """[B, 1, D, H, W]."""
        return torch.stack(list(examples))

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`."""
        return {"kind": self.kind, "size": list(self.size)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VolumeModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        return cls(config["size"])
