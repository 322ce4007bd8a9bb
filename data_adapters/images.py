"""Values that stay on disk until they are used: image files and text files."""

from __future__ import annotations

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forgetmi.errors import DataError

_GREY = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601, as Pillow's convert("L")
_DICOM_MARK = slice(128, 132)  # a DICOM file says "DICM" there, whatever its name is


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image on disk: PNG, JPEG or DICOM, told apart by content.

    Attributes:
        path: the file.
        channels: 1 gives [H, W], 3 gives [H, W, 3], ``None`` what the file holds.
        frame: which frame of a DICOM file that holds several, from 0.
    """

    path: str | os.PathLike[str]
    channels: Literal[1, 3] | None = None
    frame: int | None = None

    def load(self) -> NDArray[np.float32]:
        """The image, [H, W] or [H, W, 3], float32 in [0, 1]: 1 is the largest value that its bit depth can hold.

        DICOM: modality LUT or rescale, then the first VOI LUT or window; 0 and 1 are the ends of the output range that
        the standard gives (PS3.3 C.11.2); MONOCHROME1 is inverted, so that more is always brighter. A palette becomes
        colour, and what is transparent becomes black.

        Raises:
            DataError: the file is missing, truncated, no image, or a DICOM of several frames. Its name is private,
                for folders are often named after patients.
        """
        try:
            with open(self.path, "rb") as stream:
                is_dicom = stream.read(132)[_DICOM_MARK] == b"DICM"
        except OSError as error:
            raise _unreadable("an image file", self.path, error) from error
        if is_dicom:
            with quiet_pydicom():
                pixels = _load_dicom(self.path, self.frame)
        else:
            pixels = _load_picture(self.path)
        if self.channels == 1 and pixels.ndim == 3:
            pixels = pixels @ np.array(_GREY, dtype=np.float32)
        elif self.channels == 3 and pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return pixels


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text on disk.

    Attributes:
        path: the file, UTF-8.
        reader: what to make of its content (a module's function, so that workers can be sent it), or ``None`` for the
            content as it is. It returns ``None`` where the file holds no usable text: the modality is then missing.
    """

    path: str | os.PathLike[str]
    reader: Callable[[str], str | None] | None = None

    def load(self) -> str | None:
        """The text.

        Raises:
            DataError: the file is missing or not UTF-8. Its name is private.
        """
        try:
            with open(self.path, encoding="utf-8-sig") as stream:
                text = stream.read()
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable("a text file", self.path, error) from error
        return text if self.reader is None else self.reader(text)


def _unreadable(what: str, path: str | os.PathLike[str], error: Exception, fix: str | None = None) -> DataError:
    details = [str(path), f"{type(error).__name__}: {error}"]
    if isinstance(error, FileNotFoundError):
        return DataError(f"{what} is missing", fix="check the folder in the configuration", private=details[:1])
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{what} cannot be read: {error.strerror}", private=details)
    # A library's message may hold the path; the kind of its error does not.
    fix = fix or "it may be truncated: copy it again"
    return DataError(f"{what} cannot be decoded ({type(error).__name__})", fix=fix, private=details)


def _load_picture(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
                pixels = np.asarray(image).astype(np.float32)
                if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
                    raise ValueError(f"pixels of mode {image.mode} have no known range")
                return pixels / np.float32(65535)
            if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
                grey = image.mode in ("L", "LA", "La")
                values = np.asarray(image.convert("LA" if grey else "RGBA")).astype(np.float32) / np.float32(255)
                shown = values[..., :-1] * values[..., -1:]
                return shown[..., 0] if grey else shown
            target = "L" if image.mode in ("1", "L") else "RGB"
            return np.asarray(image.convert(target)).astype(np.float32) / np.float32(255)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise _unreadable("an image file", path, error) from error


def _load_dicom(path: str | os.PathLike[str], frame: int | None) -> NDArray[np.float32]:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    try:
        data = pydicom.dcmread(path)
        frames = int(data.get("NumberOfFrames") or 1)
        if frames > 1 and frame is None:
            raise DataError(
                f"a DICOM file holds {frames} frames",
                expected="one frame",
                fix="export each frame to its own file",
                private=[str(path)],
            )
        pixels = pixel_array(data, index=frame)
        if pixels.ndim == 3:
            return (pixels / (2.0**data.BitsStored - 1)).astype(np.float32)
        apply_frame_groups(data, frame or 0)
        refuse_unsupported(data)
        values = apply_modality_lut(pixels, data)
        if data.get("VOILUTSequence"):
            values = np.rint(values).astype(np.int64)
        low, high = _output_range(data)
        values = apply_voi_lut(values, data)
        if _windowed(data) and float(data.get("RescaleSlope") or 1) < 0:
            values = low + high - values  # pydicom 3 lets the window run from high to low for a negative slope
        scaled = np.clip((values - low) / (high - low), 0, 1)
        if data.PhotometricInterpretation == "MONOCHROME1":
            scaled = 1 - scaled
        return scaled.astype(np.float32)
    except DataError:
        raise
    except Exception as error:
        # pydicom and its decoders raise whatever the broken byte led to; all of it means "this file is not readable".
        raise unreadable_dicom(path, error) from error


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """No warnings of pydicom: they quote the values that they are about, which name patients."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def unreadable_dicom(path: str | os.PathLike[str], error: Exception) -> DataError:
    """The error for a DICOM file whose pixels cannot be had; it names the decoder that is missing, if that is why."""
    fix = None
    if isinstance(error, RuntimeError | NotImplementedError):
        fix = "compressed files may need a decoder: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        try:
            import pydicom

            missing = missing_decoders(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        except Exception:  # noqa: S110 - the file's own error is the one to report
            pass
        else:
            fix = f"install a decoder for {missing[0]}: {'; or '.join(missing[1:])}" if missing else fix
    return _unreadable("an image file", path, error, fix)


def missing_decoders(syntax: str) -> list[str]:
    """The name of a transfer syntax and what would decode it; empty where what is installed can."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    uid = UID(syntax)
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        return [uid.name, "pydicom knows none: convert these files (dcmconv, gdcmconv)"]
    return [] if decoder.is_available else [uid.name, *decoder.missing_dependencies]


def apply_frame_groups(data: Any, frame: int) -> None:
    """Put the rescale and window of one frame of an enhanced multi-frame object where a single frame has them."""
    for name, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        groups = data.get(name)
        for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for element in (groups[index].get(inner) or [()])[0] if groups else ():
                data[element.tag] = element


def refuse_unsupported(data: Any) -> None:
    """Raise NotImplementedError for pixels that would come out wrong."""
    if data.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotImplementedError(f"one channel of photometric interpretation {data.PhotometricInterpretation}")
    tables = data.get("VOILUTSequence")
    if tables and tables[0].LUTDescriptor[2] == 8 and (tables[0].LUTDescriptor[0] or 65536) > 256:
        # pydicom 3 would wrap the indices of such a table around at 256.
        raise NotImplementedError("a VOI LUT of more than 256 entries with 8 bits each")


def _windowed(data: Any) -> bool:
    """Whether :func:`pydicom.pixels.apply_voi_lut` applies a window and no table."""
    given = data.get("WindowCenter") is not None and data.get("WindowWidth") is not None
    return given and not data.get("VOILUTSequence")


def _output_range(data: Any) -> tuple[float, float]:
    """The ends of the range into which the modality and VOI transforms map (PS3.3 C.11.1, C.11.2)."""
    if data.get("VOILUTSequence"):
        return 0.0, 2.0 ** data.VOILUTSequence[0].LUTDescriptor[2] - 1
    return modality_range(data)


def modality_range(data: Any) -> tuple[float, float]:
    """The ends of the range into which the modality transform alone maps (PS3.3 C.11.1)."""
    if data.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** data.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = int(data.BitsStored)
    low, high = (0.0, 2.0**bits - 1) if data.PixelRepresentation == 0 else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    if slope is not None and intercept is not None:
        low, high = low * float(slope) + float(intercept), high * float(slope) + float(intercept)
    return min(low, high), max(low, high)
