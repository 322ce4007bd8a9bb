"""CheXpert Plus: the films of CheXpert with their reports cut into sections, and labels in JSON lines."""

from __future__ import annotations

import os
from dataclasses import dataclass
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
from forgetmi.data_adapters.chexpert import FINDINGS, LICENSE_NOTE, add_ids
from forgetmi.data_adapters.images import ImageFile
from forgetmi.data_adapters.json_lines import read_json_lines
from forgetmi.data_adapters.rows import Rows, section_texts
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import Label, RecordDataset
from forgetmi.splits import draw_splits

TABLE = "df_chexpert_plus_240401.csv"
SECTIONS = (
    "narrative",
    "clinical_history",
    "history",
    "comparison",
    "technique",
    "procedure_comments",
    "findings",
    "impression",
    "end_of_impression",
    "summary",
)
_SUFFIX = {"png": ".png", "jpg": ".jpg", "dicom": ".dcm"}


@dataclass(frozen=True)
class CheXpertPlus:
    """Reads CheXpert Plus. One record a film; the report belongs to the study and repeats on each of its films.

    ``patient_report_date_order`` is not read: for about half of the neighbouring reports it is not chronological.

    Args:
        root: the folder that holds the films' ``train/`` and ``valid/``.
        table: the table; by default ``df_chexpert_plus_240401.csv`` in ``root``.
        labels: a file of ``chexbert_labels/``, such as ``impression_fixed.json`` (one JSON object a line, keyed by
            ``path_to_image``); without it records have no label.
        image_format: the suffix of the films below ``root``: their tree mirrors ``path_to_image`` with another one.
        modalities: ``image``, ``text``, or both.
        sections: sections that make the text, in this order; where a report has none of them, its text is missing.
        target, uncertain, blank: as in :class:`~forgetmi.data_adapters.chexpert.CheXpert`.
        views: ``Frontal``, ``Lateral`` or both.
        valid_as: the split that the rows marked ``valid`` are for.
        validation, test: shares of the training patients that are drawn for these splits from ``seed``.
        seed: of that draw.
        on_missing_file: films that are not on the disk: ``error`` or ``skip``.

    Raises:
        ConfigError: unknown sections or findings, or a target without labels.
    """

    name: ClassVar[str] = "chexpert_plus"
    summary: ClassVar[str] = "CheXpert Plus: films, report sections and CheXbert labels"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality", "section")
    license_note: ClassVar[str] = LICENSE_NOTE

    root: Path
    table: Path | None = None
    labels: Path | None = None
    image_format: Literal["png", "jpg", "dicom"] = "png"
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    sections: tuple[str, ...] = ("findings", "impression")
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
        problems += [
            f"sections: {name!r} is unknown. {did_you_mean(name, SECTIONS)}"
            for name in self.sections
            if name not in SECTIONS
        ]
        if self.target is not None and self.labels is None:
            problems.append("target: give the file of labels")
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            problems.append("modalities: name image, text or both, each once")
        if not self.sections and "text" in self.modalities:
            problems.append(f"sections: name at least one of {', '.join(SECTIONS)}")
        if not self.views:
            problems.append("views: name Frontal, Lateral or both")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the table; films are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, a path and a patient id do not agree, a film is not on the disk, a
                cell cannot be used. The message names file and row.
            ConfigError: the shares of validation and test do not fit the number of patients.
        """
        texts = [f"section_{name}" for name in self.sections] if "text" in self.modalities else []
        rows = Rows(
            read_table(
                Path(self.root) / TABLE if self.table is None else self.table,
                columns=("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split", *texts),
                ids=("path_to_image", "deid_patient_id"),
            )
        )
        require_unique(rows.frame, "path_to_image")
        add_ids(rows, "path_to_image")
        other = [given != found for given, found in zip(rows["deid_patient_id"], rows["patient"], strict=True)]
        refuse_cells(rows.frame, "deid_patient_id", other, "the patient in path_to_image")
        published = read_splits(rows.frame, "split")
        rows.add("split", [self.valid_as if split == "validation" else split for split in published])
        view = [cell.strip() for cell in rows["frontal_lateral"]]
        known = ("Frontal", "Lateral")
        refuse_cells(rows.frame, "frontal_lateral", [cell not in known for cell in view], "Frontal or Lateral")
        rows.leave_out([cell not in self.views for cell in view], "view not asked for")
        if self.labels is not None:
            by_film = self._labels()
            rows.add("label", [by_film.get(file) for file in rows["file"]])
            rows.leave_out([label is None for label in rows["label"]], "label unknown, or film not in the label file")
        modalities: dict[str, tuple[str, list[Any]]] = {}
        if "image" in self.modalities:
            suffix = _SUFFIX[self.image_format]
            paths = [os.path.join(self.root, os.path.splitext(file)[0] + suffix) for file in rows["file"]]
            rows.add("path", paths)
            rows.leave_out(missing_files(paths, rows.places, "films", self.on_missing_file), "film is missing")
            modalities["image"] = ("image", [ImageFile(path, channels=1) for path in rows["path"]])
        notes = []
        if "text" in self.modalities:
            written = section_texts(rows, dict(zip(self.sections, texts, strict=True)))
            modalities["text"] = ("text", written)
            missing = sum(text is None for text in written)
            if missing:
                notes.append(
                    f"{missing} of {len(rows)} films have none of the sections asked for: their text is missing"
                )
        return rows.dataset(
            self,
            sample=rows["file"],
            study=rows["study"],
            patient=rows["patient"],
            label=rows["label"] if self.labels is not None else [None] * len(rows),
            split=draw_splits(
                rows["patient"], validation=self.validation, test=self.test, seed=self.seed, published=rows["split"]
            ),
            modalities=modalities,
            levels=[level for level in self.levels if level != "modality" or len(modalities) > 1],
            classes=target_classes(FINDINGS, self.target) if self.labels is not None else (),
            attributes={"Projection": rows["frontal_lateral"], "ViewPosition": rows["ap_pa"]},
            sections={"text": self.sections} if "text" in modalities else None,
            notes=notes,
        )

    def _labels(self) -> dict[str, Label]:
        """Film (path from ``train/`` on) to label."""
        assert self.labels is not None
        table = read_json_lines(self.labels)
        columns = (self.target,) if self.target else FINDINGS
        wanted = ("path_to_image", *columns)
        wrong = [
            place for place, line in zip(table.places, table.objects, strict=True) if any(k not in line for k in wanted)
        ]
        if wrong:
            raise DataError(
                f"{len(wrong)} lines of {table.name} lack a key",
                where=wrong[0],
                expected=f"keys {', '.join(wanted)} on every line",
            )
        cells = {key: ["" if (v := line[key]) is None else str(v) for line in table.objects] for key in wanted}
        frame = pd.DataFrame(cells, index=pd.Index(table.lines, name="line"), dtype=object)
        frame.attrs["file"] = table.name
        require_unique(frame, "path_to_image")
        rows = Rows(frame)
        add_ids(rows, "path_to_image")
        labels = read_targets(frame, FINDINGS, self.target, uncertain=self.uncertain, blank=self.blank)
        return dict(zip(rows["file"], labels, strict=True))
