"""What must hold for a file of signals: each rule finds all its rows, and they are reported together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from forgetmi.errors import DataError
from forgetmi.metrics.roc import Floats

_PLACES, _DETAILS = 5, 20
_SUM_TOLERANCE = 1e-3


class Problems:
    """Collects what is wrong with a file.

    Args:
        file: its name.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[str] = []
        self._private: list[str] = []

    def add(self, what: str, private: Sequence[str] = ()) -> None:
        """Something that concerns no single row. ``private``: details that may name patients."""
        self._found.append(what)
        self._hide(list(private))

    def add_rows(self, what: str, lines: Any, wrong: Any, cells: pd.Series | None = None) -> None:
        """Rows where ``wrong`` [n] is true, if there are any; what stands in ``cells`` there may name patients."""
        mask = np.asarray(wrong, dtype=np.bool_)
        at = np.flatnonzero(mask)
        if not at.size:
            return
        places = ", ".join(f"{self._file}:{line}" for line in lines[at[:_PLACES]])
        more = f" and {at.size - _PLACES} more" if at.size > _PLACES else ""
        self._found.append(f"{at.size} row{'s' * (at.size != 1)}: {what} ({places}{more})")
        if cells is not None:
            self._hide([f"{self._file}:{lines[i]}: {cells.iloc[i]!r}" for i in at])

    def _hide(self, details: list[str]) -> None:
        more = len(details) - _DETAILS
        self._private += [*details[:_DETAILS], *([f"... and {more} more"] if more > 0 else [])]

    def stop(self) -> None:
        """Raise if there is anything.

        Raises:
            DataError: all of it.
        """
        if self._found:
            listed = "".join(f"\n  * {what}" for what in self._found)
            things = "1 thing is" if len(self._found) == 1 else f"{len(self._found)} things are"
            raise DataError(
                f"{self._file} cannot be audited: {things} wrong{listed}",
                fix="docs/signals.md describes the columns; forgetmi audit --signals-template FILE writes an example",
                private=self._private,
            )


def in_order(ids: pd.Series) -> Any:
    """Arbitrary codes 0, 1, ... of ids [n]: in the order of their hashes, so that neither the ids' order nor the rows'
    shows, and a file with its rows shuffled gives the same audit.
    """
    codes, names = pd.factorize(ids)
    hashes = [hashlib.sha256(str(name).encode()).digest() for name in names]
    order = np.empty(len(names), dtype=np.int64)
    order[sorted(range(len(names)), key=hashes.__getitem__)] = np.arange(len(names))
    return order[codes]


def check_values(
    values: Floats, kind: str, lines: Any, problems: Problems, notes: list[str], floor: float | None
) -> Floats:
    """Values [n, v] as the audit takes them: probabilities become their logarithms."""
    there = np.isfinite(values).all(axis=1)
    if kind == "correct":
        problems.add_rows("correct is neither 0 nor 1", lines, there & ~np.isin(values[:, 0], (0.0, 1.0)))
    if kind != "probabilities":
        return values
    outside = there & ((values < 0.0) | (values > 1.0)).any(axis=1)
    problems.add_rows("a probability lies outside of 0 to 1", lines, outside)
    inside = there & ~outside
    wrong_sum = inside & (np.abs(values.sum(axis=1) - 1.0) > _SUM_TOLERANCE)
    problems.add_rows(f"probabilities do not sum to 1 (within {_SUM_TOLERANCE:g})", lines, wrong_sum)
    if floor is None:
        certain = inside & ~wrong_sum & ((values == 0.0) | (values == 1.0)).any(axis=1)
        problems.add_rows(
            "a probability is exactly 0 or 1, so that its logarithm or that of its rest is infinite. Rounded? Export "
            "logits or more digits, or say from where on values are alike: --probability-floor 1e-6",
            lines,
            certain,
        )
        return _logarithms(values, inside & ~certain)
    low = values < floor
    if low[inside].any():
        notes.append(
            f"probabilities below {floor:g} were counted as {floor:g}, as asked: {int(low[inside].sum())} values in "
            f"{int(low[inside].any(axis=1).sum())} rows"
        )
    return _logarithms(np.maximum(values, floor), inside)


def _logarithms(values: Floats, usable: Any) -> Floats:
    """Logarithms of probabilities, scaled so that each row sums to 1 exactly; 0 in rows that are not usable."""
    result: Floats = log_softmax(np.log(np.where(usable[:, None], values, 1.0)), axis=1)
    return result


def check_records(rows: pd.DataFrame, lines: Any, groups: Sequence[str], labelled: bool, problems: Problems) -> None:
    """Rows fit together: one patient, part, label and group a record; nothing twice, nothing missing."""
    rows = rows.assign(line=lines)
    same = ["patient", "part", *(["label"] if labelled else []), *groups]
    for name in same:
        differs = rows.groupby("record")[name].transform("nunique") > 1
        problems.add_rows(f"a record has several values of {name}", lines, differs, rows["record"])
    twice = rows.duplicated(["record", "model", "query"], keep=False)
    hint = " Several views of a record are told apart by the column 'query'." if (rows["query"] == 0).all() else ""
    problems.add_rows(f"a record stands there twice for one model.{hint}", lines, twice, rows["record"])
    on_both = rows.groupby("patient")["part"].transform("nunique") > 1
    problems.add_rows("a patient stands on both sides, in two parts", lines, on_both, rows["patient"])
    for part, words in (("forget", "forget (or member)"), ("test", "test (or nonmember)")):
        if not (rows["part"] == part).any():
            problems.add(f"no row of part {words}: an attack needs people of both kinds")
    if not twice.any():
        _check_complete(rows, problems)
    _check_seen(rows, lines, problems)


def _check_complete(rows: pd.DataFrame, problems: Problems) -> None:
    """Every model answers for every record of a part, in every view."""
    known = rows.dropna(subset=["part"])
    if known.empty:
        return
    n_queries = int(known["query"].max()) + 1
    wanted: dict[Any, int] = (known.groupby("part")["record"].nunique() * n_queries).to_dict()
    sizes: dict[Any, int] = known.groupby(["model", "part"]).size().to_dict()
    models = sorted({model for model, _ in sizes})
    for model in models:
        found = {part: sizes.get((model, part), 0) for part in wanted}
        # A model may leave out a part that only some attacks need, and then all of it
        needed = [part for part in wanted if found[part] > 0 or part in ("forget", "test")]
        for part in needed:
            n = wanted[part] - found[part]
            if n <= 0:
                continue
            own = known[(known["model"] == model) & (known["part"] == part)]
            lacking = sorted(set(known.loc[known["part"] == part, "record"]) - set(own["record"]))
            views = f" of {n_queries} views each" if n_queries > 1 else ""
            problems.add(
                f"model {model} lacks {n} of {wanted[part]} rows of part {part}{views}: every model must answer for "
                "the same records",
                [f"{model}, {part}: {record}" for record in lacking],
            )
    for kind in sorted({model.rpartition("-")[0] for model in models} - {""}):
        group = [model for model in models if model.rpartition("-")[0] == kind]
        uneven = [part for part in wanted if 0 < sum((model, part) in sizes for model in group) < len(group)]
        if uneven:
            problems.add(f"some models {kind}-1, ... have rows of part {', '.join(uneven)} and others have none")


def _check_seen(rows: pd.DataFrame, lines: Any, problems: Problems) -> None:
    """Shadow models say which records they saw; where the part says it already, nothing else is said."""
    shadow = rows["model"].str.contains("shadow", regex=False).fillna(False).to_numpy(dtype=bool)
    seen = rows["seen"].to_numpy()
    problems.add_rows(
        "seen is missing: 1 where this shadow model was trained on the record", lines, shadow & (seen < 0)
    )
    never = rows["part"].isin(["test", "validation"]).to_numpy()
    forgotten = (rows["part"] == "forget").to_numpy()
    retrained = rows["model"].str.startswith("retrained").fillna(False).to_numpy(dtype=bool)
    trained = rows["model"].isin(["original", "target"]).to_numpy()
    problems.add_rows(
        "seen is 1, and retrained models never saw forgotten, test or validation records",
        lines,
        retrained & (never | forgotten) & (seen == 1),
    )
    problems.add_rows(
        "seen contradicts the part: members were in training, test and validation records were not",
        lines,
        trained & ((never & (seen == 1)) | (forgotten & (seen == 0))),
    )
    if not rows["model"].isin(["original", "unlearned", "target"]).any():
        problems.add("no model to audit: rows of the model original, unlearned or target are missing")
    if rows["model"].isin(["target"]).any() and rows["model"].isin(["original", "unlearned"]).any():
        problems.add("model target stands beside original or unlearned: call it one of them")
