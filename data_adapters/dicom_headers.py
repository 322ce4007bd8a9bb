"""Headers of a folder of DICOM files, without their pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forgetmi.data_adapters.images import quiet_pydicom
from forgetmi.errors import DataError

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "AccessionNumber",
    "InstitutionName",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "InstanceNumber",
    "PatientIdentityRemoved",
    "BurnedInAnnotation",
]
# What a query may ask for, and the audit makes subgroups of.
_ATTRIBUTES = ["StudyDate", "Modality", "ViewPosition", "Manufacturer", "ManufacturerModelName", "StationName"]
_ATTRIBUTES += ["PatientSex", "PatientAge"]
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of one file before its pixels are read. Texts that are not there are ``""``.

    Attributes:
        path, place: the file, and its path below the folder, for messages.
        patient: the key of the patient: ``PatientID``, or ``PatientID^^^Issuer`` (as HL7 writes it) where the file
            names an issuer. The pair is the key: two hospitals both have a patient 1.
        patient_id: the bare ``PatientID``.
        other_ids: OtherPatientIDs.
        study, series, sop: instance UIDs.
        frames: number of frames, at least 1.
        position, orientation: ImagePositionPatient (3 numbers, mm) and ImageOrientationPatient (6).
        number: InstanceNumber.
        shape: (Rows, Columns).
        syntax: transfer syntax UID.
        attributes: date, device and view, those that the file says.
    """

    path: str
    place: str
    patient: str
    patient_id: str
    other_ids: tuple[str, ...]
    study: str
    series: str
    sop: str
    accession: str
    institution: str
    modality: str
    frames: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    number: int | None
    shape: tuple[int, int]
    colour: bool
    syntax: str
    identity_removed: bool
    burned_in: str
    attributes: dict[str, str]

    def along_normal(self) -> float | None:
        """Where the slice lies along the normal of its plane, mm (PS3.3 C.7.6.2.1.1); ``None`` where not known."""
        if self.position is None or self.orientation is None:
            return None
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return float(np.dot(np.cross(row, column), self.position))


def read_headers(root: str | os.PathLike[str], *, force: bool) -> tuple[list[Header], list[tuple[str, str]]]:
    """Every DICOM image below a folder, in the order of their paths; and ``(reason, place)`` of every other file.

    Args:
        root: the folder; nested folders are walked, links to folders are not.
        force: read files that do not say ``DICM`` at byte 128 as well.

    Raises:
        DataError: there is no such folder, or one of its folders cannot be listed.
    """
    headers: list[Header] = []
    skipped: list[tuple[str, str]] = []
    with quiet_pydicom():
        for path in _walk(root):
            place = os.path.relpath(path, root)
            found = _read(path, place, force)
            if isinstance(found, Header):
                headers.append(found)
            else:
                skipped.append((found, place))
    return headers, skipped


def _walk(root: str | os.PathLike[str]) -> Iterator[str]:
    if not Path(root).is_dir():
        raise DataError("there is no such folder", where=str(root), fix="correct root in the configuration")

    def refuse(error: OSError) -> None:
        raise DataError(
            f"a folder cannot be listed: {error.strerror}",
            where=str(root),
            fix="give the user who runs this the right to read it: its patients would be missed",
            private=[str(error.filename)],
        ) from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(files))


def names_may_stand_in(path: str | os.PathLike[str]) -> tuple[bool, bool] | None:
    """Whether a DICOM file does not say that names were removed, and whether it says that text is burned in.

    Returns:
        ``None`` for a file that is no DICOM file or has no readable header.
    """
    import pydicom

    try:
        with open(path, "rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
        tags = ["PatientIdentityRemoved", "BurnedInAnnotation"]
        with quiet_pydicom():
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        removed, burned = (_text(data, tag).upper() for tag in tags)
    except Exception:  # pydicom raises whatever the broken byte led to
        return None
    return removed != "YES", burned == "YES"


def _read(path: str, place: str, force: bool) -> Header | str:
    """The header, or why the file is none of an image."""
    import pydicom

    if os.path.basename(path).upper() == "DICOMDIR":
        return "DICOMDIR (an index, no image)"
    if not os.path.isfile(path):
        return "no regular file"
    try:
        with open(path, "rb") as stream:
            marked = stream.read(132)[128:] == b"DICM"
        if not marked and not force:
            return "no DICOM file (no DICM at byte 128)"
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_TAGS, *_ATTRIBUTES], force=force)
        return _header(path, place, data)
    except OSError as error:
        return f"file cannot be read ({error.strerror or type(error).__name__})"
    except Exception as error:  # pydicom raises whatever the broken byte led to
        return f"header cannot be read ({type(error).__name__})"


def _header(path: str, place: str, data: Any) -> Header | str:
    if (
        _text(data, "SOPClassUID") == _DICOMDIR_CLASS
        or data.file_meta.get("MediaStorageSOPClassUID") == _DICOMDIR_CLASS
    ):
        return "DICOMDIR (an index, no image)"
    modality = _text(data, "Modality")
    rows, columns = data.get("Rows"), data.get("Columns")
    if not rows or not columns:
        # Reports, presentation states, key objects, contours: they have no pixels.
        return f"no image (Modality {modality or 'blank'})"
    ids = {name: _text(data, name) for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    for name, value in ids.items():
        if not value:
            return f"{name} is blank"
    issuer = _text(data, "IssuerOfPatientID")
    other = [part.strip() for part in _text(data, "OtherPatientIDs").split("\\")]
    more = data.get("OtherPatientIDsSequence") or ()
    other += [_patient_key(_text(item, "PatientID"), _text(item, "IssuerOfPatientID")) for item in more]
    return Header(
        path=path,
        place=place,
        patient=_patient_key(ids["PatientID"], issuer),
        patient_id=ids["PatientID"],
        other_ids=tuple(name for name in other if name),
        study=ids["StudyInstanceUID"],
        series=ids["SeriesInstanceUID"],
        sop=ids["SOPInstanceUID"],
        accession=_text(data, "AccessionNumber"),
        institution=_text(data, "InstitutionName"),
        modality=modality,
        frames=max(1, int(data.get("NumberOfFrames") or 1)),
        position=_numbers(data, "ImagePositionPatient", 3),
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        number=None if data.get("InstanceNumber") is None else int(data.InstanceNumber),
        shape=(int(rows), int(columns)),
        colour=int(data.get("SamplesPerPixel") or 1) > 1,
        syntax=str(data.file_meta.get("TransferSyntaxUID") or ""),
        identity_removed=_text(data, "PatientIdentityRemoved").upper() == "YES",
        burned_in=_text(data, "BurnedInAnnotation").upper(),
        attributes={name: text for name in _ATTRIBUTES if (text := _text(data, name))},
    )


def _patient_key(patient_id: str, issuer: str) -> str:
    return f"{patient_id}^^^{issuer}" if patient_id and issuer else patient_id


def _text(data: Any, name: str) -> str:
    value = data.get(name)
    if value is None:
        return ""
    # A backslash in an id makes pydicom read several values; together they are the id as written.
    text = str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(map(str, value))
    return text.strip(" \0\t\r\n")


def _numbers(data: Any, name: str, count: int) -> tuple[float, ...] | None:
    value = data.get(name)
    if value is None or not hasattr(value, "__len__") or len(value) != count:
        return None
    numbers = tuple(float(part) for part in value)
    return numbers if np.isfinite(numbers).all() else None
