"""MIMIC-CXR (DICOM) and MIMIC-CXR-JPG, with the reports, and the published Forget-MI split and forget sets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from forgetmi.data_adapters.cells import (
    BlankPolicy,
    MissingFilePolicy,
    UncertainPolicy,
    missing_files,
    read_findings,
    read_splits,
    refuse_cells,
)
from forgetmi.data_adapters.images import ImageFile, TextFile
from forgetmi.data_adapters.report_sections import FALLBACK, report_text
from forgetmi.data_adapters.tables import places, read_table, require_unique
from forgetmi.delimited import read_delimited
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import Label, Record, RecordDataset, Skipped
from forgetmi.requests import ForgetRequest

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
# Severity 0 to 3 of pulmonary edema, Chauhan et al. 2020 (MICCAI), whose split Forget-MI uses.
SEVERITIES = ("none", "vascular congestion", "interstitial edema", "alveolar edema")
_IDS = ("subject_id", "study_id", "dicom_id")
_SUFFIXES = {"jpg": (".jpg",), "dicom": (".dcm",), "auto": (".jpg", ".dcm")}
_FOLDS = {"1", "2", "3", "4", "5"}


@dataclass(frozen=True)
class MimicCxr:
    """Reads MIMIC-CXR. One record an image; text and label belong to the study and repeat on each of its images.

    Args:
        root: the release's folder, the one that holds ``files/``.
        reports_root: the folder whose ``files/`` holds the reports (``mimic-cxr-reports.zip``, unpacked); by default
            ``root``. The JPG release has no reports.
        tables_root: the folder of ``mimic-cxr-2.0.0-*.csv`` or ``.csv.gz``; by default ``root``. The DICOM release has
            none of them. The names say 2.0.0 in release 2.1.0 too.
        image_format: ``jpg``, ``dicom``, or ``auto``: the JPG where it is there, else the DICOM.
        modalities: ``image``, ``text``, or both.
        labels: ``chexpert`` or ``negbio`` (the labellers' files), ``edema`` (severity 0 to 3 in ``forget_mi_split``),
            or ``none``.
        target: one of the 14 findings, as classes no/yes; by default all of them, as a multilabel target.
        uncertain: what -1 becomes: ``unknown``, ``zero`` or ``one``.
        blank: what "not mentioned" becomes: ``unknown`` or ``zero``. "No Finding" is never 0, only 1 or blank.
        views: view positions to keep, ``""`` for images without one (15,769 of 377,110); by default all images.
        forget_mi_split: the published split CSV of Forget-MI; by default ``mimic-cxr-2.0.0-split.csv`` is used.
        validation_folds: folds of that file which are for validation; 5 is the published default. The published 6 %
            and 10 % forget sets hold subjects of all five folds: with them, give ``[]`` (there is no validation then).
        text_tsv: Forget-MI's ``all_data.tsv``: no header; study id in the third column, text in the last (as its code
            reads it), or just these two. By default the report files are used.
        sections: report sections that make the text, see :func:`~forgetmi.data_adapters.report_sections.report_text`.
        attributes: columns of ``mimic-cxr-2.0.0-metadata.csv`` that a query may ask for, such as ``ViewPosition`` and
            ``StudyDate`` (which lies in the shifted future). Reading them takes a few seconds.
        on_missing_file: images that are not on the disk: ``error`` lists them with their rows, ``skip`` leaves them out
            and counts them. A missing report is a missing modality, and is counted in the notes.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "mimic_cxr"
    summary: ClassVar[str] = "MIMIC-CXR and MIMIC-CXR-JPG with reports; the published Forget-MI split and forget sets"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality", "section")
    license_note: ClassVar[str] = (
        "PhysioNet credentialed data: its use agreement forbids sharing it, or sending it to others' online services"
    )

    root: Path
    reports_root: Path | None = None
    tables_root: Path | None = None
    image_format: Literal["auto", "jpg", "dicom"] = "auto"
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    labels: Literal["chexpert", "negbio", "edema", "none"] = "chexpert"
    target: str | None = None
    uncertain: UncertainPolicy = "unknown"
    blank: BlankPolicy = "unknown"
    views: tuple[str, ...] | None = None
    forget_mi_split: Path | None = None
    validation_folds: tuple[int, ...] = (5,)
    text_tsv: Path | None = None
    sections: tuple[str, ...] = ("findings", "impression")
    attributes: tuple[str, ...] = ()
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        problems = []
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            problems.append("modalities: name image, text or both, each once")
        if self.labels == "edema" and self.forget_mi_split is None:
            problems.append("labels: edema severities stand in the Forget-MI split: give forget_mi_split")
        if self.target is not None and self.target not in FINDINGS:
            problems.append(f"target {self.target!r} is unknown. {did_you_mean(self.target, FINDINGS)}")
        if self.target is not None and self.labels in ("edema", "none"):
            problems.append(f"target is for labels chexpert and negbio, not {self.labels}")
        if not {str(fold) for fold in self.validation_folds} < _FOLDS:
            problems.append(f"validation_folds {self.validation_folds} must be some, not all, of 1 to 5")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the release; images and reports are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, an image is not on the disk, no report is, an id is repeated, a
                cell cannot be used. The message names file and row.
        """
        frame, split = self._rows()
        skipped: list[tuple[str, str]] = []

        def keep(good: list[bool], reason: str, *columns: list[Any]) -> tuple[list[Any], ...]:
            """The good rows of the frame (in place) and of the columns; the others are counted."""
            nonlocal frame
            if not all(good):
                skipped.extend((reason, place) for place in places(frame, [not g for g in good]))
                frame = frame[good]
            return tuple([cell for cell, g in zip(column, good, strict=True) if g] for column in columns)

        (split,) = keep([all(ids) for ids in zip(*(frame[c] for c in _IDS), strict=True)], "an id is blank", split)
        require_unique(frame, "dicom_id")
        _require_one_subject_a_study(frame)
        if self.views is not None:
            (split,) = keep(self._has_view(frame), "view not asked for", split)
        labels = self._labels(frame)
        if self.labels != "none":
            split, labels = keep(
                [label is not None for label in labels], "label unknown, or study not in the label file", split, labels
            )
        paths: list[str | None] = [None] * len(frame)
        if "image" in self.modalities:
            paths = self._image_paths(frame)
            gone = missing_files(paths, places(frame), "images", self.on_missing_file)
            split, labels, paths = keep([not g for g in gone], "image file is missing", split, labels, paths)
        images = [None if path is None else ImageFile(path) for path in paths]
        texts, notes = self._texts(frame) if "text" in self.modalities else ({}, [])
        said = self._attributes(frame)
        columns = (frame["dicom_id"], frame["study_id"], frame["subject_id"], images, labels, split, said)
        both = {"image", "text"} <= set(self.modalities)

        def values(image: ImageFile | None, study: str) -> dict[str, Any]:
            if both:
                return {"image": image, "text": texts[study]}
            return {"image": image} if "image" in self.modalities else {"text": texts[study]}

        return RecordDataset(
            (
                Record(dicom, study, subject, "", values(image, study), label, part, attributes)
                for dicom, study, subject, image, label, part, attributes in zip(*columns, strict=True)
            ),
            name=self.name,
            levels=self.levels,
            classes=self._classes(),
            modality_kinds={kind: kind for kind in self.modalities},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=notes,
            sections={"text": self._section_names()},
        )

    def _section_names(self) -> tuple[str, ...]:
        """The sections that a report's text may have; none where the texts come from one file."""
        if "text" not in self.modalities or self.text_tsv is not None:
            return ()
        return tuple(dict.fromkeys((*self.sections, *FALLBACK)))

    def _attributes(self, frame: pd.DataFrame) -> list[dict[str, str]]:
        """What the metadata say of each image."""
        if not self.attributes:
            return [{} for _ in range(len(frame))]
        table = self._table("metadata", ("dicom_id", *self.attributes), ("dicom_id", *self.attributes))
        rows = zip(*(table[name] for name in self.attributes), strict=True)
        cells = dict(zip(table["dicom_id"], rows, strict=True))
        unknown = ("",) * len(self.attributes)
        return [dict(zip(self.attributes, cells.get(dicom, unknown), strict=True)) for dicom in frame["dicom_id"]]

    def _table(self, name: str, columns: tuple[str, ...], ids: tuple[str, ...]) -> pd.DataFrame:
        folder = self.root if self.tables_root is None else self.tables_root
        try:
            return read_table(os.path.join(folder, f"mimic-cxr-2.0.0-{name}.csv"), columns=columns, ids=ids)
        except DataError as error:
            if self.tables_root is None and "there is no file" in error.what:
                error.fix = "it is part of MIMIC-CXR-JPG, not of the DICOM release: say with tables_root where it is"
            raise

    def _rows(self) -> tuple[pd.DataFrame, list[str]]:
        """One row an image, and its split."""
        if self.forget_mi_split is None:
            frame = self._table("split", (*_IDS, "split"), _IDS)
            return frame, read_splits(frame, "split")
        severity = ("edeme_severity", "edema_severity")  # published with both spellings
        frame = read_table(self.forget_mi_split, columns=(*_IDS, "fold"), ids=(*_IDS, "fold"), optional=severity)
        frame = _rename(frame, {"edeme_severity": "edema_severity"})
        if self.labels == "edema" and "edema_severity" not in frame:
            raise DataError(
                f"{frame.attrs['file']} has no column 'edema_severity' (or 'edeme_severity')",
                where=f"{frame.attrs['file']}:1",
            )
        folds = [fold.upper() for fold in frame["fold"]]
        refuse_cells(frame, "fold", [fold not in _FOLDS | {"TEST"} for fold in folds], "1 to 5, or TEST")
        part = dict.fromkeys(_FOLDS, "train") | {"TEST": "test"}
        part.update((str(fold), "validation") for fold in self.validation_folds)
        return frame, [part[fold] for fold in folds]

    def _has_view(self, frame: pd.DataFrame) -> list[bool]:
        wanted = set(self.views or ())
        table = self._table("metadata", ("dicom_id", "ViewPosition"), ("dicom_id", "ViewPosition"))
        view = dict(zip(table["dicom_id"], table["ViewPosition"], strict=True))
        present = set(view.values())
        if not wanted & present:
            raise DataError(f"no image has a view of {sorted(wanted)}", expected=f"views among {sorted(present)}")
        return [view.get(dicom, "") in wanted for dicom in frame["dicom_id"]]

    def _classes(self) -> tuple[str, ...]:
        if self.labels == "none":
            return ()
        if self.labels == "edema":
            return SEVERITIES
        return FINDINGS if self.target is None else (f"{self.target}: no", f"{self.target}: yes")

    def _labels(self, frame: pd.DataFrame) -> list[Label]:
        """A label a row; ``None`` where the study has no row in the label file, or its label is unknown."""
        if self.labels == "none":
            return [None] * len(frame)
        if self.labels == "edema":
            grade = {f"{i}{end}": i for i in range(len(SEVERITIES)) for end in ("", ".0")} | {"": None}
            cells = [cell.strip() for cell in frame["edema_severity"]]
            refuse_cells(frame, "edema_severity", [cell not in grade for cell in cells], "0, 1, 2 or 3")
            return [grade[cell] for cell in cells]
        columns = FINDINGS if self.target is None else (self.target,)
        table = self._table(self.labels, ("study_id", *columns), ("study_id",))
        require_unique(table, "study_id")
        found = read_findings(table, columns, uncertain=self.uncertain, blank=self.blank)
        by_study: dict[str, Label] = {}
        for study, values in zip(table["study_id"], found, strict=True):
            if self.target is None:
                by_study[study] = values if any(value is not None for value in values) else None
            else:
                by_study[study] = None if values[0] is None else int(values[0])
        return [by_study.get(study) for study in frame["study_id"]]

    def _image_paths(self, frame: pd.DataFrame) -> list[str | None]:
        files = self._files_folder(self.root)
        stems = [f"{files}/{_study_path(*ids)}" for ids in zip(*(frame[c] for c in _IDS[:2]), strict=True)]
        stems = [f"{stem}/{dicom}" for stem, dicom in zip(stems, frame["dicom_id"], strict=True)]
        first, *others = _SUFFIXES[self.image_format]
        paths: list[str | None] = [stem + first for stem in stems]
        for suffix in others:
            paths = [p if p and os.path.isfile(p) else stem + suffix for p, stem in zip(paths, stems, strict=True)]
        return paths

    def _files_folder(self, root: Path) -> str:
        folder = os.path.join(root, "files")
        if not os.path.isdir(folder):
            raise DataError(
                "there is no folder 'files'",
                where=str(root),
                expected="files/p10/p10000032/s50414267/...",
                fix="give the folder that holds `files`, not `files` itself",
            )
        return folder

    def _texts(self, frame: pd.DataFrame) -> tuple[dict[str, Any], list[str]]:
        """Study id to text (``None`` where there is none), and what a report on the dataset must say about it."""
        studies = dict(zip(frame["study_id"], frame["subject_id"], strict=True))
        texts: dict[str, Any]
        if self.text_tsv is not None:
            source = Path(self.text_tsv).name
            by_study = _read_all_data(self.text_tsv)
            texts = {study: by_study.get(study) for study in studies}
        else:
            source = "the reports folder"
            files = self._files_folder(self.root if self.reports_root is None else self.reports_root)
            reader = partial(report_text, sections=self.sections)
            paths = {study: f"{files}/{_study_path(subject, study)}.txt" for study, subject in studies.items()}
            texts = {s: TextFile(path, reader) if os.path.isfile(path) else None for s, path in paths.items()}
        missing = sum(text is None for text in texts.values())
        if texts and missing == len(texts):
            raise DataError(
                f"{source} holds no report of the {missing} studies",
                expected="files/p10/p10000032/s50414267.txt",
                fix="unpack mimic-cxr-reports.zip and set reports_root (the JPG release has no reports), or set "
                "modalities to [image]",
            )
        return texts, [f"{missing} of {len(texts)} studies have no report: their text is missing"] if missing else []


def read_forget_mi_request(path: str | os.PathLike[str]) -> ForgetRequest:
    """A patient request from a published forget set (``forget_set_3per.csv``, ...): the subjects of its rows.

    The file has a row for each image, so its subjects repeat; the published sets hold all images of each.

    Raises:
        RequestError: unreadable file, or one without ``subject_id``.
    """
    return ForgetRequest.from_csv(path, level="patient", column="subject_id")


def _study_path(subject: str, study: str) -> str:
    return f"p{subject[:2]}/p{subject}/s{study}"


def _rename(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    renamed = frame.rename(columns=names)
    renamed.attrs = dict(frame.attrs)
    return renamed


def _require_one_subject_a_study(frame: pd.DataFrame) -> None:
    subject: dict[str, str] = {}
    wrong = [
        subject.setdefault(study, patient) != patient
        for study, patient in zip(frame["study_id"], frame["subject_id"], strict=True)
    ]
    refuse_cells(frame, "study_id", wrong, "one subject for each study")


def _read_all_data(path: str | os.PathLike[str]) -> dict[str, str]:
    """Study id to text."""
    table = read_delimited(path, header=False, quoting=False)
    width = len(table.rows[0])
    if width == 3 or width < 2:
        raise DataError(
            f"{table.path.name} has {width} columns",
            where=f"{table.path.name}:1",
            expected="two (study id, text), or four and more (study id in the third, text in the last)",
        )
    column = 0 if width == 2 else 2
    texts: dict[str, str] = {}
    for row, line in zip(table.rows, table.lines, strict=True):
        study, text = row[column].strip().removeprefix("s"), row[-1].strip()
        if texts.setdefault(study, text) != text:
            raise DataError(
                f"{table.path.name} holds two different texts for one study",
                where=f"{table.path.name}:{line}",
                private=[study],
            )
    return {study: text for study, text in texts.items() if text}
