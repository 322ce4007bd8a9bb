"""CheXpert: ``train.csv``, ``valid.csv`` and, in later releases, ``test.csv``, with the films in folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from forgetmi.data_adapters.cells import (
    BlankPolicy,
    MissingFilePolicy,
    UncertainPolicy,
    missing_files,
    read_targets,
    refuse_cells,
    target_classes,
    target_problems,
)
from forgetmi.data_adapters.images import ImageFile
from forgetmi.data_adapters.rows import Rows
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.delimited import find_file
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import RecordDataset
from forgetmi.splits import draw_splits

# The order of the files: clinical, and not alphabetical as in MIMIC-CXR.
FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
LICENSE_NOTE = (
    "Stanford University research use agreement: non-commercial research only, and the data may not be passed on"
)
_FILE = re.compile(r"(?:^|/)((?:train|valid|test)/((patient\d+)/study\d+)/[^/]+)$")
_OF_THE_PATIENT = ("Sex", "Age")


@dataclass(frozen=True)
class CheXpert:
    """Reads CheXpert, the full release or ``-small``. One record a film.

    There is no patient column: patient and study are taken from the path. ``study1`` means something for one patient
    only, so study ids are ``patient00001/study1``, and sample ids are the path from ``train/`` or ``valid/`` on.
    Attributes for queries: ``Projection`` (Frontal, Lateral) and ``ViewPosition`` (AP, PA; blank for laterals).

    Args:
        root: the release's folder, the one that holds ``train.csv`` and ``train/``.
        target: one of the 14 findings, as classes no/yes; by default all of them, as a multilabel target.
        uncertain: what -1 becomes: ``unknown``, ``zero`` or ``one``.
        blank: what "not mentioned" becomes: ``unknown`` or ``zero``.
        views: ``Frontal``, ``Lateral`` or both.
        valid_as: the split that ``valid.csv`` is for. Releases without ``test.csv`` have no other test set.
        validation, test: shares of the training patients that are drawn for these splits from ``seed``.
        seed: of that draw.
        on_missing_file: films that are not on the disk: ``error`` lists them with their rows, ``skip`` leaves them out
            and counts them.

    Raises:
        ConfigError: an unknown finding, or no view.
    """

    name: ClassVar[str] = "chexpert"
    summary: ClassVar[str] = "CheXpert, full or small: films with 14 findings, patients and studies from the paths"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample")
    license_note: ClassVar[str] = LICENSE_NOTE

    root: Path
    target: str | None = None
    uncertain: UncertainPolicy = "unknown"
    blank: BlankPolicy = "unknown"
    views: tuple[Literal["Frontal", "Lateral"], ...] = ("Frontal", "Lateral")
    valid_as: Literal["validation", "test"] = "validation"
    validation: float = 0.0
    test: float = 0.0
    seed: int = 0
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        problems = target_problems(FINDINGS, self.target)
        if not self.views:
            problems.append("views: name Frontal, Lateral or both")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the release; films are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, a path names no patient and study, a film is not on the disk, a
                cell cannot be used. The message names file and row.
            ConfigError: the shares of validation and test do not fit the number of patients.
        """
        files = {"train.csv": "train", "valid.csv": self.valid_as, "test.csv": "test"}
        absent = [name for name in files if name != "train.csv" and not _is_there(self.root, name)]
        parts = [self._rows(name, split) for name, split in files.items() if name not in absent]
        rows = Rows.join(parts)
        return rows.dataset(
            self,
            sample=rows["file"],
            study=rows["study"],
            patient=rows["patient"],
            label=rows["label"],
            split=draw_splits(
                rows["patient"],
                validation=self.validation,
                test=self.test,
                seed=self.seed,
                published=rows["split"],
            ),
            modalities={"image": ("image", [ImageFile(path, channels=1) for path in rows["path"]])},
            classes=target_classes(FINDINGS, self.target),
            attributes={
                "Projection": rows["Frontal/Lateral"],
                "ViewPosition": rows["AP/PA"],
                "PatientSex": rows["Sex"],
                "PatientAge": rows["Age"],
            },
            notes=[f"{name} is not in the folder: its films are not part of this dataset" for name in absent],
        )

    def _rows(self, name: str, split: str) -> Rows:
        """The usable rows of one file."""
        columns = ("Path", "Frontal/Lateral", "AP/PA", *((self.target,) if self.target else FINDINGS))
        rows = Rows(read_table(os.path.join(self.root, name), columns=columns, ids=("Path",), optional=_OF_THE_PATIENT))
        for column in _OF_THE_PATIENT:
            if column not in rows.frame.columns:
                rows.add(column, [""] * len(rows))
        require_unique(rows.frame, "Path")
        add_ids(rows, "Path")
        view = [cell.strip() for cell in rows["Frontal/Lateral"]]
        known = ("Frontal", "Lateral")
        refuse_cells(rows.frame, "Frontal/Lateral", [cell not in known for cell in view], "Frontal or Lateral")
        rows.leave_out([cell not in self.views for cell in view], "view not asked for")
        rows.add("label", read_targets(rows.frame, FINDINGS, self.target, uncertain=self.uncertain, blank=self.blank))
        rows.leave_out([label is None for label in rows["label"]], "label unknown")
        rows.add("path", [os.path.join(self.root, file) for file in rows["file"]])
        rows.leave_out(missing_files(rows["path"], rows.places, "films", self.on_missing_file), "film is missing")
        rows.add("split", [split] * len(rows))
        return rows


def add_ids(rows: Rows, column: str) -> None:
    """Add the columns ``file``, ``study`` and ``patient`` from a path such as
    ``CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg``, whose first part is the release's folder.

    Raises:
        DataError: a path names no split, patient and study.
    """
    found = [_FILE.search(cell) for cell in rows[column]]
    expected = "a path that ends in train/patient00001/study1/view1_frontal.jpg (or valid/, test/)"
    refuse_cells(rows.frame, column, [match is None for match in found], expected)
    matches: Sequence[re.Match[str]] = [match for match in found if match]
    for name, group in (("file", 1), ("study", 2), ("patient", 3)):
        rows.add(name, [match[group] for match in matches])


def _is_there(root: Path, name: str) -> bool:
    try:
        return find_file(Path(root) / name).is_file()
    except DataError:
        return False
