"""Ids as a clerk types them: mixed case, blanks, lost zeros, ``MRN: 123``; never a guess between two people."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from forgetmi.delimited import find_file, open_text
from forgetmi.errors import RequestError, did_you_mean
from forgetmi.forget_request import ForgetRequest
from forgetmi.records import ALIAS_LEVELS, RecordDataset

# What may stand before an id, in letters and digits only, and the level that it tells.
_LABELS = {
    **dict.fromkeys(("mrn", "patient", "patientid", "patientno", "pid", "subject", "subjectid"), "patient"),
    **dict.fromkeys(("accession", "accessionnumber", "accessionno", "acc", "accno"), "study"),
    **dict.fromkeys(("study", "studyid", "studyuid", "studyinstanceuid", "uid"), "study"),
}
_LABELLED = re.compile(r"^(?!urn:)([A-Za-z][A-Za-z .]*?)\s*(?:[:=#]|no\.)\s*(.+)$", re.IGNORECASE)
_URN = re.compile(r"^urn:(?:oid|uuid):", re.IGNORECASE)
_REFERENCE = re.compile(r"^Patient/", re.IGNORECASE)


@dataclass(frozen=True)
class _Typed:
    """One id of the list: as typed without its label, where it stands, and the level that its label tells."""

    text: str
    place: str
    level: str | None


def loose(identifier: str) -> str:
    """An id without what people change when they type it: case, blanks, leading zeros, ``urn:oid:``, width of digits.

    >>> loose(" 00 12a "), loose("urn:oid:1.2.840"), loose("000")
    ('12a', '1.2.840', '0')
    """
    plain = _URN.sub("", unicodedata.normalize("NFKC", identifier).strip())
    return "".join(plain.split()).casefold().lstrip("0") or "0"


def read_list(path: str | os.PathLike[str], dataset: RecordDataset, *, level: str | None = None) -> ForgetRequest:
    """A request from a text file of record numbers, accession numbers or study UIDs.

    One or several ids a line, separated by commas, semicolons or tabs; what follows ``#`` at the start of a line is a
    comment. ``MRN: 123``, ``Accession 7#...``, ``urn:oid:1.2.3`` and ``Patient/123`` are understood. Ids are looked up
    among the dataset's patients and studies and their aliases, compared without regard to case, blanks and leading
    zeros (:func:`loose`). An id that could then mean two different patients or studies is refused, also where one of
    them is written exactly so: the clerk may have lost a zero. A CSV request names such ids exactly.

    Args:
        path: the file.
        dataset: where the ids are looked up.
        level: ``patient`` widens study ids to their patients. By default all ids must be of one level, which is then
            the request's.

    Raises:
        RequestError: the file cannot be read or is empty; ids are unknown or ambiguous (all are listed, with file and
            line, and what they could mean); ids of both levels without ``level``.
    """
    file = find_file(path, error=RequestError)
    levels = [name for name in ALIAS_LEVELS if name in dataset.levels]
    if level not in (None, *levels):
        raise RequestError(
            f"a list cannot be forgotten at level {level!r}",
            where=file.name,
            expected=f"one of {', '.join(levels) or 'none: this source has neither patients nor studies'}",
        )
    typed = _read(file)
    targets = _look_up(dataset, typed, levels)
    _refuse(typed, targets, file.name)
    chosen = [next(iter(found)) for found in targets]
    meant = {name for name, _ in chosen}
    if level is None and len(meant) > 1:
        raise RequestError(
            "the list names patients and studies",
            where=file.name,
            fix='write one list for each, or state level "patient": all studies of these people are then forgotten',
        )
    asked = level or meant.pop()
    notes = _notes(dataset, typed, chosen)
    if asked == "study" and any(name == "patient" for name, _ in chosen):
        raise RequestError(
            "the list names patients, and level study was asked for",
            where=file.name,
            fix='state level "patient", or name the studies',
        )
    ids = [identifier for _, identifier in chosen]
    if asked == "patient" and any(name == "study" for name, _ in chosen):
        ids, widened = _patients_of(dataset, typed, chosen, file.name)
        notes.append(f"{widened} study ids were widened to their patients, as level patient asks")
    return ForgetRequest.of(
        asked, ids, places=[item.place for item in typed], source=file.name, notes=notes, kind="list"
    )


def _read(file: Path) -> list[_Typed]:
    typed: list[_Typed] = []
    unknown: list[str] = []
    with open_text(file, RequestError) as stream:
        for line, text in enumerate(stream, start=1):
            if text.lstrip().startswith("#"):
                continue
            for part in filter(None, (cell.strip().strip("\"'").strip() for cell in re.split(r"[,;\t]", text))):
                place = f"{file.name}:{line}"
                label, identifier = None, part
                if found := _LABELLED.match(part):
                    name = "".join(letter for letter in found.group(1).lower() if letter.isalnum())
                    label, identifier = _LABELS.get(name), found.group(2).strip()
                    if label is None:
                        unknown.append(f"{place}: {found.group(1)!r}. {did_you_mean(name, _LABELS)}")
                if _REFERENCE.match(identifier):
                    label, identifier = "patient", identifier.partition("/")[2]
                typed.append(_Typed(identifier, place, label))
    if unknown:
        raise RequestError(f"{len(unknown)} ids have a label that is not known", where=file.name, private=unknown)
    if not typed:
        raise RequestError("the request is empty: it names no id", where=file.name)
    return typed


def _look_up(dataset: RecordDataset, typed: list[_Typed], levels: list[str]) -> list[set[tuple[str, str]]]:
    """``(level, canonical id)`` that each id could mean."""
    wanted = {loose(item.text) for item in typed}
    meanings: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name in levels:
        known = {getattr(record, f"{name}_id") for record in dataset}
        pairs = [*((identifier, identifier) for identifier in known), *dataset.aliases.get(name, {}).items()]
        for other, canonical in pairs:
            if (form := loose(other)) in wanted:
                meanings[form].add((name, canonical))
    return [
        {(name, found) for name, found in meanings[loose(item.text)] if item.level in (None, name)} for item in typed
    ]


def _refuse(typed: list[_Typed], targets: list[set[tuple[str, str]]], source: str) -> None:
    unknown = [f"{item.text} ({item.place})" for item, found in zip(typed, targets, strict=True) if not found]
    if unknown:
        raise RequestError(
            f"{len(unknown)} of {len(typed)} ids of the list are neither a patient nor a study of the data",
            where=source,
            expected="record numbers, accession numbers or study UIDs that the data knows",
            fix="correct these ids, or take them out of the list",
            private=unknown,
        )
    ambiguous = [
        f"{item.text} ({item.place}): {' or '.join(f'{name} {found}' for name, found in sorted(meant))}"
        for item, meant in zip(typed, targets, strict=True)
        if len(meant) > 1
    ]
    if ambiguous:
        raise RequestError(
            f"{len(ambiguous)} of {len(typed)} ids of the list could mean more than one patient or study",
            where=source,
            expected="ids that mean one thing each without regard to case, blanks and leading zeros",
            fix="write MRN: or Accession: before the id, or name it exactly in a CSV request",
            private=ambiguous,
        )


def _notes(dataset: RecordDataset, typed: list[_Typed], chosen: list[tuple[str, str]]) -> list[str]:
    """How many ids were not written as the data writes them."""
    notes = []
    through = changed = 0
    for item, (name, canonical) in zip(typed, chosen, strict=True):
        if loose(item.text) != loose(canonical):
            through += 1
        elif item.text != canonical and dataset.aliases.get(name, {}).get(item.text) != canonical:
            changed += 1
    if through:
        notes.append(f"{through} of {len(typed)} ids were found through other ids of the same patient or study")
    if changed:
        notes.append(f"{changed} of {len(typed)} ids differ from the data's in case, blanks, leading zeros or a prefix")
    return notes


def _patients_of(
    dataset: RecordDataset, typed: list[_Typed], chosen: list[tuple[str, str]], source: str
) -> tuple[list[str], int]:
    """The patient of each id, and how many were given as a study."""
    asked = {identifier for name, identifier in chosen if name == "study"}
    owners: dict[str, set[str]] = defaultdict(set)
    for record in dataset:
        if record.study_id in asked:
            owners[record.study_id].add(record.patient_id)
    wrong = [
        f"{item.text} ({item.place})"
        for item, (name, identifier) in zip(typed, chosen, strict=True)
        if name == "study" and len(owners[identifier]) != 1
    ]
    if wrong:
        raise RequestError(
            f"{len(wrong)} studies of the list belong to no patient of the data, or to more than one",
            where=source,
            fix="name the patients instead",
            private=wrong,
        )
    ids = [identifier if name == "patient" else next(iter(owners[identifier])) for name, identifier in chosen]
    return ids, sum(name == "study" for name, _ in chosen)
