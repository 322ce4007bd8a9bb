"""X-ray-like pictures drawn from a report's label. They are rendered, not films of anyone: every user must say so."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forgetmi.errors import DataError, MissingDependencyError

Floats = NDArray[np.floating[Any]]
MASK_ARCHIVE = "semantic_masks_v7labs_lungs.zip"
_SMALLEST_LUNG = 0.1  # share of each half of the picture that the mask covers; of the published 517, 434 do


def package_file(name: str) -> Path:
    """A data file of the installed torchxrayvision distribution, which is not imported.

    Raises:
        MissingDependencyError: the distribution, or the file in it, is not there.
    """
    try:
        path = Path(str(importlib.metadata.distribution("torchxrayvision").locate_file(f"torchxrayvision/data/{name}")))
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError("The demo's reports", "cxr") from None
    if not path.is_file():
        raise MissingDependencyError("The demo's reports", "cxr")
    return path


@lru_cache(maxsize=2)
def lung_masks(size: int) -> Floats:
    """The usable lung masks of the installed torchxrayvision package: [M, size, size], values in [0, 1].

    Usable are those that cover enough of both halves of the picture. Read once a process and size.

    Raises:
        MissingDependencyError: the package is not installed.
        DataError: the archive is broken or has no usable mask.
    """
    path = package_file(MASK_ARCHIVE)

    def small(content: bytes) -> Floats:
        with Image.open(io.BytesIO(content)) as image:
            # 255 is lung; other grey values mark other things. Sampling 4 x 4 points a pixel keeps a soft edge.
            lung = image.convert("L").resize((4 * size, 4 * size), Image.Resampling.NEAREST)
            lung = lung.point(lambda value: 255 if value > 191 else 0)
            return np.asarray(lung.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255

    try:
        with zipfile.ZipFile(path) as archive:
            contents = [archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")]
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            masks = np.stack(list(pool.map(small, contents)))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"the lung masks cannot be read ({error})", where=str(path)) from error
    halves = masks.reshape(len(masks), size, 2, -1).mean((1, 3))
    usable = masks[(halves > _SMALLEST_LUNG).all(1)]
    if not len(usable):
        raise DataError("no lung mask is usable", where=str(path), fix="use the option masks='ellipses'")
    usable.setflags(write=False)
    return usable


def _ellipses(generator: np.random.Generator, y: Floats, x: Floats) -> Floats:
    """Two lungs as ellipses with random size and place: [size, size]."""
    gap, height, width = generator.uniform([0.02, 0.26, 0.13], [0.05, 0.36, 0.17])
    top = generator.uniform(0.44, 0.5)
    distance = np.hypot((y - top) / height, (np.abs(x - 0.5) - gap - width) / width)
    return _soft((1 - distance) * width)


def _soft(distance: Floats, width: float = 0.012) -> Floats:
    """A smooth step from 0 (negative) to 1 (positive)."""
    return (0.5 + 0.5 * np.tanh(distance / width)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class RenderedFilm:
    """One picture, drawn when it is asked for: the same settings always give the same picture.

    Attributes:
        uid: the report's id; with ``seed`` it decides the lung mask, every variation and the noise.
        finding: ``"normal"``, ``"opacity"``, ``"cardiomegaly"`` or ``"effusion"``.
        seed: of all films of a dataset.
        size: height and width in pixels.
        noise: standard deviation of the pixel noise, in units of the intensity range; clipped to [0, 1] afterwards.
        masks: ``"lungs"``, real masks of the installed torchxrayvision package, or ``"ellipses"``, drawn ones.
    """

    uid: str
    finding: str
    seed: int
    size: int = 64
    noise: float = 0.25
    masks: Literal["lungs", "ellipses"] = "lungs"

    def load(self) -> Floats:
        """The picture: [size, size], in [0, 1], bright where the body is dense.

        Raises:
            MissingDependencyError: real masks are asked for and their package is not installed.
        """
        digest = hashlib.sha256(f"{self.seed}:{self.uid}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        clean = self._draw(generator)
        noisy = clean + generator.normal(0, self.noise, clean.shape)
        return np.clip(noisy, 0, 1).astype(np.float32)

    def _draw(self, generator: np.random.Generator) -> Floats:
        """The picture without noise. Lengths are shares of the picture, ``y`` grows downwards."""
        steps = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        y, x = steps[:, None], steps[None, :]
        if self.masks == "lungs":
            choices = lung_masks(self.size)
            lung = choices[generator.integers(len(choices))]
        else:
            lung = _ellipses(generator, y, x)
        across, down = np.flatnonzero(lung.max(0) > 0.5), np.flatnonzero(lung.max(1) > 0.5)
        left, right, top, bottom = steps[across[0]], steps[across[-1]], steps[down[0]], steps[down[-1]]
        width, height = right - left, bottom - top
        central = across[len(across) // 3 : -len(across) // 3]
        gap = lung[:, central].sum(0)
        middle = float(steps[central[gap <= gap.min() + 0.5]].mean())

        # Body, lungs, spine, ribs and hila, each a little different in every record.
        gain, offset, ribs, rib_phase, spacing = generator.uniform(
            [0.9, -0.05, 0.03, 0.0, 0.075], [1.1, 0.05, 0.07, 1.0, 0.095]
        )
        body = _soft(0.62 * width - np.abs(x - middle), 0.03)
        film = (0.05 + 0.55 * body) * (1 - 0.62 * lung)
        film += 0.12 * np.exp(-(((x - middle) / 0.035) ** 2))
        arcs = np.cos(2 * np.pi * ((y + 0.9 * (x - middle) ** 2) / spacing + rib_phase)).clip(0) ** 2
        film += ribs * arcs * body
        hila = np.exp(-(((np.abs(x - middle) - 0.15 * width) / 0.04) ** 2) - ((y - top - 0.5 * height) / 0.07) ** 2)
        film += generator.uniform(0.04, 0.1) * hila

        # The heart: its width over the chest's is the cardiothoracic ratio; above one half is called enlarged.
        ratio = generator.uniform(0.6, 0.74) if self.finding == "cardiomegaly" else generator.uniform(0.34, 0.44)
        half_width, half_height = ratio * width / 2, height * (0.12 + 0.22 * ratio + generator.uniform(0, 0.04))
        distance = np.hypot(
            (x - middle - 0.06 * width) / half_width, (y - bottom + 0.85 * half_height) / half_height
        ).astype(np.float32)
        heart = _soft((1 - distance) * half_width, 0.02)
        film += 0.9 * heart * (0.62 - film).clip(0)

        if self.finding == "opacity":
            film += self._opacity(generator, y, x, lung * (1 - heart))
        elif self.finding == "effusion":
            side = _soft((x - middle) * generator.choice([-1.0, 1.0]), 0.005)
            lateral = 2 * np.abs(x - middle) / width
            # The fluid's upper border rises towards the chest wall, as a meniscus does.
            level = bottom - height * generator.uniform(0.28, 0.45) - 0.1 * height * lateral**2
            film += lung * side * _soft(y - level, 0.015) * (0.64 - film)
        return (gain * film + offset).clip(0, 1).astype(np.float32)

    @staticmethod
    def _opacity(generator: np.random.Generator, y: Floats, x: Floats, free: Floats) -> Floats:
        """A blob somewhere in the lung that the heart leaves free."""
        places = np.flatnonzero(free > 0.9 * free.max())
        row, column = np.unravel_index(generator.choice(places), free.shape)
        spread_y, spread_x = generator.uniform(0.055, 0.09, 2)
        blob = np.exp(-0.5 * (((y - y[row, 0]) / spread_y) ** 2 + ((x - x[0, column]) / spread_x) ** 2))
        return (generator.uniform(0.28, 0.4) * blob * free).astype(np.float32)
