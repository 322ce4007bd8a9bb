"""Tiny DICOM files of the true format. Nothing in them is a patient's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

BASE = "1.2.826.0.1.3680043.8.498"


def write_dicom(path: Path, pixels: Any = None, *, preamble: bool = True, syntax: Any = None, **tags: Any) -> Path:
    """A DICOM file; ``pixels`` [H, W] (uint8, uint16, int16) or [frames, H, W]; ``None`` for an object without pixels.

    Tags are keywords of pydicom, ``None`` leaves one out. Short ids (``study="7"``) become UIDs.
    """
    data = Dataset()
    short = {name: tags.pop(name, "1") for name in ("patient", "study", "series", "sop")}
    data.PatientID = short["patient"]
    data.StudyInstanceUID = f"{BASE}.1.{short['study']}"
    data.SeriesInstanceUID = f"{BASE}.2.{short['series']}"
    data.SOPInstanceUID = f"{BASE}.3.{short['sop']}"
    data.SOPClassUID = CTImageStorage
    data.Modality = "CT"
    if pixels is not None:
        array = np.asarray(pixels)
        data.Rows, data.Columns = array.shape[-2:]
        if array.ndim == 3:
            data.NumberOfFrames = array.shape[0]
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8 * array.itemsize
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(array.dtype.kind == "i")
        data.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
        data["PixelData"].VR = "OB" if array.itemsize == 1 else "OW"
    for name, value in tags.items():
        if value is None:
            if name in data:
                delattr(data, name)
        else:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or f"{BASE}.9"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=preamble)
    return path


def item(**tags: Any) -> Sequence:
    """A sequence of one item."""
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return Sequence([data])


def ramp(value: int = 0, *, kind: str = "uint16") -> Any:
    return (np.arange(16).reshape(4, 4) + value).astype(kind)


def slices(folder: Path, places: Any, *, series: str = "5", **tags: Any) -> None:
    """A series with a slice at each place along z, numbered backwards and named so that no order but space is right."""
    for i, z in enumerate(places):
        settings = {
            "series": series,
            "sop": f"{series}.{i + 1}",
            "ImagePositionPatient": [0, 0, float(z)],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [2.0, 0.5],
            "InstanceNumber": len(places) - i,
            **tags,
        }
        write_dicom(folder / f"x{(7 * i) % 10}_{series}_{i}", np.full((4, 4), round(z), np.uint16), **settings)
