"""Series of DICOM slices as volumes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetmi.data_adapters.images import (
    apply_frame_groups,
    modality_range,
    quiet_pydicom,
    refuse_unsupported,
    unreadable_dicom,
)
from forgetmi.errors import DataError, MissingDependencyError


@dataclass(frozen=True, slots=True)
class DicomVolume:
    """A volume that is read when it is used.

    Attributes:
        paths: files with one slice each, in their order in space; or one file with several frames.
        window: (center, width) in the units of the modality (HU for CT), mapped to [0, 1]; ``None`` takes the window of
            the files where all slices have the same one, else the whole range that the files can hold.
        spacing: distance between slices, rows and columns, mm, to which MONAI resamples; ``None`` keeps the voxels.
    """

    paths: tuple[str | os.PathLike[str], ...]
    window: tuple[float, float] | None = None
    spacing: tuple[float, float, float] | None = None

    def load(self) -> NDArray[np.float32]:
        """The volume [D, H, W], float32 in [0, 1]. One scale for all slices: a rescale slope that differs from slice
        to slice (PET) is undone first, so that brightness means the same everywhere. MONOCHROME1 is inverted.

        Raises:
            DataError: a file is missing or cannot be decoded, slices differ in size or are in colour, or a spacing is
                asked for that the files do not say. The file's name is private.
        """
        with quiet_pydicom():
            slices = [part for path in self.paths for part in _slices(path)]
        if len(self.paths) == 1 and all(part.position is not None for part in slices):
            slices.sort(key=lambda part: part.position or 0.0)
        if len({part.values.shape for part in slices}) > 1:
            raise DataError("the slices of a series differ in size", private=[str(self.paths[0])])
        volume = np.stack([part.values for part in slices])
        window = self.window or _common_window(slices)
        if window is None:
            low, high = min(part.low for part in slices), max(part.high for part in slices)
            volume = (volume - low) / (high - low)
        else:
            volume = _windowed(volume, *window)
        volume = np.clip(volume, 0.0, 1.0)
        if slices[0].inverted:
            volume = 1 - volume
        if self.spacing is not None:
            volume = _resample(volume, self._spacing_of(slices), self.spacing)
        return volume.astype(np.float32)

    def _spacing_of(self, slices: Sequence[_Slice]) -> tuple[float, float, float]:
        places = [part.position for part in slices]
        between = np.diff([place for place in places if place is not None])
        in_plane = slices[0].in_plane
        if in_plane is None or None in places or len(slices) < 2:
            raise DataError(
                "the distances between the voxels of a series are not known",
                expected="PixelSpacing, and ImagePositionPatient of at least two slices",
                fix="leave spacing out, or leave this series out",
                private=[str(self.paths[0])],
            )
        return (float(np.median(np.abs(between))), *in_plane)


@dataclass
class _Slice:
    values: NDArray[np.float32]
    low: float
    high: float
    window: tuple[float, float, str] | None
    inverted: bool
    position: float | None
    in_plane: tuple[float, float] | None


def require_monai() -> None:
    """Raise :class:`MissingDependencyError` now, and not when the first volume is read."""
    import importlib.util

    if importlib.util.find_spec("monai") is None:
        raise MissingDependencyError("Resampling volumes to a spacing", "volumes")


def _slices(path: str | os.PathLike[str]) -> list[_Slice]:
    import pydicom
    from pydicom.pixels import apply_modality_lut, pixel_array

    try:
        data = pydicom.dcmread(path)
        refuse_unsupported(data)
        pixels = pixel_array(data)
        frames = int(data.get("NumberOfFrames") or 1)
        found = []
        for frame, plane in enumerate(pixels if frames > 1 else pixels[None]):
            apply_frame_groups(data, frame)
            low, high = modality_range(data)
            values = np.asarray(apply_modality_lut(plane, data), dtype=np.float32)
            position, in_plane = _geometry(data, frame)
            inverted = data.PhotometricInterpretation == "MONOCHROME1"
            found.append(_Slice(values, low, high, _window(data), inverted, position, in_plane))
        return found
    except Exception as error:  # pydicom and its decoders raise whatever the broken byte led to
        raise unreadable_dicom(path, error) from error


def _geometry(data: Any, frame: int) -> tuple[float | None, tuple[float, float] | None]:
    """Position along the normal, mm, and the distances between rows and between columns, mm."""
    groups = [data]
    for name, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        if data.get(name):
            groups.append(data[name][index])
    found: dict[str, Any] = {}
    for group in groups:
        inner = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        for part in (group, *(group[name][0] for name in inner if group.get(name))):
            for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
                if part.get(name):
                    found[name] = [float(number) for number in part[name].value]
    position = None
    if "ImagePositionPatient" in found and "ImageOrientationPatient" in found:
        orientation = found["ImageOrientationPatient"]
        position = float(np.dot(np.cross(orientation[:3], orientation[3:]), found["ImagePositionPatient"]))
    spacing = found.get("PixelSpacing")
    return position, None if spacing is None else (spacing[0], spacing[1])


def _window(data: Any) -> tuple[float, float, str] | None:
    """The first window of a slice; a VOI table has none."""
    center, width = data.get("WindowCenter"), data.get("WindowWidth")
    if center is None or width is None or data.get("VOILUTSequence"):
        return None
    pair = [float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
            for value in (center, width)]  # fmt: skip
    return pair[0], pair[1], str(data.get("VOILUTFunction") or "LINEAR")


def _common_window(slices: Sequence[_Slice]) -> tuple[float, float, str] | None:
    windows = {part.window for part in slices}
    return slices[0].window if len(windows) == 1 else None


def _windowed(values: NDArray[Any], center: float, width: float, function: str = "LINEAR") -> NDArray[Any]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output range of [0, 1]."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR_EXACT":
        return np.asarray((values - center) / width + 0.5)
    if width <= 1:
        return np.asarray(values > center - 0.5, dtype=np.float32)
    return np.asarray((values - (center - 0.5)) / (width - 1) + 0.5)


def _resample(
    volume: NDArray[Any], have: tuple[float, float, float], want: tuple[float, float, float]
) -> NDArray[np.float32]:
    require_monai()
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    affine = torch.diag(torch.tensor([*have, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(volume.astype(np.float32))[None], affine=affine)
    resampled: NDArray[np.float32] = Spacing(pixdim=want, mode="bilinear", padding_mode="border")(image)[0].numpy()
    return resampled.clip(0.0, 1.0)
