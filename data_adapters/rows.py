"""The rows of a table on their way to records: what cannot be used is left out and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd

from forgetmi.data_adapters.base import Adapter
from forgetmi.data_adapters.tables import places
from forgetmi.records import Record, RecordDataset, Skipped
from forgetmi.values import SectionedText


class Rows:
    """A table whose derived columns stay beside its own, so that leaving out a row leaves out all of it.

    Args:
        frame: from :func:`~forgetmi.data_adapters.tables.read_table`; it is not changed.

    Attributes:
        frame: the rows that are left.
        skipped: ``(reason, file:row)`` of the others.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.skipped: list[tuple[str, str]] = []

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several tables with the same columns, one after the other."""
        joined = cls(pd.concat([part.frame for part in parts]))
        joined.frame.attrs["file"] = ", ".join(part.frame.attrs["file"] for part in parts)
        joined.skipped = [place for part in parts for place in part.skipped]
        return joined

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, column: str) -> list[Any]:
        """The cells of a column."""
        cells: list[Any] = self.frame[column].tolist()
        return cells

    @property
    def places(self) -> list[str]:
        """``file:row`` of each row."""
        return places(self.frame)

    def add(self, column: str, values: Iterable[Any]) -> None:
        """A derived column; one of that name is replaced."""
        # A Series of type object, so that tuples stay tuples and None stays None.
        self.frame = self.frame.assign(**{column: pd.Series(list(values), index=self.frame.index, dtype=object)})

    def leave_out(self, wrong: Sequence[bool], reason: str) -> None:
        """Leave out the rows that are marked, and count them under the reason."""
        marked = np.fromiter(wrong, dtype=bool, count=len(self.frame))
        if marked.any():
            self.skipped += [(reason, place) for place in places(self.frame, marked)]
            self.frame = self.frame[~marked]

    def dataset(
        self,
        adapter: Adapter,
        *,
        sample: Iterable[str],
        study: Iterable[str],
        patient: Iterable[str],
        label: Iterable[Any],
        split: Iterable[str],
        modalities: Mapping[str, tuple[str, Iterable[Any]]],
        levels: Sequence[str] | None = None,
        classes: Sequence[str] = (),
        attributes: Mapping[str, Iterable[str]] | None = None,
        sections: Mapping[str, Sequence[str]] | None = None,
        notes: Sequence[str] = (),
    ) -> RecordDataset:
        """The records, with what was left out.

        Args:
            adapter: whose name, licence note and levels the dataset gets.
            sample, study, patient, label, split: a value a row.
            modalities: name to kind and values; ``None`` where a row does not have it.
            levels: those of the adapter that hold here; all by default.
            classes: names of the classes or labels.
            attributes: name to a cell a row; blank ones are not known.
            sections: text modality to the sections that its values may have.
            notes: what every report must say.
        """
        names = tuple(modalities)
        values = zip(*(column for _, column in modalities.values()), strict=True)
        said = self._attributes(attributes or {})
        rows = zip(sample, study, patient, label, split, values, said, strict=True)
        return RecordDataset(
            (Record(s, st, p, "", dict(zip(names, v, strict=True)), y, part, a) for s, st, p, y, part, v, a in rows),
            name=adapter.name,
            levels=adapter.levels if levels is None else levels,
            classes=classes,
            modality_kinds={name: kind for name, (kind, _) in modalities.items()},
            license_note=adapter.license_note,
            skipped=Skipped.collect(self.skipped),
            notes=notes,
            sections=sections,
        )

    def _attributes(self, columns: Mapping[str, Iterable[str]]) -> Iterable[Mapping[str, str]]:
        """The filled attributes of each row; rows that say the same share one mapping."""
        if not columns:
            return repeat({}, len(self.frame))
        names = tuple(columns)
        held: dict[tuple[str, ...], dict[str, str]] = {}

        def one(cells: tuple[str, ...]) -> dict[str, str]:
            if cells not in held:
                held[cells] = {name: text for name, cell in zip(names, cells, strict=True) if (text := cell.strip())}
            return held[cells]

        return map(one, zip(*columns.values(), strict=True))


def section_texts(rows: Rows, columns: Mapping[str, str]) -> list[SectionedText | None]:
    """A text a row from columns that each hold one section, blanks folded; ``None`` where all are blank.

    Args:
        rows: the rows.
        columns: section name to its column, in the order of the text.
    """
    cells = zip(*([" ".join(cell.split()) for cell in rows[column]] for column in columns.values()), strict=True)
    return [SectionedText(dict(zip(columns, row, strict=True))) if any(row) else None for row in cells]
