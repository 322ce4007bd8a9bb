"""Images: arrays or PIL images to tensors in [0, 1], and Gaussian pixel noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.base import noise_options

_ROUNDING = 1e-4  # a float image resampled elsewhere may leave [0, 1] by this much
_PIL_MODES = {"1": "L", "P": "RGB", "RGBA": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LA": "L"}


@dataclass(frozen=True)
class ImageNoise:
    """Pixel noise of Forget-MI (arXiv 2506.23145): ``clip(x + N(mean, sd), 0, 1)``.

    Attributes:
        mean: mu, in units of the full intensity range. Published: 0.
        sd: sigma, in the same units. Published: 0.1. ``mean = sd = 0`` is the identity.
        rescale_max: divide each image by its own maximum first, as the published code does. Off by default: prepared
            values are in [0, 1] already, and with it even zero noise would change the brightness of every image, so
            that "no noise" would not be noiseless.

    Raises:
        ConfigError: a value is not finite, or ``sd`` is negative.
    """

    kind: ClassVar[str] = "image"
    mean: float = 0.0
    sd: float = 0.1
    rescale_max: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not math.isfinite(self.mean):
            problems.append(f"mean must be finite, got {self.mean}")
        if not (math.isfinite(self.sd) and self.sd >= 0):
            problems.append(f"sd must be finite and at least 0, got {self.sd}")
        if problems:
            raise ConfigError(problems)


def perturb_image(image: Tensor, noise: ImageNoise, generator: torch.Generator) -> Tensor:
    """A noisy copy of an image [C, H, W] with values in [0, 1]; every pixel and channel has its own draw."""
    if noise.rescale_max and (peak := image.max()) > 0:
        image = image / peak
    if noise.mean == 0 and noise.sd == 0:
        return image
    drawn = torch.empty_like(image).normal_(noise.mean, noise.sd, generator=generator)
    return drawn.add_(image).clamp_(0.0, 1.0)


class ImageModality:
    """Images of one size and number of channels.

    Args:
        size: side, or (height, width), in pixels. Other sizes are resized with antialiasing to exactly this one; the
            aspect ratio is not kept.
        channels: 1 (colour becomes ITU-R 601 luma) or 3 (grey is repeated).
        noise: what :meth:`perturb` applies when a method names none.

    Raises:
        ConfigError: a size below 1, or channels other than 1 and 3.
    """

    kind = "image"

    def __init__(self, size: int | Sequence[int], channels: int = 1, *, noise: ImageNoise | None = None) -> None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        problems = []
        if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
            problems.append(f"image size must be a side or (height, width) in pixels, at least 1, got {size!r}")
        if channels not in (1, 3):
            problems.append(f"image channels must be 1 or 3, got {channels!r}")
        if problems:
            raise ConfigError(problems)
        self.size = (sides[0], sides[1])
        self.channels = channels
        self._noise = noise or ImageNoise()

    @property
    def default_noise(self) -> ImageNoise:
        """The noise that :meth:`perturb` applies when a method names none."""
        return self._noise

    def prepare(self, value: Any) -> Tensor:
        """An image as float32 [C, H, W] in [0, 1].

        Args:
            value: array [H, W] or [H, W, 1 or 3]: floats in [0, 1], or uint8, uint16 or bool (divided by the type's
                largest value, so that brightness is comparable between images); or a PIL image. PIL's 32-bit mode
                "I" is read as 16 bits: that is how PIL opens 16-bit greyscale files.

        Raises:
            DataError: the value is empty, has another shape or type, or holds NaN or values outside its range.
        """
        pixels = in_unit_range(_array(value))
        image = torch.from_numpy(pixels)
        image = image.unsqueeze(0) if image.ndim == 2 else image.movedim(-1, 0)
        if image.shape[0] == 3 and self.channels == 1:
            image = tvf.rgb_to_grayscale(image)
        elif image.shape[0] == 1 and self.channels == 3:
            image = image.expand(3, -1, -1)
        if tuple(image.shape[-2:]) != self.size:
            image = tvf.resize(image, list(self.size), antialias=True).clamp_(0.0, 1.0)
        return image.contiguous()

    def perturb(
        self,
        read: Callable[[], Any],
        example: Tensor,
        noise: ImageNoise | Mapping[str, Any] | None,
        generator: torch.Generator,
    ) -> Tensor:
        """The prepared example with noise (:func:`perturb_image`); nothing is read again."""
        return perturb_image(example, noise_options(ImageNoise, noise, self._noise), generator)

    def blank(self) -> Tensor:
        """A black image."""
        return torch.zeros(self.channels, *self.size)

    def collate(self, examples: Sequence[Tensor]) -> Tensor:
        """[B, C, H, W]."""
        return torch.stack(list(examples))

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`. The noise belongs to a method, not to a model."""
        return {"kind": self.kind, "size": list(self.size), "channels": self.channels}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        return cls(config["size"], config["channels"])


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, Image.Image):
        if value.mode == "I":
            return _sixteen_bits(np.asarray(value))
        value = value.convert(_PIL_MODES[value.mode]) if value.mode in _PIL_MODES else value
    pixels = np.asarray(value)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise DataError(f"an image has shape {pixels.shape}", expected="[H, W], [H, W, 1] or [H, W, 3]")
    if pixels.size == 0:
        raise DataError(f"an image is empty (shape {pixels.shape})", fix="give None where an image is missing")
    return pixels


def _sixteen_bits(pixels: NDArray[Any]) -> NDArray[np.uint16]:
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise DataError(
            f"a 32-bit image holds values from {pixels.min()} to {pixels.max()}",
            expected="values of a 16-bit image, 0 to 65535",
            fix="scale it to floats in [0, 1] first",
        )
    return pixels.astype(np.uint16)


def in_unit_range(pixels: NDArray[Any], what: str = "an image") -> NDArray[np.float32]:
    """Pixels or voxels as float32 in [0, 1]; integers are divided by their type's largest value.

    Raises:
        DataError: another type, NaN, or floats outside [0, 1].
    """
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(
            f"{what} holds values of type {pixels.dtype}", expected="floats in [0, 1], uint8, uint16 or bool"
        )
    low, high = float(pixels.min()), float(pixels.max())  # NaN anywhere makes both NaN
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{what} holds NaN or infinite values", fix="read the file again, or leave it out")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise DataError(
            f"{what} of floats holds values from {low:g} to {high:g}",
            expected="values in [0, 1]",
            fix="rescale it, or give the integer pixels as uint8 or uint16",
        )
    return pixels.astype(np.float32).clip(0.0, 1.0)
