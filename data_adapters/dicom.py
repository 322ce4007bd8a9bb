"""Folders of DICOM files: images, or series as volumes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from forgetmi.data_adapters.aliases import unambiguous
from forgetmi.data_adapters.dicom_headers import Header, read_headers
from forgetmi.data_adapters.dicom_volumes import DicomVolume, require_monai
from forgetmi.data_adapters.images import ImageFile, missing_decoders
from forgetmi.data_adapters.label_table import LabelTable
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import Record, RecordDataset, Skipped

_KEYS = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True)
class Dicom:
    """Reads a folder of DICOM files. Only headers are read to index it.

    Ids: patient = PatientID, or ``PatientID^^^Issuer`` where the file names its issuer (the bare PatientID is an alias
    where it means one person); study = StudyInstanceUID (AccessionNumber is an alias); sample = SOPInstanceUID (with
    ``#1``, ``#2``, ... for the frames of one file), or SeriesInstanceUID for volumes.

    Args:
        root: the folder; whatever is below it is read, with any file name.
        unit: ``image``: one record a file (or frame); ``volume``: one record a series, or multi-frame file.
        modalities: values of the tag Modality to keep (``CR``, ``DX``, ``CT``); all by default.
        frames: ``unit: image``, files with several frames: ``each`` makes a record of each, ``skip`` counts them.
        channels: ``unit: image``: 1 or 3; as the file has them by default.
        window: ``unit: volume``: (center, width), see :class:`~forgetmi.data_adapters.dicom_volumes.DicomVolume`.
        spacing: ``unit: volume``: mm between slices, rows and columns, resampled by MONAI (extra ``volumes``).
        labels: a table of labels (and splits), keyed by ``PatientID``, ``AccessionNumber``, ``StudyInstanceUID``,
            ``SeriesInstanceUID`` or ``SOPInstanceUID``.
        force: read files without ``DICM`` at byte 128 as well.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "dicom"
    summary: ClassVar[str] = "a folder of DICOM files with any names: images, or series as volumes"
    levels: ClassVar[tuple[str, ...]] = ("institution", "patient", "study", "sample", "modality")
    license_note: ClassVar[str] = "your own data: its use agreement is not known to this package"

    root: Path
    unit: Literal["image", "volume"] = "image"
    modalities: tuple[str, ...] | None = None
    frames: Literal["each", "skip"] = "each"
    channels: Literal[1, 3] | None = None
    window: tuple[float, float] | None = None
    spacing: tuple[float, float, float] | None = None
    labels: LabelTable | None = None
    force: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.unit == "image" and (self.window is not None or self.spacing is not None):
            problems.append("window and spacing are for unit: volume")
        if self.unit == "volume" and self.channels is not None:
            problems.append("channels is for unit: image; volumes are grey")
        if self.window is not None and not self.window[1] > 0:
            problems.append(f"window: the width must be positive, got {self.window[1]}")
        if self.spacing is not None and not min(self.spacing) > 0:
            problems.append(f"spacing must be positive, got {list(self.spacing)}")
        if self.labels is not None and self.labels.ids not in _KEYS:
            problems.append(f"labels.ids: {self.labels.ids!r} is unknown. {did_you_mean(self.labels.ids, _KEYS)}")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the folder. Nothing is written.

        Raises:
            DataError: the folder is missing or holds no image, a file's compression has no installed decoder, one
                SOPInstanceUID belongs to two patients, or the label table does not fit.
            MissingDependencyError: ``spacing`` without MONAI.
        """
        if self.spacing is not None:
            require_monai()
        headers, skipped = read_headers(self.root, force=self.force)
        headers = self._keep(headers, skipped)
        _require_decoders(headers)
        headers = _without_copies(headers, skipped)
        notes = _privacy_notes(headers)
        units: Sequence[tuple[Header, str, ImageFile | DicomVolume]]
        if self.unit == "image":
            units = [(header, sample, value) for header in headers for sample, value in self._images(header, skipped)]
        else:
            units = self._volumes(headers, skipped, notes)
        classes: tuple[str, ...] = ()
        labels: list[Any] = [None] * len(units)
        splits = ["train"] * len(units)
        if self.labels is not None and units:
            keys = [_label_keys(header, self.labels.ids) for header, _, _ in units]
            joined = self.labels.join(keys, [header.patient for header, _, _ in units])
            classes, labels, splits = joined.classes, joined.labels, joined.splits
            notes += joined.notes
            skipped += [("no label", h.place) for (h, _, _), y in zip(units, labels, strict=True) if y is None]
        located = bool(units) and all(header.institution for header, _, _ in units)
        records = [
            Record(
                sample,
                h.study,
                h.patient,
                h.institution if located else "",
                {self.unit: value},
                label,
                split,
                h.attributes,
            )
            for (h, sample, value), label, split in zip(units, labels, splits, strict=True)
            if self.labels is None or label is not None
        ]
        aliases, alias_notes = _aliases(headers)
        return RecordDataset(
            records,
            name=self.name,
            levels=self.levels if located else self.levels[1:],
            classes=classes,
            modality_kinds={self.unit: self.unit},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=notes + alias_notes,
            aliases=aliases,
        )

    def _keep(self, headers: Iterable[Header], skipped: list[tuple[str, str]]) -> list[Header]:
        kept = []
        for header in headers:
            if self.modalities is not None and header.modality not in self.modalities:
                skipped.append((f"Modality {header.modality or 'blank'} not asked for", header.place))
            else:
                kept.append(header)
        return kept

    def _images(self, header: Header, skipped: list[tuple[str, str]]) -> list[tuple[str, ImageFile]]:
        if header.frames == 1:
            return [(header.sop, ImageFile(header.path, self.channels))]
        if self.frames == "skip":
            skipped.append(("several frames", header.place))
            return []
        numbered = range(header.frames)
        return [(f"{header.sop}#{n + 1}", ImageFile(header.path, self.channels, frame=n)) for n in numbered]

    def _volumes(
        self, headers: Iterable[Header], skipped: list[tuple[str, str]], notes: list[str]
    ) -> list[tuple[Header, str, DicomVolume]]:
        """A volume a series; the files of a series that make none are skipped, all of them."""
        series: dict[tuple[str, str, str], list[Header]] = defaultdict(list)
        for header in headers:
            series[header.patient, header.study, header.series].append(header)
        shared = Counter(uid for _, _, uid in series)
        units = []
        by_number = uneven = 0
        for (_, _, uid), files in series.items():
            if shared[uid] > 1:
                raise DataError(
                    "one SeriesInstanceUID belongs to several patients or studies",
                    fix="find out whose series it is, and export it again",
                    private=[h.place for h in files],
                )
            several = [h for h in files if h.frames > 1]
            for header in several:
                reason = "in colour" if header.colour else None
                if reason is None:
                    sample = uid if len(files) == 1 else header.sop
                    units.append((header, sample, DicomVolume((header.path,), self.window, self.spacing)))
                else:
                    skipped.append((reason, header.place))
            single = [h for h in files if h.frames == 1]
            if not single:
                continue
            ordered, how = _in_order(single)
            if ordered is None:
                skipped += [(how, h.place) for h in single]
                continue
            by_number += how == "by number"
            uneven += how == "uneven"
            sample = uid if not several else f"{uid}#slices"
            paths = tuple(h.path for h in ordered)
            units.append((ordered[0], sample, DicomVolume(paths, self.window, self.spacing)))
        if by_number:
            notes.append(f"{by_number} series say no ImagePositionPatient: their slices are ordered by InstanceNumber")
        if uneven:
            notes.append(f"{uneven} series have uneven distances between their slices: some slices may be missing")
        return units


def _in_order(files: Sequence[Header]) -> tuple[list[Header] | None, str]:
    """The slices of a series in space (by position, not by number), or ``None`` and why they make no volume."""
    if any(h.colour for h in files):
        return None, "in colour"
    if len({h.shape for h in files}) > 1:
        return None, "slices of the series differ in size"
    if len(files) == 1:
        return list(files), ""
    places = [h.along_normal() for h in files]
    if any(place is None for place in places):
        numbers = [h.number for h in files]
        if None in numbers or len(set(numbers)) < len(numbers):
            return None, "slices of the series cannot be ordered (no position, no number of its own)"
        return sorted(files, key=lambda h: h.number or 0), "by number"
    directions = np.array([h.orientation for h in files])
    if np.abs(directions - directions[0]).max() > 1e-2:
        return None, "slices of the series lie in different planes"
    order = sorted(range(len(files)), key=lambda i: (places[i], files[i].sop))
    gaps = np.diff([places[i] for i in order])
    if gaps.min() < 1e-3:
        return None, "several slices of the series lie at one position (time series)"
    uneven = gaps.max() > 1.1 * gaps.min()
    return [files[i] for i in order], "uneven" if uneven else ""


def _label_keys(header: Header, ids: str) -> tuple[str, ...]:
    if ids == "PatientID":
        return (header.patient, header.patient_id)
    attribute = {"AccessionNumber": "accession", "StudyInstanceUID": "study", "SeriesInstanceUID": "series"}
    return (getattr(header, attribute.get(ids, "sop")),)


def _require_decoders(headers: Iterable[Header]) -> None:
    """An hour of training must not end at the first compressed file; and files left out would be patients left out."""
    counts = Counter(header.syntax for header in headers if header.syntax)
    missing = {syntax: found for syntax in counts if (found := missing_decoders(syntax))}
    if missing:
        listed = "; ".join(f"{counts[syntax]} files of {found[0]}" for syntax, found in missing.items())
        raise DataError(
            f"no installed decoder can read some compressed files: {listed}",
            expected="a handler for each transfer syntax",
            fix="; ".join(f"for {found[0]} install one of: {' | '.join(found[1:])}" for found in missing.values()),
            private=[next(h.place for h in headers if h.syntax == syntax) for syntax in missing],
        )


def _without_copies(headers: Iterable[Header], skipped: list[tuple[str, str]]) -> list[Header]:
    """One file for each SOPInstanceUID."""
    first: dict[str, Header] = {}
    wrong = []
    for header in headers:
        other = first.setdefault(header.sop, header)
        if other is header:
            continue
        if (other.patient, other.study, other.series) != (header.patient, header.study, header.series):
            wrong.append(f"{other.place}, {header.place}")
        skipped.append(("copy of another file (same SOPInstanceUID)", header.place))
    if wrong:
        raise DataError(
            f"{len(wrong)} files repeat another file's SOPInstanceUID under another patient, study or series",
            expected="one owner for each image",
            fix="find out whose images they are: one of the two people would be forgotten in the other's place",
            private=wrong[:100],
        )
    return list(first.values())


def _privacy_notes(headers: Sequence[Header]) -> list[str]:
    notes = []
    kept = sum(not h.identity_removed for h in headers)
    if kept:
        notes.append(
            f"{kept} of {len(headers)} DICOM files do not say PatientIdentityRemoved = YES: names may stand in them"
        )
    burned = sum(h.burned_in == "YES" for h in headers)
    if burned:
        notes.append(f"{burned} DICOM files say BurnedInAnnotation = YES: names may stand in the pixels")
    return notes


def _aliases(headers: Sequence[Header]) -> tuple[dict[str, dict[str, str]], list[str]]:
    patients = {h.patient for h in headers}
    bare, shared = unambiguous(((h.patient_id, h.patient) for h in headers), patients)
    others = [(other, h.patient) for h in headers for other in h.other_ids if other != h.patient_id]
    taken = patients | ({h.patient_id for h in headers} - set(bare))
    every, clashes = unambiguous([*bare.items(), *others], taken)
    studies, accessions = unambiguous(((h.accession, h.study) for h in headers), {h.study for h in headers})
    owners = Counter(study for study, _ in {(h.study, h.patient) for h in headers})
    notes = []
    if shared:
        notes.append(
            f"{shared} PatientIDs occur under several issuers, or with and without one: taken for different people; "
            "a request must name them as PatientID^^^Issuer"
        )
    if clashes:
        notes.append(
            f"{clashes} OtherPatientIDs are another patient's id too: they are not followed; if they are one person, a "
            "request must name both"
        )
    if accessions:
        notes.append(f"{accessions} AccessionNumbers stand on several studies: a request must name StudyInstanceUIDs")
    if doubled := sum(n > 1 for n in owners.values()):
        notes.append(f"{doubled} StudyInstanceUIDs stand under more than one patient: is one of them a wrong id?")
    return {"patient": every, "study": studies}, notes
