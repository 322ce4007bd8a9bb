"""A table that anyone can write: one row a record, columns mapped in the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import ConfigDict

from forgetmi.data_adapters.cells import (
    BlankPolicy,
    MissingFilePolicy,
    UncertainPolicy,
    missing_files,
    read_findings,
    read_splits,
)
from forgetmi.data_adapters.images import ImageFile, TextFile
from forgetmi.data_adapters.label_table import class_labels
from forgetmi.data_adapters.longitudinal import Longitudinal, filled
from forgetmi.data_adapters.tables import places, read_table, require_unique
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import Record, RecordDataset, Skipped
from forgetmi.splits import split_by_patient

_ID_FIELDS = ("institution", "patient_id", "study_id", "sample_id")


@dataclass(frozen=True)
class Columns:
    """Which column holds what. Only ``sample_id`` must be there.

    Attributes:
        sample_id: unique for each row.
        study_id: without it, each sample is a study of its own.
        patient_id: without it, each study is taken for a patient of its own, and the dataset's notes say so.
        institution: without it, no request at that level.
        label: one column; several for ``multilabel``; none for ``label_kind: none``.
        split: train, validation (val, valid, validate, dev) or test.
    """

    sample_id: str
    study_id: str | None = None
    patient_id: str | None = None
    institution: str | None = None
    label: str | tuple[str, ...] | None = None
    split: str | None = None


@dataclass(frozen=True)
class ModalityColumn:
    """One modality. A blank cell means that the record does not have it.

    Attributes:
        kind: ``image`` and ``text_file`` (the cell is a path), ``text`` (the cell is the text), or ``tabular``.
        column: its column; for ``tabular`` none.
        channels: for images, 1 or 3; as the file has them by default.
        columns: for ``tabular``: the columns that make the row. Cells that are blank or say NA are missing.
        longitudinal: for ``tabular``: a table of its own with several rows a patient, whose values join the row.

    Raises:
        ConfigError: settings that do not fit the kind; all of them at once.
    """

    kind: Literal["image", "text", "text_file", "tabular"]
    column: str | None = None
    channels: Literal[1, 3] | None = None
    columns: tuple[str, ...] = ()
    longitudinal: Longitudinal | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        problems = []
        if self.kind == "tabular":
            if self.column is not None or not (self.columns or self.longitudinal):
                problems.append(
                    "a modality of kind tabular needs columns (a list), longitudinal or both, and no column"
                )
        elif self.column is None:
            problems.append(f"a modality of kind {self.kind} needs column")
        if self.kind != "tabular" and (self.columns or self.longitudinal):
            problems.append(f"columns and longitudinal are for kind tabular, not {self.kind}")
        if self.kind != "image" and self.channels is not None:
            problems.append(f"channels are for kind image, not {self.kind}")
        if problems:
            raise ConfigError(problems)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns of the manifest that it reads."""
        limit = self.longitudinal.until_column if self.longitudinal is not None else None
        return tuple(name for name in (self.column, *self.columns, limit) if name is not None)


@dataclass(frozen=True)
class SplitShares:
    """Shares of the patients that are drawn for validation and test, and the seed of the draw."""

    validation: float
    test: float
    seed: int


@dataclass(frozen=True)
class Manifest:
    """Reads a manifest.

    A tidy longitudinal data set is a manifest of its patients (or visits) and, as the ``longitudinal`` of a tabular
    modality, the table with several rows each. Of NAFLD (Allen et al. 2018), ``nafld1.csv`` is the manifest;
    ``nafld2.csv`` (id, days, test, value) and ``nafld3.csv`` (id, days, event) are longitudinal.

    Args:
        path: CSV, TSV (``.gz`` too) or Parquet.
        columns: which column holds what.
        modalities: modality name to column and kind.
        label_kind: ``multiclass`` (class names, or indices into ``classes``), ``ordinal`` (the same, with ``classes``
            given, lowest first), ``multilabel`` (a column a label, each 1, 0, -1 or blank), or ``none``.
        classes: class names in index order; by default those that are found, sorted. Multilabel: the columns' names.
        root: what paths are relative to; by default the manifest's folder.
        split: draw the splits by patient, when there is no split column.
        uncertain: multilabel: what -1 becomes: ``unknown``, ``zero`` or ``one``.
        blank: multilabel: what a blank cell becomes: ``unknown`` or ``zero``.
        attributes: columns that say something of a record besides: a request's query may ask for them, and the audit
            makes subgroups of those with few values (``sex``, ``age``).
        on_missing_file: ``error`` lists missing files with their rows; ``skip`` leaves out their rows and counts.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "manifest"
    summary: ClassVar[str] = (
        "a CSV, TSV or Parquet file with one row a record, and tables with several rows a patient (NAFLD)"
    )
    levels: ClassVar[tuple[str, ...]] = ("institution", "patient", "study", "sample", "modality")
    license_note: ClassVar[str] = "your own data: its licence and use agreement are not known to this package"

    path: Path
    columns: Columns
    modalities: Mapping[str, ModalityColumn]
    label_kind: Literal["multiclass", "ordinal", "multilabel", "none"] = "multiclass"
    classes: tuple[str, ...] | None = None
    root: Path | None = None
    split: SplitShares | None = None
    uncertain: UncertainPolicy = "unknown"
    blank: BlankPolicy = "unknown"
    attributes: tuple[str, ...] = ()
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        labels = self._label_columns
        problems = []
        if not self.modalities:
            problems.append("modalities: at least one is needed")
        if (self.columns.split is None) == (self.split is None):
            problems.append("give either columns.split or split (shares to draw), and not both")
        if self.label_kind in ("multiclass", "ordinal") and len(labels) != 1:
            problems.append(f"columns.label: label_kind {self.label_kind} needs one column, not {len(labels)}")
        if self.label_kind == "ordinal" and self.classes is None:
            problems.append("classes: label_kind ordinal needs the class names in their order")
        if self.label_kind == "multilabel" and not labels:
            problems.append("columns.label: label_kind multilabel needs at least one column")
        if self.label_kind == "none" and labels:
            problems.append("columns.label: label_kind none needs none")
        if self.classes is not None and (len(set(self.classes)) != len(self.classes) or not self.classes):
            problems.append("classes: names must be given, each once")
        if self.label_kind == "multilabel" and self.classes is not None and len(self.classes) != len(labels):
            problems.append(f"classes: {len(self.classes)} names for {len(labels)} label columns")
        if problems:
            raise ConfigError(problems)

    @classmethod
    def inner_options(cls, values: Mapping[str, Any], convert: Callable[[Any, Any, str], Any]) -> dict[str, Any]:
        """Not yet checked options, with those of each modality converted: a longitudinal table's path is relative too.

        Args:
            values: the options as given.
            convert: (class, its options, their key) to its options.
        """
        given = values.get("modalities")
        if not isinstance(given, Mapping):
            return dict(values)
        made = {
            name: convert(ModalityColumn, options, f"modalities.{name}") if isinstance(options, Mapping) else options
            for name, options in given.items()
        }
        return {**values, "modalities": made}

    @property
    def _label_columns(self) -> tuple[str, ...]:
        label = self.columns.label
        return (label,) if isinstance(label, str) else tuple(label or ())

    def load(self) -> RecordDataset:
        """Index the manifest; images and text files are read when they are used.

        Raises:
            DataError: a file or column is missing, an id is repeated, a cell cannot be used, a patient stands in two
                splits. The message names file and row.
        """
        named = {f: getattr(self.columns, f) for f in _ID_FIELDS if getattr(self.columns, f) is not None}
        required = [*named.values(), *self._label_columns, *(c for m in self.modalities.values() for c in m.needed)]
        if self.columns.split is not None:
            required.append(self.columns.split)
        required += self.attributes
        frame = read_table(self.path, columns=required, ids=list(named.values()))
        require_unique(frame, self.columns.sample_id)
        where = places(frame)
        skipped: list[tuple[str, str]] = []

        def keep(wrong: list[bool], reason: str) -> None:
            """Leave out the rows that are wrong, and count them."""
            nonlocal frame, where
            if any(wrong):
                skipped.extend((reason, place) for place, bad in zip(where, wrong, strict=True) if bad)
                frame = frame[[not bad for bad in wrong]]
                where = places(frame)

        for column in named.values():
            keep([not cell for cell in frame[column]], f"column {column!r} is blank")
        if self.label_kind in ("multiclass", "ordinal"):
            keep([not cell.strip() for cell in frame[self._label_columns[0]]], "no label")
        elif self.label_kind == "multilabel":
            known = read_findings(frame, self._label_columns, uncertain=self.uncertain, blank=self.blank)
            keep([all(value is None for value in row) for row in known], "no label")
        for name, modality in self.modalities.items():
            if modality.kind in ("image", "text_file"):
                what = f"files of modality {name!r}"
                gone = missing_files(self._paths(frame, modality), where, what, self.on_missing_file)
                keep(gone, f"file of modality {name!r} is missing")

        classes, labels = self._labels(frame)
        splits = read_splits(frame, self.columns.split) if self.columns.split else ["train"] * len(frame)
        sample = frame[self.columns.sample_id].tolist()
        study = frame[named["study_id"]].tolist() if "study_id" in named else sample
        patient = frame[named["patient_id"]].tolist() if "patient_id" in named else study
        institution = frame[named["institution"]].tolist() if "institution" in named else [""] * len(sample)
        ids = {"sample": sample, "study": study, "patient": patient}
        notes = id_notes(named, patient, institution)
        values = {
            name: self._values(frame, modality, ids, skipped, notes) for name, modality in self.modalities.items()
        }
        inputs = (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
        said = self._attributes(frame)
        rows = zip(sample, study, patient, institution, inputs, labels, splits, said, strict=True)
        dataset = RecordDataset(
            (Record(*row) for row in rows),
            name=Path(self.path).name,
            levels=[f.removesuffix("_id") for f in named] + ["modality"],
            classes=classes,
            modality_kinds={name: m.kind.removesuffix("_file") for name, m in self.modalities.items()},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=notes,
        )
        if self.split is None:
            return dataset
        shares = self.split
        return split_by_patient(dataset, validation=shares.validation, test=shares.test, seed=shares.seed)

    def _attributes(self, frame: pd.DataFrame) -> list[dict[str, str]]:
        """What the attribute columns say of each row; blank cells say nothing."""
        columns = [[cell.strip() for cell in frame[name]] for name in self.attributes]
        rows = zip(*columns, strict=True) if columns else [()] * len(frame)
        return [{name: cell for name, cell in zip(self.attributes, row, strict=True) if cell} for row in rows]

    def _paths(self, frame: pd.DataFrame, modality: ModalityColumn) -> list[str | None]:
        cells = frame[modality.column]
        root = Path(self.path).parent if self.root is None else self.root
        return [os.path.join(root, cell.strip()) if cell.strip() else None for cell in cells]

    def _values(
        self,
        frame: pd.DataFrame,
        modality: ModalityColumn,
        ids: Mapping[str, list[str]],
        skipped: list[tuple[str, str]],
        notes: list[str],
    ) -> list[Any]:
        """A value a row; what a longitudinal table leaves out, and what must be said of it, joins the lists."""
        if modality.kind == "tabular":
            rows = [dict[str, Any]() for _ in range(len(frame))]
            for column in modality.columns:
                for row, cell in zip(rows, filled(frame[column]), strict=True):
                    if cell is not None:
                        row[column] = cell
            if (table := modality.longitudinal) is not None:
                limits = None if table.until_column is None else frame[table.until_column].tolist()
                more = table.read(ids[table.ids], limits, places(frame))
                _refuse_shared(table, {*modality.columns}, {name for row in more.values for name in row})
                rows = [{**row, **found} for row, found in zip(rows, more.values, strict=True)]
                skipped += more.skipped
                notes += more.notes
            return [row or None for row in rows]
        if modality.kind == "text":
            return [cell if cell.strip() else None for cell in frame[modality.column]]
        paths = self._paths(frame, modality)
        if modality.kind == "image":
            return [None if path is None else ImageFile(path, modality.channels) for path in paths]
        return [None if path is None else TextFile(path) for path in paths]

    def _labels(self, frame: pd.DataFrame) -> tuple[tuple[str, ...], list[Any]]:
        """Class names, and a label a row.

        Raises:
            DataError: labels out of range or of unknown classes, all listed with their rows.
        """
        if self.label_kind == "none":
            return (), [None] * len(frame)
        if self.label_kind == "multilabel":
            findings = read_findings(frame, self._label_columns, uncertain=self.uncertain, blank=self.blank)
            return self.classes or self._label_columns, list(findings)
        return class_labels(frame, self._label_columns[0], self.classes)


def _refuse_shared(table: Longitudinal, columns: set[str], measured: set[str]) -> None:
    if shared := sorted(columns & measured):
        raise DataError(
            f"{Path(table.path).name} measures what is a column of the manifest too: {', '.join(shared)}",
            expected="one value of a name",
            fix="leave the column out, name the measurements to read (names), or rename one of the two",
        )


def id_notes(named: Collection[str], patients: Sequence[str], institutions: Sequence[str]) -> list[str]:
    """What every report must say of the ids, given which of ``patient_id``, ``study_id``, ... the source names."""
    notes = []
    if "patient_id" not in named:
        unit = "study" if "study_id" in named else "sample"
        notes.append(f"no patient ids: each {unit} is taken for a patient, so one person may stand on both sides")
    elif "institution" in named:
        pairs = set(zip(patients, institutions, strict=True))
        shared = len(pairs) - len({patient for patient, _ in pairs})
        if shared:
            notes.append(f"{shared} patient ids occur at another institution too: they are taken for the same person")
    return notes
