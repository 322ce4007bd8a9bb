"""Signals of models that were not trained here, from a delimited file: ``docs/signals.md`` describes it.

One row a (record, model). Whatever is wrong with the file is said at once, with rows; ids are told to the person at the
terminal only (``private``) and are replaced by arbitrary codes before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from forgetmi.audit.signals_checks import Problems, check_records, check_values, in_order
from forgetmi.audit.signals_table import MODEL_NAME, Kind, PartRows, SignalsTable
from forgetmi.delimited import SEPARATORS, find_file, open_text, read_delimited
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.files import sha256_file
from forgetmi.metrics.roc import Floats

PART_NAMES = {
    **{"forget": "forget", "member": "forget", "members": "forget"},
    **{"test": "test", "nonmember": "test", "nonmembers": "test", "non-member": "test", "non-members": "test"},
    **{"retain": "retain", "validation": "validation", "population": "validation"},
}
_FIXED = ("record", "patient", "part", "label", "model", "seen", "query")
_ONE_COLUMN: dict[str, Kind] = {"loss": "loss", "phi": "phi", "correct": "correct"}
_BY_CLASS: dict[str, Literal["probabilities", "logits"]] = {"p": "probabilities", "logit": "logits"}
_MISSING = ("", "NA", ".")
_WORDS = {"true": "1", "false": "0"}
_MOST_GROUPS = 30


@dataclass(frozen=True)
class _Layout:
    """What the header says."""

    kind: Kind
    values: tuple[str, ...]
    groups: tuple[str, ...]


def read_signals(path: Path, *, probability_floor: float | None = None) -> SignalsTable:
    """Read and check a file of signals.

    Args:
        path: ``.csv`` or another name, also with ``.gz``; separated by commas, semicolons or tabs; numbers with decimal
            points or commas.
        probability_floor: count probabilities below it as it, and scale each record's to sum to 1. Without it a
            probability of exactly 0 or 1 is an error: its logarithm is infinite, and how rare the event was is lost.

    Raises:
        DataError: the file cannot be used; every reason at once, each with rows.
        ConfigError: the floor lies outside of (0, 0.1).
    """
    if probability_floor is not None and not 0.0 < probability_floor < 0.1:
        raise ConfigError([f"probability_floor must lie in (0, 0.1), not {probability_floor}"])
    found = find_file(path)
    delimiter = _delimiter(found)
    given = read_delimited(found, delimiter=delimiter, keep=lambda header: [name for name in header if name])
    header = [name.lower() for name in given.header]
    problems = Problems(found.name)
    layout = _layout(header, problems)
    if not given.rows:
        problems.add("no row follows the header")
    problems.stop()
    notes: list[str] = []
    frame = pd.DataFrame(list(given.rows), columns=header, dtype=object)
    for name in header:
        frame[name] = frame[name].str.strip()
    lines = np.asarray(given.lines, dtype=np.int64)
    rows = pd.DataFrame(_rows(frame, lines, layout, problems))
    numbers = _numbers(frame, [*layout.values, *_integers(header, layout)], lines, problems, notes)
    rows["query"] = _whole(numbers.get("query"), "query", lines, problems, missing=0, n=len(rows))
    rows["seen"] = _whole(numbers.get("seen"), "seen", lines, problems, missing=-1, n=len(rows), most=1)
    n_classes = len(layout.values) if layout.kind in _BY_CLASS.values() else None
    if n_classes is not None:
        rows["label"] = _whole(numbers.get("label"), "label", lines, problems, n=len(rows), most=n_classes - 1)
    values = np.column_stack([numbers[name] for name in layout.values])
    values = check_values(values, layout.kind, lines, problems, notes, probability_floor)
    check_records(rows, lines, layout.groups, n_classes is not None, problems)
    problems.stop()
    _note_rounding(values, rows, layout.kind, notes)
    return _table(rows, values, layout, notes, found, len(given.rows), delimiter)


def _delimiter(path: Path) -> str:
    """The separator of the header: the one that stands in it most often (column names hold none of them)."""
    with open_text(path) as stream:
        for line in stream:
            if line.strip() and not line.startswith("#"):
                best = max(SEPARATORS, key=line.count)
                if line.count(best) == 0:
                    break
                return best
    raise DataError(
        f"{path.name} has no header with several columns",
        where=str(path.parent),
        expected=f"columns separated by {', '.join(SEPARATORS.values())}",
        fix="forgetmi audit --signals-template example.csv writes an example",
    )


def _layout(header: Sequence[str], problems: Problems) -> _Layout:
    """Which columns hold what; every problem of the header at once."""
    for name in sorted({name for name in header if header.count(name) > 1}):
        problems.add(f"two columns are called {name!r} (capital letters do not count)")
    for name in ("record", "patient", "part"):
        if name not in header:
            hint = " Where every record is a patient of its own, repeat the record's id." if name == "patient" else ""
            problems.add(f"the column {name!r} is missing.{hint}")
    by_class = {
        prefix: sorted(int(name[len(prefix) + 1 :]) for name in header if re.fullmatch(rf"{prefix}_\d+", name))
        for prefix in _BY_CLASS
    }
    kinds = [kind for name, kind in _ONE_COLUMN.items() if name in header]
    kinds += [kind for prefix, kind in _BY_CLASS.items() if by_class[prefix]]
    groups = tuple(name for name in header if name.startswith("group_") and name != "group_")
    known = {*_FIXED, *_ONE_COLUMN, *groups, *(f"{p}_{k}" for p, found in by_class.items() for k in found)}
    if unknown := sorted(set(header) - known):
        # Names in private: of a file without a header they are somebody's data
        hints = []
        for name in unknown:
            close = did_you_mean(name, [*_FIXED, *_ONE_COLUMN, "p_0", "logit_0"]).partition(" Available")[0]
            hints.append(f"column {name!r}. {close if close.startswith('Did you mean') else ''}".strip())
        problems.add(
            f"{len(unknown)} column{'s' * (len(unknown) != 1)} unknown: take it out, or call it group_NAME to have it "
            "as a grouping",
            hints,
        )
    if len(kinds) != 1:
        several = f"several are there: {', '.join(kinds)}" if kinds else "none is there"
        problems.add(f"one kind of signal is needed (loss; p_0, p_1, ...; logit_0, ...; phi; correct), and {several}")
        return _Layout("loss", (), groups)
    kind = kinds[0]
    if kind not in _BY_CLASS.values():
        return _Layout(kind, tuple(name for name, of in _ONE_COLUMN.items() if of == kind), groups)
    prefix = next(prefix for prefix, of in _BY_CLASS.items() if of == kind)
    classes = by_class[prefix]
    if classes != list(range(len(classes))) or len(classes) < 2:
        there = ", ".join(f"{prefix}_{k}" for k in classes)
        problems.add(f"one column a class is needed, {prefix}_0, {prefix}_1 and so on; there are: {there}")
    if "label" not in header:
        problems.add(f"{kind} need the column 'label': the index of the true class")
    return _Layout(kind, tuple(f"{prefix}_{k}" for k in classes), groups)


def _integers(header: Sequence[str], layout: _Layout) -> list[str]:
    labelled = ["label"] if layout.kind in _BY_CLASS.values() else []
    return [name for name in ("query", "seen", *labelled) if name in header]


def _rows(frame: pd.DataFrame, lines: Any, layout: _Layout, problems: Problems) -> dict[str, Any]:
    """Record, patient, part, model and groups of each row; what is missing or unknown is a problem."""
    found: dict[str, Any] = {}
    for name in ("record", "patient", "part", *(["model"] if "model" in frame else [])):
        blank = frame[name].isin(_MISSING)
        problems.add_rows(f"{name} is missing", lines, blank)
    found["record"], found["patient"] = frame["record"], frame["patient"]
    part = frame["part"].str.lower()
    found["part"] = part.map(PART_NAMES)
    unknown = found["part"].isna() & ~frame["part"].isin(_MISSING)
    problems.add_rows(
        "part is none of forget (or member), test (nonmember), retain, validation (population)",
        lines,
        unknown,
        frame["part"],
    )
    if "model" in frame:
        model = frame["model"].str.lower().str.replace(r"[ _]", "-", regex=True)
        model = model.str.replace(r"-0+(?=\d)", "-", regex=True)
        wrong = ~model.str.fullmatch(MODEL_NAME.pattern) & ~frame["model"].isin(_MISSING)
        problems.add_rows(
            "model is none of original, unlearned, target, retrained-1, shadow-1, unlearned-shadow-1 and so on",
            lines,
            wrong,
            frame["model"],
        )
        found["model"] = model
    else:
        found["model"] = pd.Series("target", index=frame.index)
    for name in layout.groups:
        found[name] = frame[name].where(~frame[name].isin(_MISSING), "not given")
        if (n := found[name].nunique()) > _MOST_GROUPS:
            problems.add(f"{name} has {n} different values, more than {_MOST_GROUPS}: make wider groups of them")
    return found


def _numbers(
    frame: pd.DataFrame, names: Sequence[str], lines: Any, problems: Problems, notes: list[str]
) -> dict[str, Floats]:
    """Columns as floats, NaN where a cell is missing or no number (which is a problem)."""
    cells = {name: frame[name].where(~frame[name].isin(_MISSING), None) for name in names}
    commas = [cell.str.contains(",", regex=False).fillna(False).astype(bool) for cell in cells.values()]
    points = [cell.str.contains(".", regex=False).fillna(False).astype(bool) for cell in cells.values()]
    with_comma, with_point = (np.logical_or.reduce([c.to_numpy() for c in found]) for found in (commas, points))
    if with_comma.any():
        if with_point.any():
            rows = with_comma if with_comma.sum() <= with_point.sum() else with_point
            problems.add_rows("some numbers have a decimal comma and others a decimal point; these rows", lines, rows)
        notes.append("numbers have decimal commas")
        cells = {name: cell.str.replace(",", ".", regex=False) for name, cell in cells.items()}
    found = {}
    for name, cell in cells.items():
        lowered = cell.str.lower()
        numbers = pd.to_numeric(lowered.map(_WORDS).fillna(lowered), errors="coerce").to_numpy(dtype=np.float64)
        wrong = ~np.isfinite(numbers) & cell.notna().to_numpy()
        problems.add_rows(f"{name} is not a finite number", lines, wrong, frame[name])
        if name not in ("query", "seen"):
            problems.add_rows(f"{name} is missing", lines, cell.isna().to_numpy())
        found[name] = numbers
    return found


def _whole(
    numbers: Floats | None,
    name: str,
    lines: Any,
    problems: Problems,
    *,
    n: int,
    missing: int = -1,
    most: int | None = None,
) -> Any:
    """A column of whole numbers from 0 on; ``missing`` where there is none."""
    if numbers is None:
        return np.full(n, missing, dtype=np.int64)
    there = np.isfinite(numbers)
    filled = np.where(there, numbers, 0.0)
    wrong = (filled != np.floor(filled)) | (filled < 0) | (filled > (2**31 if most is None else most))
    up_to = "" if most is None else f" up to {most}"
    problems.add_rows(f"{name} is no whole number from 0{up_to}", lines, wrong)
    return np.where(there & ~wrong, filled, missing).astype(np.int64)


def _note_rounding(values: Floats, rows: pd.DataFrame, kind: str, notes: list[str]) -> None:
    """Values that many records share tell them apart less well than the model could."""
    if kind == "correct":
        return
    shared = pd.DataFrame(values).round(15).assign(model=rows["model"].to_numpy()).duplicated(keep=False).mean()
    if shared > 0.5:
        notes.append(
            f"{100 * shared:.0f} % of the rows share their values with another record: they look rounded, and rounded "
            "values hide differences that the model shows; an attacker may see more than this audit"
        )


def _table(
    rows: pd.DataFrame,
    values: Floats,
    layout: _Layout,
    notes: Sequence[str],
    path: Path,
    n_rows: int,
    delimiter: str,
) -> SignalsTable:
    rows = rows.assign(at=np.arange(len(rows)), record=in_order(rows["record"]), patient=in_order(rows["patient"]))
    rows = rows.sort_values(["model", "part", "record", "query"], kind="stable")
    n_queries = int(rows["query"].max()) + 1
    parts: dict[str, PartRows] = {}
    kept: dict[str, dict[str, Floats]] = {}
    seen: dict[str, dict[str, Any]] = {}
    for key, block in rows.groupby(["model", "part"], sort=True):
        model, part = map(str, key)
        own = block[block["query"] == 0]
        if part not in parts:
            parts[part] = PartRows(
                own["patient"].to_numpy(dtype=np.int64),
                own["label"].to_numpy(dtype=np.int64) if "label" in own else None,
                {name.removeprefix("group_"): own[name].to_numpy(dtype=str) for name in layout.groups},
            )
        shape = (len(own), n_queries, *([values.shape[1]] if layout.kind in _BY_CLASS.values() else []))
        kept.setdefault(model, {})[part] = values[block["at"].to_numpy()].reshape(shape)
        # Retrained models saw the retained records and no others
        said = own["seen"].to_numpy() == 1
        seen.setdefault(model, {})[part] = (
            np.full(len(own), part == "retain") if model.startswith("retrained") else said
        )
    return SignalsTable(
        file=path.name,
        sha256=sha256_file(path),
        n_rows=n_rows,
        kind=layout.kind,
        n_classes=len(layout.values) if layout.kind in _BY_CLASS.values() else None,
        n_queries=n_queries,
        parts=parts,
        values=kept,
        seen=seen,
        phi_known=layout.kind != "loss" or bool((values > 0.0).all()),
        notes=(f"cells are separated by {SEPARATORS[delimiter]}", *notes),
    )
