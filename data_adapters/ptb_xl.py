"""PTB-XL: 12-lead ECGs with their reports and SCP-ECG statements, in folds that respect patients."""

from __future__ import annotations

import ast
import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.cells import MissingFilePolicy, missing_files, refuse_cells, target_classes
from forgetmi.data_adapters.events import number_or_text
from forgetmi.data_adapters.rows import Rows
from forgetmi.data_adapters.signals import WfdbSignal
from forgetmi.data_adapters.streams import whole_id
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.delimited import first_places, read_delimited
from forgetmi.errors import ConfigError, DataError, MissingDependencyError, did_you_mean
from forgetmi.records import Label, RecordDataset

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_STATEMENTS = {  # which of the statements count, and what names their class; blank: the statement itself
    "superclass": ("diagnostic", "diagnostic_class"),
    "subclass": ("diagnostic", "diagnostic_subclass"),
    "diagnostic": ("diagnostic", ""),
    "form": ("form", ""),
    "rhythm": ("rhythm", ""),
    "all": ("", ""),
}
_SEX = {"0": "male", "1": "female"}
_NUMBERS = ("age", "height", "weight")
_ATTRIBUTES = {"Device": "device", "Site": "site"}
_SEXES = {"0": "male", "1": "female"}


@dataclass(frozen=True)
class PtbXl:
    """Reads PTB-XL 1.0.1 to 1.0.3 (Wagner et al. 2020, Scientific Data 7:154).

    Ids: patient = patient_id, sample = ecg_id. Splits: strat_fold 1 to 8 train, 9 validation, 10 test, as its authors
    recommend; the folds respect patients.

    Labels: as in the authors' benchmark (Strodthoff et al. 2021, IEEE JBHI 25:1519), a statement counts whatever its
    likelihood, and an ECG without any statement of the kind has no label: it is left out and counted.

    Args:
        root: the folder that holds ``ptbxl_database.csv``.
        rate: of the signals, Hz: 100 or 500.
        modalities: ``signal`` ([12, samples] in mV), ``text`` (the report, German or English), ``tabular`` (age, sex,
            height, weight), at least one.
        labels: ``superclass`` (NORM, MI, STTC, CD, HYP), ``subclass``, ``diagnostic``, ``form``, ``rhythm`` or ``all``
            statements, for a multilabel target; ``None`` for no label.
        target: one of these labels, for classes no and yes; by default all of them.
        min_likelihood: a diagnostic statement less likely (in percent) makes its label unknown. Form and rhythm have no
            likelihood: the table writes 0 for them. Ours.
        validation_folds, test_folds: of strat_fold; the others are for training.
        on_missing_file: ``error`` lists missing signals with their rows; ``skip`` leaves out their rows and counts.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "ptb_xl"
    summary: ClassVar[str] = "PTB-XL: 12-lead ECGs with reports and SCP-ECG statements of 18,869 patients"
    levels: ClassVar[tuple[str, ...]] = ("patient", "sample", "modality")
    license_note: ClassVar[str] = "CC BY 4.0: its authors must be named"

    root: Path
    rate: Literal[100, 500] = 100
    modalities: tuple[Literal["signal", "text", "tabular"], ...] = ("signal", "text")
    labels: Literal["superclass", "subclass", "diagnostic", "form", "rhythm", "all"] | None = "superclass"
    target: str | None = None
    min_likelihood: float = 0.0
    validation_folds: tuple[int, ...] = (9,)
    test_folds: tuple[int, ...] = (10,)
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        problems = []
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            problems.append("modalities: name signal, text, tabular or several, each once")
        if self.target is not None and self.labels is None:
            problems.append("target: labels must say what it is one of")
        if not 0 <= self.min_likelihood <= 100:
            problems.append(f"min_likelihood is in percent, 0 to 100, got {self.min_likelihood}")
        if wrong := [fold for fold in (*self.validation_folds, *self.test_folds) if not 1 <= fold <= 10]:
            problems.append(f"folds are 1 to 10, got {', '.join(map(str, wrong))}")
        if shared := sorted({*self.validation_folds} & {*self.test_folds}):
            problems.append(f"folds {', '.join(map(str, shared))} stand in validation_folds and in test_folds")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the tables; signals are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, a signal is not on the disk, a cell cannot be used, a patient stands
                in folds of two splits. The message names file and row.
            ConfigError: ``target`` is none of the labels.
            MissingDependencyError: signals without wfdb.
        """
        if "signal" in self.modalities and importlib.util.find_spec("wfdb") is None:
            raise MissingDependencyError("Reading an ECG", "ecg")
        file = f"filename_{'lr' if self.rate == 100 else 'hr'}"
        columns = ["ecg_id", "patient_id", "strat_fold"]
        columns += ["scp_codes"] * (self.labels is not None) + [file] * ("signal" in self.modalities)
        columns += ["report"] * ("text" in self.modalities) + [*_NUMBERS, "sex"] * ("tabular" in self.modalities)
        optional = ("recording_date", "sex", "age", *_ATTRIBUTES.values())
        rows = Rows(read_table(Path(self.root) / "ptbxl_database.csv", columns=columns, optional=optional))
        for column in ("ecg_id", "patient_id"):
            # The table writes patients as floats: 15709.0.
            rows.add(column, map(whole_id, rows[column], rows.places))
            rows.leave_out([not cell for cell in rows[column]], f"column {column!r} is blank")
        require_unique(rows.frame, "ecg_id")
        classes = self._add_labels(rows) if self.labels is not None else ()
        modalities: dict[str, tuple[str, list[Any]]] = {}
        if "signal" in self.modalities:
            rows.add("record", [os.path.join(self.root, name.strip()) for name in rows[file]])
            for suffix in (".hea", ".dat"):
                paths = [record + suffix for record in rows["record"]]
                rows.leave_out(missing_files(paths, rows.places, "signals", self.on_missing_file), "signal is missing")
            modalities["signal"] = ("signal", [WfdbSignal(record, LEADS) for record in rows["record"]])
        notes = []
        if "text" in self.modalities:
            texts = [" ".join(cell.split()) or None for cell in rows["report"]]
            modalities["text"] = ("text", texts)
            notes.append("reports are German or English, some written by the device")
            if missing := sum(text is None for text in texts):
                notes.append(f"{missing} of {len(texts)} ECGs have no report: their text is missing")
        if "tabular" in self.modalities:
            modalities["tabular"] = ("tabular", _known_of_the_patient(rows))
        present = set(rows.frame.columns)
        attributes = {name: rows[column] for name, column in _ATTRIBUTES.items() if column in present}
        if "recording_date" in present:
            attributes["StudyDate"] = [cell.strip()[:10].replace("-", "") for cell in rows["recording_date"]]
        if "sex" in present:
            attributes["PatientSex"] = [_SEXES.get(cell.strip().removesuffix(".0"), "") for cell in rows["sex"]]
        if "age" in present:
            attributes["PatientAge"] = rows["age"]
        return rows.dataset(
            self,
            sample=rows["ecg_id"],
            study=rows["ecg_id"],
            patient=rows["patient_id"],
            label=rows["label"] if classes else [None] * len(rows),
            split=self._splits(rows),
            modalities=modalities,
            levels=[level for level in self.levels if level != "modality" or len(modalities) > 1],
            classes=classes,
            attributes=attributes,
            notes=notes,
        )

    def _splits(self, rows: Rows) -> list[str]:
        split_of = {str(fold): "train" for fold in range(1, 11)}
        split_of |= {str(fold): "validation" for fold in self.validation_folds}
        split_of |= {str(fold): "test" for fold in self.test_folds}
        folds = [cell.strip().removesuffix(".0") for cell in rows["strat_fold"]]
        refuse_cells(rows.frame, "strat_fold", [fold not in split_of for fold in folds], "a fold from 1 to 10")
        return [split_of[fold] for fold in folds]

    def _add_labels(self, rows: Rows) -> tuple[str, ...]:
        """Add the column ``label``, leave out ECGs without one, and return the names of the classes."""
        assert self.labels is not None  # the caller asks
        class_of, graded, known = _statements(Path(self.root) / "scp_statements.csv", self.labels)
        names = sorted(set(class_of.values()))
        if self.target is not None and self.target not in names:
            raise ConfigError([f"target {self.target!r} is unknown. {did_you_mean(self.target, names)}"])
        cells = rows["scp_codes"]
        codes = {cell: _codes(cell) for cell in set(cells)}  # every distinct cell is parsed once
        wrong = {cell for cell, found in codes.items() if found is None or not known.issuperset(found)}
        expected = "statements of scp_statements.csv and their likelihoods, such as {'NORM': 100.0, 'SR': 0.0}"
        refuse_cells(rows.frame, "scp_codes", [cell in wrong for cell in cells], expected)

        def label(found: Mapping[str, float]) -> Label:
            given: dict[str, bool] = {}
            for code, likelihood in found.items():
                if code in class_of:
                    sure = code not in graded or likelihood >= self.min_likelihood
                    given[class_of[code]] = given.get(class_of[code], False) or sure
            if not given:
                return None
            values = {name: 1.0 if sure else None for name, sure in given.items()}
            if self.target is None:
                return tuple(values.get(name, 0.0) for name in names)
            value = values.get(self.target, 0.0)
            return None if value is None else int(value)

        label_of = {cell: label(found or {}) for cell, found in codes.items()}
        rows.add("label", [label_of[cell] for cell in cells])
        rows.leave_out([value is None for value in rows["label"]], "no label")
        return target_classes(names, self.target)


def _statements(path: Path, kind: str) -> tuple[dict[str, str], set[str], set[str]]:
    """Statement to its class, of the statements of a kind; those that have a likelihood; and all of them."""
    table = read_delimited(path)
    chosen, named = _STATEMENTS[kind]
    needed = [name for name in dict.fromkeys((chosen, named, "diagnostic")) if name]
    if missing := [name for name in needed if name not in table.header]:
        raise DataError(
            f"{path.name} has no column {missing[0]!r}. {did_you_mean(missing[0], table.header)}",
            where=f"{path.name}:1",
        )
    index = table.header.index("") if "" in table.header else 0  # the codes' column has no name
    class_of: dict[str, str] = {}
    graded, known, nameless = set(), set(), []
    for line, cells in zip(table.lines, table.rows, strict=True):
        row = dict(zip(table.header, (cell.strip() for cell in cells), strict=True))
        code = cells[index].strip()
        known.add(code)
        if _marked(row["diagnostic"]):
            graded.add(code)
        if not chosen or _marked(row[chosen]):
            class_of[code] = row[named] if named else code
            if not class_of[code]:
                nameless.append(f"{path.name}:{line}")
    if nameless or not class_of:
        raise DataError(
            f"{path.name} names no {kind} for {len(nameless) or 'any'} of its statements",
            where=nameless[0] if nameless else path.name,
            expected=f"the column {named or chosen} filled",
            private=first_places(nameless),
        )
    return class_of, graded, known


def _marked(cell: str) -> bool:
    """Whether a statement is of a kind: the table writes 1.0, or nothing."""
    return cell.removesuffix(".0") == "1"


def _codes(cell: str) -> dict[str, float] | None:
    """Statements and likelihoods in a cell, which holds a Python dict as text; ``None`` where it does not."""
    try:
        value = ast.literal_eval(cell.strip())
        found = {str(code): float(likelihood) for code, likelihood in value.items()}
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError, OverflowError):
        return None
    return found if all(map(math.isfinite, found.values())) else None


def _known_of_the_patient(rows: Rows) -> list[dict[str, Any] | None]:
    """Age in years, sex, height in cm and weight in kg, those that are there."""
    found = []
    for cells in zip(*(rows[column] for column in _NUMBERS), rows["sex"], strict=True):
        row: dict[str, Any] = dict(zip(_NUMBERS, map(number_or_text, cells), strict=False))
        if row["age"] == 300:
            row["age"] = 90.0  # older than 89: the table says 300 so that nobody can be told by their age
        row["sex"] = _SEX.get(cells[-1].strip().removesuffix(".0"))
        found.append({name: value for name, value in row.items() if value is not None} or None)
    return found
