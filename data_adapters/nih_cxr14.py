"""NIH ChestX-ray14: ``Data_Entry_2017_v2020.csv`` (or the older one) with the films and the published split."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from forgetmi.data_adapters.cells import (
    MissingFilePolicy,
    missing_files,
    refuse_cells,
    target_classes,
    target_problems,
)
from forgetmi.data_adapters.images import ImageFile
from forgetmi.data_adapters.rows import Rows
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.delimited import find_file
from forgetmi.errors import ConfigError, DataError
from forgetmi.memory import uncollected
from forgetmi.records import Label, RecordDataset
from forgetmi.splits import draw_splits

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
_ALSO = {"Infiltrate": "Infiltration"}  # as BBox_List_2017.csv spells it
_NO_FINDING = "No Finding"
_FILM = re.compile(r"(\d{8})_\d{3}\.png")
_OF_THE_PATIENT = {"PatientSex": "Patient Gender", "PatientAge": "Patient Age"}


@dataclass(frozen=True)
class NihCxr14:
    """Reads NIH ChestX-ray14. One record a film; the source has no study ids and no reports.

    Patient ids are the eight digits with which film names start (``00000001``); the column ``Patient ID`` writes the
    same number without its zeros.

    Args:
        root: the folder that holds the table, the lists of the split and the films (``images/``, or
            ``images_001/images/`` to ``images_012/images/`` as downloaded).
        target: one of the 14 findings, as classes no/yes; by default all of them, as a multilabel target. A finding
            that is not named is 0: the labels were mined from reports, and know no "uncertain".
        published_split: use ``train_val_list.txt`` and ``test_list.txt``; films on neither list are left out and
            counted. Without it all films are for training, less what ``validation`` and ``test`` draw.
        validation, test: shares of the training patients that are drawn for these splits from ``seed``; the published
            lists know no validation split.
        seed: of that draw.
        on_missing_file: films that are not on the disk: ``error`` or ``skip``.

    Raises:
        ConfigError: an unknown finding.
    """

    name: ClassVar[str] = "nih_cxr14"
    summary: ClassVar[str] = "NIH ChestX-ray14: films with 14 mined findings and the published split"
    levels: ClassVar[tuple[str, ...]] = ("patient", "sample")
    license_note: ClassVar[str] = (
        "NIH Clinical Center: free to use; name the NIH Clinical Center and cite Wang et al. (CVPR 2017)"
    )

    root: Path
    target: str | None = None
    published_split: bool = True
    validation: float = 0.1
    test: float = 0.0
    seed: int = 0
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        if problems := target_problems(FINDINGS, self.target):
            raise ConfigError(problems)

    @uncollected()
    def load(self) -> RecordDataset:
        """Index the release; films are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, a film is not on the disk, a cell cannot be used, a film's name
                and its patient do not agree. The message names file and row.
            ConfigError: the shares of validation and test do not fit the number of patients.
        """
        columns = ("Image Index", "Finding Labels", "Patient ID", "View Position")
        optional = tuple(_OF_THE_PATIENT.values())
        rows = Rows(read_table(self._table(), columns=columns, ids=("Image Index", "Patient ID"), optional=optional))
        require_unique(rows.frame, "Image Index")
        rows.add("patient", self._patients(rows))
        rows.add("label", self._labels(rows))
        if self.published_split:
            listed = self._listed()
            rows.add("split", [listed.get(film, "") for film in rows["Image Index"]])
            rows.leave_out([not split for split in rows["split"]], "film on neither list of the published split")
        else:
            rows.add("split", ["train"] * len(rows))
        folders = self._folders()
        rows.add("path", [f"{folders.get(film, folders[''])}/{film}" for film in rows["Image Index"]])
        gone = [film not in folders for film in rows["Image Index"]]
        gone = missing_files(rows["path"], rows.places, "films", self.on_missing_file, gone)
        rows.leave_out(gone, "film is missing")
        films = rows["Image Index"]
        said = {name: rows[column] for name, column in _OF_THE_PATIENT.items() if column in rows.frame.columns}
        return rows.dataset(
            self,
            sample=films,
            study=films,
            patient=rows["patient"],
            label=rows["label"],
            split=draw_splits(
                rows["patient"], validation=self.validation, test=self.test, seed=self.seed, published=rows["split"]
            ),
            # Some of the files have four channels, most have one.
            modalities={"image": ("image", [ImageFile(path, channels=1) for path in rows["path"]])},
            classes=target_classes(FINDINGS, self.target),
            attributes={"ViewPosition": rows["View Position"], **said},
            notes=["no study ids: each film is taken for a study of its own"],
        )

    def _table(self) -> Path:
        for name in _TABLES[:-1]:
            try:
                return find_file(Path(self.root) / name)
            except DataError:
                continue
        return Path(self.root) / _TABLES[-1]

    def _patients(self, rows: Rows) -> list[str]:
        """The eight digits in front of each film's name, which are the number in ``Patient ID``."""
        films = rows["Image Index"]
        found = [_FILM.fullmatch(film) for film in films]
        refuse_cells(rows.frame, "Image Index", [match is None for match in found], "a name such as 00000001_000.png")
        patients = [film[:8] for film in films]
        other = [number.zfill(8) != patient for number, patient in zip(rows["Patient ID"], patients, strict=True)]
        refuse_cells(rows.frame, "Patient ID", other, "the number with which the film's name starts")
        return patients

    def _labels(self, rows: Rows) -> list[Label]:
        cells = rows["Finding Labels"]
        meaning = {cell: self._label(cell) for cell in set(cells)}  # few different cells, many rows
        wrong = {cell for cell, label in meaning.items() if label is None}
        expected = f"{_NO_FINDING}, or some of {', '.join(FINDINGS)}, separated by |"
        refuse_cells(rows.frame, "Finding Labels", [cell in wrong for cell in cells] if wrong else [], expected)
        return [meaning[cell] for cell in cells]

    def _label(self, cell: str) -> Label:
        """What a cell says; ``None`` where it is not understood."""
        named = {_ALSO.get(name.strip(), name.strip()) for name in cell.split("|")}
        if named != {_NO_FINDING} and not named <= set(FINDINGS):
            return None
        if self.target is not None:
            return int(self.target in named)
        return tuple(float(finding in named) for finding in FINDINGS)

    def _listed(self) -> dict[str, str]:
        """Film to split."""
        split: dict[str, str] = {}
        twice = []
        for name, part in _LISTS.items():
            path = Path(self.root) / name
            try:
                films = path.read_text(encoding="utf-8-sig").split()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{name} cannot be read",
                    where=str(self.root),
                    expected="the names of films, one a line",
                    fix="copy it there, or set published_split to false and draw the splits with validation and test",
                ) from error
            twice += [film for film in films if split.setdefault(film, part) != part]
        if twice:
            raise DataError(f"{len(twice)} films stand on both lists of the split", private=twice[:20])
        return split

    def _folders(self) -> dict[str, str]:
        """Film to folder, of those that are there; under ``""`` the folder where a film that is not should be."""
        root = os.fspath(self.root)
        inner = [os.path.join(root, f"images_{number:03d}", "images") for number in range(1, 13)]
        present = [folder for folder in (os.path.join(root, "images"), *inner) if os.path.isdir(folder)]
        found = {"": present[0] if present else os.path.join(root, "images")}
        for folder in present:  # listing a folder is much faster than looking for 112,120 files one by one
            with os.scandir(folder) as entries:
                found |= {entry.name: folder for entry in entries if entry.is_file()}
        return found
