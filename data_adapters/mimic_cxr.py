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
    read_splits,
    read_targets,
    refuse_cells,
    target_classes,
    target_problems,
)
from forgetmi.data_adapters.images import ImageFile, TextFile
from forgetmi.data_adapters.report_sections import FALLBACK, report_text
from forgetmi.data_adapters.rows import Rows
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.delimited import read_delimited
from forgetmi.errors import ConfigError, DataError
from forgetmi.memory import uncollected
from forgetmi.records import Label, RecordDataset
from forgetmi.requests import ForgetRequest
from forgetmi.splits import draw_splits

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
_SPELLED = {"Lung Opacity": "Airspace Opacity"}  # in the radiologists' file


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
        radiologist_test_labels: label the test split from ``mimic-cxr-2.1.0-test-set-labeled.csv``, which radiologists
            wrote, and leave out (and count) test images of studies that it does not hold.
        views: view positions to keep, ``""`` for images without one (15,769 of 377,110); by default all images.
        split: ``published`` (``mimic-cxr-2.0.0-split.csv``, part of the JPG release), or ``drawn``: the images of
            ``cxr-record-list.csv``, which the DICOM release has, all for training less what the next two draw.
        validation, test: shares of the training patients that are drawn for these splits from ``seed``.
        seed: of that draw.
        forget_mi_split: the published split CSV of Forget-MI, in place of ``split``.
        validation_folds: folds of that file which are for validation; 5 is the published default. The published 6 %
            and 10 % forget sets hold subjects of all five folds: with them, give ``[]`` (there is no validation then).
        text_tsv: Forget-MI's ``all_data.tsv``: no header; study id in the third column, text in the last (as its code
            reads it), or just these two. By default the report files are used.
        sections: report sections that make the text, see :func:`~forgetmi.data_adapters.report_sections.report_text`.
        attributes: columns of ``mimic-cxr-2.0.0-metadata.csv`` that a query may ask for, such as ``ViewPosition`` and
            ``StudyDate`` (which lies in the shifted future). ``StudyTime`` gets back the leading zeros that it has lost
            in the file: ``HHMMSS``. Reading them takes a few seconds.
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
    radiologist_test_labels: bool = False
    split: Literal["published", "drawn"] = "published"
    validation: float = 0.0
    test: float = 0.0
    seed: int = 0
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
        problems += target_problems(FINDINGS, self.target)
        if self.target is not None and self.labels in ("edema", "none"):
            problems.append(f"target is for labels chexpert and negbio, not {self.labels}")
        if self.radiologist_test_labels and self.labels in ("edema", "none"):
            problems.append(f"radiologist_test_labels is for labels chexpert and negbio, not {self.labels}")
        if self.split == "drawn" and self.forget_mi_split is not None:
            problems.append("split: drawn and forget_mi_split exclude each other")
        if not {str(fold) for fold in self.validation_folds} < _FOLDS:
            problems.append(f"validation_folds {self.validation_folds} must be some, not all, of 1 to 5")
        if problems:
            raise ConfigError(problems)

    @uncollected()
    def load(self) -> RecordDataset:
        """Index the release; images and reports are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, an image is not on the disk, no report is, an id is repeated, a
                cell cannot be used. The message names file and row.
        """
        rows = self._rows()
        rows.leave_out([not all(ids) for ids in zip(*(rows[c] for c in _IDS), strict=True)], "an id is blank")
        require_unique(rows.frame, "dicom_id")
        _require_one_subject_a_study(rows.frame)
        self._add_metadata(rows)
        rows.add("label", self._labels(rows))
        if self.labels != "none":
            unknown = [label is None for label in rows["label"]]
            rows.leave_out(unknown, "label unknown, or study not in the label file")
        modalities: dict[str, tuple[str, list[Any]]] = {}
        notes: list[str] = []
        if "image" in self.modalities:
            paths, gone = self._image_paths(rows.frame)
            rows.add("path", paths)
            gone = missing_files(paths, rows.places, "images", self.on_missing_file, gone)
            rows.leave_out(gone, "image file is missing")
            modalities["image"] = ("image", [ImageFile(path) for path in rows["path"]])
        if "text" in self.modalities:
            texts, notes = self._texts(rows.frame)
            modalities["text"] = ("text", [texts[study] for study in rows["study_id"]])
        patients, shares = rows["subject_id"], {"validation": self.validation, "test": self.test}
        return rows.dataset(
            self,
            sample=rows["dicom_id"],
            study=rows["study_id"],
            patient=patients,
            label=rows["label"],
            split=draw_splits(patients, **shares, seed=self.seed, published=rows["split"]),
            modalities=modalities,
            levels=[level for level in self.levels if level != "modality" or len(modalities) > 1],
            classes=self._classes(),
            attributes={name: rows[name] for name in self.attributes},
            sections={"text": self._section_names()},
            notes=notes,
        )

    def _section_names(self) -> tuple[str, ...]:
        """The sections that a report's text may have; none where the texts come from one file."""
        if "text" not in self.modalities or self.text_tsv is not None:
            return ()
        return tuple(dict.fromkeys((*self.sections, *FALLBACK)))

    def _add_metadata(self, rows: Rows) -> None:
        """Add the attributes that are asked for, and leave out images of other views."""
        names = tuple(dict.fromkeys((*self.attributes, *(("ViewPosition",) if self.views is not None else ()))))
        if not names:
            return
        table = self._table("metadata", ("dicom_id", *names), ("dicom_id", *names))
        require_unique(table, "dicom_id")
        if "StudyTime" in names:
            table["StudyTime"] = pd.Series(list(map(padded_time, table["StudyTime"])), table.index, dtype=object)
        named = table[table["dicom_id"] != ""]
        found = named.set_index("dicom_id").reindex(rows.frame["dicom_id"], fill_value="")
        for name in names:
            rows.add(name, found[name])
        if self.views is not None:
            wanted, present = set(self.views), set(table["ViewPosition"])
            if not wanted & present:
                raise DataError(f"no image has a view of {sorted(wanted)}", expected=f"views among {sorted(present)}")
            rows.leave_out([view not in wanted for view in rows["ViewPosition"]], "view not asked for")

    def _table(self, name: str, columns: tuple[str, ...], ids: tuple[str, ...], release: str = "2.0.0") -> pd.DataFrame:
        folder = self.root if self.tables_root is None else self.tables_root
        try:
            return read_table(os.path.join(folder, f"mimic-cxr-{release}-{name}.csv"), columns=columns, ids=ids)
        except DataError as error:
            if self.tables_root is None and "there is no file" in error.what:
                error.fix = "it is part of MIMIC-CXR-JPG, not of the DICOM release: say with tables_root where it is"
            raise

    def _rows(self) -> Rows:
        """One row an image, with the column ``split``."""
        if self.forget_mi_split is not None:
            return self._forget_mi_rows()
        if self.split == "published":
            rows = Rows(self._table("split", (*_IDS, "split"), _IDS))
            rows.add("split", read_splits(rows.frame, "split"))
            return rows
        rows = Rows(read_table(os.path.join(self.root, "cxr-record-list.csv"), columns=_IDS, ids=_IDS))
        rows.add("split", ["train"] * len(rows))
        return rows

    def _forget_mi_rows(self) -> Rows:
        assert self.forget_mi_split is not None
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
        rows = Rows(frame)
        rows.add("split", [part[fold] for fold in folds])
        return rows

    def _classes(self) -> tuple[str, ...]:
        if self.labels == "none":
            return ()
        return SEVERITIES if self.labels == "edema" else target_classes(FINDINGS, self.target)

    def _labels(self, rows: Rows) -> list[Label]:
        """A label a row; ``None`` where the study has no row in the label file, or its label is unknown."""
        if self.labels == "none":
            return [None] * len(rows)
        if self.labels == "edema":
            grade = {f"{i}{end}": i for i in range(len(SEVERITIES)) for end in ("", ".0")} | {"": None}
            cells = [cell.strip() for cell in rows["edema_severity"]]
            refuse_cells(rows.frame, "edema_severity", [cell not in grade for cell in cells], "0, 1, 2 or 3")
            return [grade[cell] for cell in cells]
        by_study = self._study_labels(self.labels)
        if not self.radiologist_test_labels:
            return [by_study.get(study) for study in rows["study_id"]]
        read = {"train": by_study, "validation": by_study, "test": self._study_labels("test-set-labeled")}
        return [read[split].get(study) for study, split in zip(rows["study_id"], rows["split"], strict=True)]

    def _study_labels(self, name: str) -> dict[str, Label]:
        """Study id to label, from one label file."""
        columns = FINDINGS if self.target is None else (self.target,)
        if name == "test-set-labeled":  # of release 2.1.0; it has no subject_id, and another word for one finding
            spelled = {column: _SPELLED.get(column, column) for column in columns}
            table = self._table(name, ("study_id", *spelled.values()), ("study_id",), release="2.1.0")
            table = _rename(table, {theirs: ours for ours, theirs in spelled.items()})
        else:
            table = self._table(name, ("study_id", *columns), ("study_id",))
        require_unique(table, "study_id")
        labels = read_targets(table, FINDINGS, self.target, uncertain=self.uncertain, blank=self.blank)
        return dict(zip(table["study_id"].tolist(), labels, strict=True))

    def _image_paths(self, frame: pd.DataFrame) -> tuple[list[str], list[bool]]:
        """The path of each image, and whether it is missing."""
        files = self._files_folder(self.root)
        cells = zip(*(frame[c].tolist() for c in _IDS), strict=True)
        first, *others = _SUFFIXES[self.image_format]
        paths = [f"{files}/p{who[:2]}/p{who}/s{study}/{dicom}{first}" for who, study, dicom in cells]
        gone = [not found for found in map(os.path.isfile, paths)]
        for suffix in others:
            for row in [row for row, is_gone in enumerate(gone) if is_gone]:
                paths[row] = paths[row].removesuffix(first) + suffix
                gone[row] = not os.path.isfile(paths[row])
        return paths, gone

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


def padded_time(cell: str) -> str:
    """``HHMMSS.fff`` from a time that was written as a number: ``93126.5`` is ``093126.5``."""
    whole, dot, fraction = cell.strip().partition(".")
    return f"{whole.zfill(6)}{dot}{fraction}" if whole.isdigit() else cell


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
        for study, patient in zip(frame["study_id"].tolist(), frame["subject_id"].tolist(), strict=True)
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
