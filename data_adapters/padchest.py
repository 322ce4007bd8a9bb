"""PadChest: the table ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` with films of 16 bits."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.cells import MissingFilePolicy, missing_files, refuse_cells
from forgetmi.data_adapters.images import ImageFile
from forgetmi.data_adapters.rows import Rows
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.errors import ConfigError
from forgetmi.records import RecordDataset
from forgetmi.splits import draw_splits

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
_IDS = ("ImageID", "StudyID", "PatientID")
_SEX = "PatientSex_DICOM"
_ATTRIBUTES = {"StudyDate": "StudyDate_DICOM", "Manufacturer": "Manufacturer_DICOM", "Projection": "Projection"}


@dataclass(frozen=True)
class PadChest:
    """Reads PadChest. One record a film; report and labels belong to the study and repeat on each of its films.
    Attributes for queries: ``StudyDate``, ``Manufacturer``, ``Projection``.

    Args:
        root: the folder that holds the films' folders ``0`` to ``54``.
        table: the table; by default the published name in ``root``.
        modalities: ``image``, ``text`` (the Spanish report: lower case, words stemmed), or both.
        findings: the labels that are asked for, 1 where a film has it and else 0; by default all that occur, sorted.
            ``normal`` and ``unchanged`` are labels like the others.
        projections: projections to keep (``PA``, ``L``, ``AP``, ``AP_horizontal``, ``COSTAL``); by default all.
        label_methods: keep films labelled by ``Physician``, by ``RNN_model``, or by both.
        validation, test: shares of the patients, drawn from ``seed``; the source publishes no split.
        seed: of the split.
        on_missing_file: films that are not on the disk: ``error`` or ``skip``. A film that is there and cannot be read
            (some of the published ones) is an error when it is used: ``forgetmi check`` names them all.

    Raises:
        ConfigError: nothing is asked for.
    """

    name: ClassVar[str] = "padchest"
    summary: ClassVar[str] = "PadChest: films of 16 bits with Spanish reports and 174 findings"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality")
    license_note: ClassVar[str] = (
        "PadChest Dataset Research Use Agreement (BIMCV): research only, and the data may not be passed on"
    )

    root: Path
    table: Path | None = None
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    findings: tuple[str, ...] | None = None
    projections: tuple[str, ...] | None = None
    label_methods: tuple[Literal["Physician", "RNN_model"], ...] = ("Physician", "RNN_model")
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        problems = []
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            problems.append("modalities: name image, text or both, each once")
        if self.findings is not None and (not self.findings or len(set(self.findings)) != len(self.findings)):
            problems.append("findings: names must be given, each once")
        if not self.label_methods:
            problems.append("label_methods: name Physician, RNN_model or both")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the table; films are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, a film is not on the disk, a cell cannot be used, no film has a
                finding or projection that is asked for. The message names file and row.
            ConfigError: the shares of validation and test do not fit the number of patients.
        """
        columns = (*_IDS, "ImageDir", "Projection", "MethodLabel", "Report", "Labels", *_ATTRIBUTES.values())
        path = Path(self.root) / TABLE if self.table is None else self.table
        ids = (*_IDS, "ImageDir", "Projection", "MethodLabel")
        rows = Rows(read_table(path, columns=columns, ids=ids, optional=(_SEX,)))
        for column in _IDS:
            rows.leave_out([not cell for cell in rows[column]], f"column {column!r} is blank")
        require_unique(rows.frame, "ImageID")
        if self.projections is not None:
            _require_some(rows, "Projection", self.projections)
            rows.leave_out([cell not in self.projections for cell in rows["Projection"]], "projection not asked for")
        methods: tuple[str, ...] = self.label_methods
        rows.leave_out([cell not in methods for cell in rows["MethodLabel"]], "labelled by another method")
        classes = self._add_labels(rows)
        modalities: dict[str, tuple[str, list[Any]]] = {}
        if "image" in self.modalities:
            places = zip(rows["ImageDir"], rows["ImageID"], strict=True)
            rows.add("path", [os.path.join(self.root, folder, film) for folder, film in places])
            rows.leave_out(missing_files(rows["path"], rows.places, "films", self.on_missing_file), "film is missing")
            modalities["image"] = ("image", [ImageFile(path, channels=1) for path in rows["path"]])
        notes = []
        if "text" in self.modalities:
            texts = [" ".join(cell.split()) or None for cell in rows["Report"]]
            modalities["text"] = ("text", texts)
            notes.append("reports are Spanish, in lower case, and their words are stemmed")
            if missing := sum(text is None for text in texts):
                notes.append(f"{missing} of {len(texts)} films have no report: their text is missing")
        said = {**_ATTRIBUTES, **({"PatientSex": _SEX} if _SEX in rows.frame.columns else {})}
        return rows.dataset(
            self,
            sample=rows["ImageID"],
            study=rows["StudyID"],
            patient=rows["PatientID"],
            label=rows["label"],
            split=draw_splits(rows["PatientID"], validation=self.validation, test=self.test, seed=self.seed),
            modalities=modalities,
            levels=[level for level in self.levels if level != "modality" or len(modalities) > 1],
            classes=classes,
            attributes={name: rows[column] for name, column in said.items()},
            notes=notes,
        )

    def _add_labels(self, rows: Rows) -> tuple[str, ...]:
        """Add the column ``label``, leave out films without labels, and return the labels' names."""
        cells = rows["Labels"]
        named = {cell: _names(cell) for cell in set(cells)}  # every distinct cell is parsed once
        wrong = {cell for cell, names in named.items() if names is None}
        expected = "a list such as ['normal', ' unchanged']"
        refuse_cells(rows.frame, "Labels", [cell in wrong for cell in cells] if wrong else [], expected)
        rows.leave_out([not named[cell] for cell in cells], "no label")
        occurring = sorted({name for cell in set(rows["Labels"]) for name in named[cell] or ()})
        classes = tuple(occurring) if self.findings is None else self.findings
        if absent := [name for name in classes if name not in set(occurring)]:
            raise ConfigError([f"findings: no film has {', '.join(map(repr, absent))}"])
        label = {cell: tuple(float(name in (names or ())) for name in classes) for cell, names in named.items()}
        rows.add("label", [label[cell] for cell in rows["Labels"]])
        return classes


def _names(cell: str) -> frozenset[str] | None:
    """The labels in a cell, which holds a Python list as text with stray blanks; ``None`` where it does not."""
    if cell.strip().lower() in ("", "nan"):
        return frozenset()
    try:
        value = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    return frozenset(name.strip() for name in value) - {""}


def _require_some(rows: Rows, column: str, wanted: Sequence[str]) -> None:
    present = set(rows[column])
    if absent := [value for value in wanted if value not in present]:
        found = ", ".join(sorted(present - {""}))
        raise ConfigError([f"projections: no film has {', '.join(map(repr, absent))}; there are {found}"])
