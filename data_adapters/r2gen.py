"""R2Gen's ``annotation.json``: reports with the paths of their films, as report generation exchanges them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.cells import MissingFilePolicy, missing_files
from forgetmi.data_adapters.images import ImageFile
from forgetmi.data_adapters.json_lines import read_json
from forgetmi.delimited import first_places
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import Record, RecordDataset, Skipped

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_LINKS = ("subject_id", "study_id")


@dataclass(frozen=True)
class R2Gen:
    """Reads an annotation file: ``{"train": [...], "val": [...], "test": [...]}``, entries with ``id``, ``report`` and
    ``image_path`` (a list), for MIMIC-CXR also with ``study_id`` and ``subject_id``.

    One record a film; the report repeats on each of its films. Where every entry has at most one film, the entry's
    ``id`` is the sample's; else the film's path is.

    Args:
        path: the annotation file; ``.gz`` too.
        images: the folder that paths are relative to; by default ``images`` beside the file.
        modalities: ``image``, ``text``, or both.
        on_missing_file: films that are not on the disk: ``error`` or ``skip``.

    Raises:
        ConfigError: no modality is asked for.
    """

    name: ClassVar[str] = "r2gen"
    summary: ClassVar[str] = "R2Gen's annotation.json: reports with their films, with or without patient ids"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality")
    license_note: ClassVar[str] = "that of the films and reports which the file lists (MIMIC-CXR: credentialed data)"

    path: Path
    images: Path | None = None
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    on_missing_file: MissingFilePolicy = "error"

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ConfigError(["modalities: name image, text or both, each once"])

    def load(self) -> RecordDataset:
        """Index the file; films are read when they are used. Records have no label.

        Raises:
            DataError: no such file, no JSON, entries that are not as above (the first 100 are listed), films that are
                not on the disk.
        """
        entries, places, file = self._entries()
        # An id level holds only where every entry says it: one blank would make a person of several.
        linked = {key: all(entry.get(key) is not None for entry in entries) for key in _LINKS}
        several = any(len(entry["image_path"]) > 1 for entry in entries)
        folder = Path(self.path).parent / "images" if self.images is None else self.images
        records, paths, at = [], [], []
        blank = 0
        for entry, place in zip(entries, places, strict=True):
            study = _text(entry["study_id"]) if linked["study_id"] else _text(entry["id"])
            patient = _text(entry["subject_id"]) if linked["subject_id"] else study
            text = " ".join(entry["report"].split()) or None
            blank += text is None
            films = entry["image_path"] if "image" in self.modalities else []
            for film in films or [None]:
                path = None if film is None else os.path.join(folder, film)
                sample = film if several and film is not None else _text(entry["id"])
                values: dict[str, Any] = {"image": None if path is None else ImageFile(path), "text": text}
                values = {name: values[name] for name in self.modalities}
                records.append(Record(sample, study, patient, "", values, None, entry["split"]))
                paths.append(path)
                at.append(place)
        gone = missing_files(paths, at, "films", self.on_missing_file)
        empty = [all(v is None for v in record.modalities.values()) for record in records]
        skipped = [("film is missing", place) for place, wrong in zip(at, gone, strict=True) if wrong]
        skipped += [("neither text nor film", place) for place, wrong in zip(at, empty, strict=True) if wrong]
        notes = [] if linked["subject_id"] else ["no patient ids: each study is taken for a patient"]
        if blank and "text" in self.modalities:
            notes.append(f"{blank} of {len(entries)} reports are blank: their text is missing")
        levels = {"patient": linked["subject_id"], "modality": len(self.modalities) > 1}
        return RecordDataset(
            [record for record, g, e in zip(records, gone, empty, strict=True) if not (g or e)],
            name=file,
            levels=[level for level in self.levels if levels.get(level, True)],
            modality_kinds={name: name for name in self.modalities},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=notes,
        )

    def _entries(self) -> tuple[list[dict[str, Any]], list[str], str]:
        """The entries with our names of their splits, where each stands, and the file's name."""
        content, file = read_json(self.path)
        if not isinstance(content, dict) or not content or any(key not in _SPLITS for key in content):
            expected = '{"train": [...], "val": [...], "test": [...]}'
            raise DataError(f"{file} is no annotation file", where=file, expected=expected)
        entries: list[dict[str, Any]] = []
        places: list[str] = []
        problems: list[str] = []
        for part, items in content.items():
            if not isinstance(items, list):
                raise DataError(f"{file}: {part!r} is no list", where=file, expected="a list of entries")
            for number, item in enumerate(items):
                place = f"{file}:{part}[{number}]"
                if problem := _problem(item, part):
                    problems.append(f"{place}: {problem}")
                    continue
                entries.append({**item, "split": _SPLITS[part]})
                places.append(place)
        if problems:
            raise DataError(
                f"{len(problems)} entries of {file} cannot be used",
                where=problems[0].partition(": ")[0],
                expected='{"id": "...", "report": "...", "image_path": ["..."], "split": "..."}',
                private=first_places(problems),
            )
        if not entries:
            raise DataError(f"{file} holds no entry", where=file)
        return entries, places, file


def _problem(item: Any, part: str) -> str:
    """What is wrong with an entry; ``""`` if nothing is."""
    if not isinstance(item, dict):
        return "no object"
    if not isinstance(item.get("report"), str):
        return "'report' is no text"
    films = item.get("image_path")
    if not isinstance(films, list) or not all(isinstance(film, str) and film for film in films):
        return "'image_path' is no list of text"
    for key in ("id", *_LINKS):
        value = item.get(key)
        if (value is None and key != "id") or (isinstance(value, int) and not isinstance(value, bool)):
            continue
        if not isinstance(value, str) or not value.strip():
            return f"{key!r} is neither text nor a whole number"
    if item.get("split", part) != part:
        return f"it stands under {part!r}, but its split is {item['split']!r}"
    return ""


def _text(identifier: str | int) -> str:
    """An id as text; MIMIC-CXR's ids are written as numbers."""
    return str(identifier).strip()
