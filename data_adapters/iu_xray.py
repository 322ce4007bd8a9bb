"""IU X-Ray as published on Kaggle: ``indiana_reports.csv``, ``indiana_projections.csv`` and normalised PNGs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.cells import MissingFilePolicy, missing_files, refuse_cells
from forgetmi.data_adapters.images import ImageFile
from forgetmi.data_adapters.openi import LICENSE_NOTE, SECTIONS, OpenIReport, exclusive_class
from forgetmi.data_adapters.rows import Rows, section_texts
from forgetmi.data_adapters.tables import read_table, require_unique
from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.records import RecordDataset
from forgetmi.splits import draw_splits
from forgetmi.values import SectionedText

_PROJECTIONS = ("Frontal", "Lateral")


@dataclass(frozen=True)
class IuXray:
    """Reads the CSV form of IU X-Ray. One record a film; the report repeats on each of its films, and a report without
    a film is one record of text alone. Attribute for queries: ``Projection``.
    :class:`~forgetmi.data_adapters.openi.OpenI` reads the XML form.

    Args:
        root: the folder of the two tables.
        images: the folder of the films; by default ``images/images_normalized`` in ``root``.
        modalities: ``image``, ``text``, or both.
        sections: sections that make the text, in this order; where a report has none of them, its text is missing.
        classes: class name to the ``MeSH`` heads that mean it, as in the adapter ``openi``; reports of none or of
            several classes are left out and counted. Without it records have no label.
        projections: ``Frontal``, ``Lateral`` or both.
        validation, test: shares of the reports, drawn from ``seed``; the source publishes no split.
        seed: of the split.
        on_missing_file: films that are not on the disk: ``error`` or ``skip``.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "iu_xray"
    summary: ClassVar[str] = "IU X-Ray, Kaggle's CSV form: reports with frontal and lateral films"
    levels: ClassVar[tuple[str, ...]] = ("study", "sample", "modality", "section")
    license_note: ClassVar[str] = LICENSE_NOTE

    root: Path
    images: Path | None = None
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    sections: tuple[str, ...] = ("findings", "impression")
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    projections: tuple[Literal["Frontal", "Lateral"], ...] = _PROJECTIONS  # type: ignore[assignment]
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        problems = [
            f"sections: {name!r} is unknown. {did_you_mean(name, SECTIONS)}"
            for name in self.sections
            if name not in SECTIONS
        ]
        if not self.sections:
            problems.append(f"sections: name at least one of {', '.join(SECTIONS)}")
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            problems.append("modalities: name image, text or both, each once")
        if not self.projections:
            problems.append("projections: name Frontal, Lateral or both")
        if len(self.classes) == 1:
            problems.append("classes: one class alone cannot be told from another; name two or more")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index both tables; films are read when they are used. Nothing is written.

        Raises:
            DataError: a file or column is missing, a film is not on the disk, an id is repeated, a cell cannot be
                used. The message names file and row.
            ConfigError: the shares of validation and test do not fit the number of reports.
        """
        reports = self._reports()
        parts = []
        if "image" in self.modalities:
            films = self._films(reports)
            with_film = set(films["uid"])
            parts.append(films)
        else:
            with_film = set()
        alone = Rows(reports.frame[[uid not in with_film for uid in reports["uid"]]])
        alone.skipped = reports.skipped
        alone.add("sample", alone["uid"])
        alone.add("image", [None] * len(alone))
        alone.add("projection", [""] * len(alone))
        alone.leave_out([text is None for text in alone["text"]], "neither text nor film")
        parts.append(alone)
        rows = Rows.join(parts)
        offered: dict[str, tuple[str, list[Any]]] = {name: (name, rows[name]) for name in self.modalities}
        notes = ["one report is taken as one study of one patient; the source has no patient linkage"]
        if len(alone) and len(offered) > 1:
            notes.append(f"{len(alone)} reports have no film: there the image is missing")
        if "text" in offered and (missing := sum(text is None for text in rows["text"])):
            notes.append(f"{missing} films belong to reports without these sections: there the text is missing")
        return rows.dataset(
            self,
            sample=rows["sample"],
            study=rows["uid"],
            patient=rows["uid"],
            label=rows["label"],
            split=draw_splits(rows["uid"], validation=self.validation, test=self.test, seed=self.seed),
            modalities=offered,
            levels=[level for level in self.levels if level != "modality" or len(offered) > 1],
            classes=tuple(self.classes),
            attributes={"Projection": rows["projection"]},
            sections={"text": self.sections} if "text" in offered else None,
            notes=notes,
        )

    def _reports(self) -> Rows:
        """The reports, with the columns ``text`` and ``label``."""
        columns = ("uid", "MeSH", *self.sections)
        rows = Rows(read_table(os.path.join(self.root, "indiana_reports.csv"), columns=columns, ids=("uid",)))
        rows.leave_out([not uid for uid in rows["uid"]], "column 'uid' is blank")
        require_unique(rows.frame, "uid")
        texts: list[SectionedText | None] = [None] * len(rows)
        if "text" in self.modalities:
            texts = section_texts(rows, {name: name for name in self.sections})
        rows.add("text", texts)
        rows.add("label", [None] * len(rows))
        if self.classes:
            mesh = [tuple(head.strip() for head in cell.split(";") if head.strip()) for cell in rows["MeSH"]]
            found = [exclusive_class(OpenIReport("", {}, heads, ()), self.classes) for heads in mesh]
            rows.add("label", [label for label, _ in found])
            rows.add("reason", [reason for _, reason in found])
            for reason in sorted(set(rows["reason"]) - {""}):
                rows.leave_out([given == reason for given in rows["reason"]], reason)
        return rows

    def _films(self, reports: Rows) -> Rows:
        """The films of these reports, with the columns ``sample``, ``uid``, ``image``, ``text`` and ``label``."""
        columns = ("uid", "filename", "projection")
        rows = Rows(read_table(os.path.join(self.root, "indiana_projections.csv"), columns=columns, ids=columns))
        rows.leave_out([not name for name in rows["filename"]], "column 'filename' is blank")
        require_unique(rows.frame, "filename")
        known = [projection in _PROJECTIONS for projection in rows["projection"]]
        refuse_cells(rows.frame, "projection", [not k for k in known], " or ".join(_PROJECTIONS))
        wanted: tuple[str, ...] = self.projections
        rows.leave_out([projection not in wanted for projection in rows["projection"]], "projection not asked for")
        held = {uid: values for uid, *values in zip(reports["uid"], reports["text"], reports["label"], strict=True)}
        rows.leave_out([uid not in held for uid in rows["uid"]], "film of a report that is left out or not there")
        folder = os.path.join(self.root, "images", "images_normalized") if self.images is None else self.images
        rows.add("path", [os.path.join(folder, name) for name in rows["filename"]])
        rows.leave_out(missing_files(rows["path"], rows.places, "films", self.on_missing_file), "film is missing")
        rows.add("sample", rows["filename"])
        rows.add("image", [ImageFile(path, channels=1) for path in rows["path"]])
        rows.add("text", [held[uid][0] for uid in rows["uid"]])
        rows.add("label", [held[uid][1] for uid in rows["uid"]])
        return rows
