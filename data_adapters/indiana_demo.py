"""The demo's data: real Indiana reports, read from an installed package, with films *rendered* from their labels."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from forgetmi.data_adapters.openi import OpenIReport, exclusive_class, read_reports
from forgetmi.data_adapters.rendered_films import MASK_ARCHIVE, RenderedFilm, package_file
from forgetmi.duplicates import near_duplicates, normalised_words
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import SPLITS, Record, RecordDataset, Skipped

REPORT_ARCHIVE = "NLMCXR_reports.tgz"
CLASSES: dict[str, tuple[str, ...]] = {
    "normal": ("normal",),
    "opacity": ("opacity", "airspace disease", "consolidation", "infiltrate", "pneumonia"),
    "cardiomegaly": ("cardiomegaly",),
    "effusion": ("pleural effusion",),
}
MASK = "xxxx"  # what the source itself puts where a word was removed

# The words of the MeSH heads above in all their forms, and "enlarged", which is how reports say cardiomegaly.
LABEL_WORDS = re.compile(
    r"\w*(?:normal|opaci|air[- ]?space|consolidat|infiltrat|pneumonia|cardiomegal|enlarg|effusion)\w*", re.IGNORECASE
)


Usable = tuple[OpenIReport, int, str]
"""A report, its class index and the text that the model is given."""


def demo_text(report: OpenIReport, *, hard: bool, findings_words: int) -> str:
    """The text that the model is given; ``""`` where the report has none.

    Args:
        report: the report.
        hard: INDICATION, COMPARISON and the first ``findings_words`` words of FINDINGS, label words replaced by
            :data:`MASK`. Otherwise INDICATION and the whole FINDINGS, which all but name the class.
        findings_words: see ``hard``.
    """
    names = ("indication", "comparison", "findings") if hard else ("indication", "findings")
    parts = {name: report.sections.get(name, "") for name in names}
    if hard:
        parts["findings"] = " ".join(parts["findings"].split()[:findings_words])
    text = " ".join(filter(None, parts.values()))
    return LABEL_WORDS.sub(MASK, text) if hard else text


@dataclass(frozen=True)
class IndianaDemo:
    """Adapter of the demo. The task is to tell four exclusive findings from a rendered film and a shortened report.

    Attributes:
        n_train, n_validation, n_test: how many reports each split gets, drawn from ``seed``. Where the source has
            fewer, the test split is the first to be cut, and ``notes`` say so.
        max_per_class: at most so many reports of one class, drawn from ``seed``; ``None`` keeps all. Normal reports
            are six in ten and easily told: without a limit an attack on the rest drowns in them.
        seed: of the split, the draw and the films.
        image_size: height and width of the films, pixels.
        image_noise: standard deviation of their noise, in units of the intensity range.
        text: ``"hard"``, shortened and label words masked, or ``"easy"``, from which the class can be read; see
            :func:`demo_text`. An audit of a model that need not memorise anything finds nothing: use "hard".
        findings_words: how many words of FINDINGS the hard text keeps.
        masks: ``"lungs"``, real lung masks from the installed package, or ``"ellipses"``.
        reports: another archive or folder of reports in the Open-i format; by default the installed package's.
    """

    name: ClassVar[str] = "indiana_demo"
    summary: ClassVar[str] = "demo: real Indiana reports (from an installed package) with films rendered from labels"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality")
    license_note: ClassVar[str] = (
        "The reports are CC BY-NC-ND 4.0 and are read from the installed torchxrayvision package: no commercial use, "
        "and no changed version of them may be passed on."
    )

    n_train: int = 1200
    n_validation: int = 200
    n_test: int = 600
    max_per_class: int | None = None
    seed: int = 0
    image_size: int = 64
    image_noise: float = 0.25
    text: Literal["hard", "easy"] = "hard"
    findings_words: int = 12
    masks: Literal["lungs", "ellipses"] = "lungs"
    reports: Path | None = None

    def __post_init__(self) -> None:
        least = {"n_train": 1, "n_validation": 1, "n_test": 1, "seed": 0, "image_size": 16, "findings_words": 0}
        problems = [
            f"{name} must be at least {low}, got {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if self.max_per_class is not None and self.max_per_class < 1:
            problems.append(f"max_per_class must be at least 1, got {self.max_per_class}")
        if self.image_size % 2:
            problems.append(f"image_size must be even, got {self.image_size}")
        if not 0 <= self.image_noise <= 10:
            problems.append(f"image_noise must be between 0 and 10, got {self.image_noise}")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the reports, take out those without one class or with a repeated text, and split the rest.

        Raises:
            MissingDependencyError: the package with the reports and the lung masks is not installed.
            DataError: the reports are broken, or too few for ``n_train`` and ``n_validation``.
        """
        source = package_file(REPORT_ARCHIVE) if self.reports is None else Path(self.reports)
        if self.masks == "lungs":
            package_file(MASK_ARCHIVE)  # missing masks are an error now, not at the first film
        reports, skipped = read_reports(source)
        usable: list[Usable] = []
        for report in reports:
            label, reason = exclusive_class(report, CLASSES)
            text = demo_text(report, hard=self.text == "hard", findings_words=self.findings_words)
            if label is not None and normalised_words(text):
                usable.append((report, label, text))
            else:
                skipped.append((reason or "no text", report.uid))
        distinct = []
        for item, repeats in zip(usable, near_duplicates(text for _, _, text in usable), strict=True):
            if repeats:
                skipped.append(("text nearly repeats another report's", item[0].uid))
            else:
                distinct.append(item)
        distinct = self._limit_classes(distinct, skipped)
        splits = self._draw_splits(len(distinct), source)
        records = []
        for (report, label, text), split in zip(distinct, splits, strict=True):
            if not split:
                skipped.append(("more than n_train, n_validation and n_test ask for", report.uid))
                continue
            film = RenderedFilm(
                report.uid, list(CLASSES)[label], self.seed, self.image_size, self.image_noise, self.masks
            )
            modalities = {"image": film, "text": text}
            records.append(Record(report.uid, report.uid, report.uid, "", modalities, label, split))
        return RecordDataset(
            records,
            name=self.name,
            levels=self.levels,
            classes=tuple(CLASSES),
            modality_kinds={"image": "image", "text": "text"},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=self._notes(records),
        )

    def _limit_classes(self, items: list[Usable], skipped: list[tuple[str, str]]) -> list[Usable]:
        """At most ``max_per_class`` reports of each class, in the order that they came."""
        if self.max_per_class is None:
            return items
        kept = set()
        counts: Counter[int] = Counter()
        for position in np.random.default_rng([self.seed, 1]).permutation(len(items)).tolist():
            label = items[position][1]
            if counts[label] < self.max_per_class:
                counts[label] += 1
                kept.add(position)
            else:
                skipped.append(("more than max_per_class of one class", items[position][0].uid))
        return [item for position, item in enumerate(items) if position in kept]

    def _draw_splits(self, available: int, source: Path) -> list[str]:
        """The split of each report, ``""`` for those that no split needs."""
        room = available - self.n_train - self.n_validation
        if room < 1:
            raise DataError(
                f"{available} usable reports leave none for the test split",
                where=str(source),
                expected=f"more than n_train + n_validation = {self.n_train + self.n_validation}",
                fix="lower n_train or n_validation",
            )
        counts = (self.n_train, self.n_validation, min(self.n_test, room))
        splits = [""] * available
        order = np.random.default_rng(self.seed).permutation(available).tolist()
        for position, split in zip(order, np.repeat(SPLITS, counts).tolist(), strict=False):
            splits[position] = split
        return splits

    def _notes(self, records: list[Record]) -> tuple[str, ...]:
        notes = [
            "films are rendered from report labels, not X-rays",
            "each report is taken as one patient; the source has no patient linkage",
            self.license_note,
        ]
        for split in SPLITS:
            found = Counter(record.label for record in records if record.split == split)
            listed = ", ".join(f"{name} {found[i]}" for i, name in enumerate(CLASSES))
            notes.append(f"{split}: {found.total()} reports ({listed})")
        if (n_test := sum(record.split == "test" for record in records)) < self.n_test:
            notes.append(f"the test split has {n_test} reports instead of {self.n_test}: the source has no more")
        return tuple(notes)
