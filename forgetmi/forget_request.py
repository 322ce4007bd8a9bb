"""A forget request: who or what is to be forgotten, from Python, CSV or JSON."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from forgetmi.delimited import read_delimited
from forgetmi.errors import RequestError, did_you_mean
from forgetmi.records import LEVELS

ID_LEVELS = ("institution", "patient", "study", "sample")
# Column names (lower case, letters and digits only) by which the level of a lone id column is known.
_COLUMN_NAMES = {
    "institution": {"institution", "institutionid", "site", "siteid", "hospital", "hospitalid"},
    "patient": {"patient", "patientid", "subject", "subjectid", "personid", "mrn"},
    "study": {"study", "studyid", "studyinstanceuid", "accessionnumber", "examid"},
    "sample": {"sample", "sampleid", "dicomid", "imageid", "sopinstanceuid"},
}
_JSON_KEYS = ("level", "ids", "modalities", "sections", "id_level")
_PARTIAL = ("modality", "section")  # levels at which a part of each record is forgotten


@dataclass(frozen=True)
class ForgetRequest:
    """Who or what is to be forgotten. Build it with :meth:`of`, :meth:`from_csv`, :meth:`from_json`.

    Attributes:
        level: ``institution``, ``patient``, ``study``, ``sample``, ``modality`` or ``section``.
        ids: identifiers at that level, exact strings, each once, in the order of the source.
        places: where each id stands (``file:row``), for the person who must correct it.
        modalities: what is to be forgotten of the records: for level ``modality``, modalities; for level ``section``,
            sections of texts (``"text.impression"``, or ``"impression"`` where one modality has it); else ``None``.
        id_level: what the ids name: the level itself; for these two levels, samples unless said otherwise.
        source: where the request comes from.
        duplicates: how often the source repeats an id (harmless).
        notes: how the source was understood, for the person who asked; without ids.
        kind: of the source: ``python``, ``csv``, ``json``, ``list``, ``fhir`` or ``query``.
    """

    level: str
    ids: tuple[str, ...]
    places: tuple[str, ...]
    modalities: tuple[str, ...] | None = None
    id_level: str = ""
    source: str = "Python"
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    kind: str = "python"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise RequestError(
                f"level {self.level!r} is unknown. {did_you_mean(self.level, LEVELS)}", where=self.source
            )
        allowed = ID_LEVELS if self.level in _PARTIAL else (self.level,)
        default = "sample" if self.level in _PARTIAL else self.level
        object.__setattr__(self, "id_level", self.id_level or default)
        if self.id_level not in allowed:
            raise RequestError(
                f"at level {self.level} the ids cannot name something of level {self.id_level!r}",
                where=self.source,
                expected=f"id_level one of {', '.join(allowed)}",
            )
        if not self.ids:
            raise RequestError("the request is empty: it names no id", where=self.source)
        if (self.level in _PARTIAL) != bool(self.modalities):
            raise RequestError(
                "a request at level modality or section must name modalities or sections, and no other may",
                where=self.source,
                fix='give e.g. level "modality" with modalities ["image"], level "section" with sections '
                '["impression"], or leave them out',
            )

    @classmethod
    def of(
        cls,
        level: str,
        ids: Iterable[str],
        modalities: Iterable[str] | None = None,
        *,
        id_level: str = "",
        places: Iterable[str] | None = None,
        source: str = "Python",
        notes: Iterable[str] = (),
        kind: str = "python",
    ) -> ForgetRequest:
        """A request from Python. Ids are stripped of blanks around them; repeated ones are counted and kept once.

        Raises:
            RequestError: an id is no string or is blank, there is none, or level and modalities do not fit.
        """
        given = [ids] if isinstance(ids, str) else list(ids)
        where = [f"{source}:ids[{i}]" for i in range(len(given))] if places is None else list(places)
        wrong = [p for i, p in zip(given, where, strict=True) if not isinstance(i, str) or not i.strip()]
        if wrong:
            raise RequestError(
                f"{len(wrong)} of {len(given)} ids are no text, or blank",
                where=source,
                expected='ids as strings ("0012"): a number loses leading zeros',
                private=wrong,
            )
        first: dict[str, str] = {}
        for identifier, place in zip(given, where, strict=True):
            first.setdefault(identifier.strip(), place)
        names = [modalities] if isinstance(modalities, str) else modalities
        return cls(
            level=level,
            ids=tuple(first),
            places=tuple(first.values()),
            modalities=tuple(dict.fromkeys(names)) if names else None,
            id_level=id_level,
            source=source,
            duplicates=len(given) - len(first),
            notes=tuple(notes),
            kind=kind,
        )

    @classmethod
    def from_csv(
        cls, path: str | os.PathLike[str], level: str | None = None, column: str | None = None
    ) -> ForgetRequest:
        """From a CSV or TSV with columns ``level,id[,modality]``, or with one column named like ``patient_id``.

        A ``modality`` (or ``section``) column makes it a request at that level for what the ids name (``sample`` where
        the level reads ``modality`` or ``section``); an id may stand on several rows, once a modality or section.

        Args:
            path: the file; ``.csv.gz`` too.
            level: the level, where the file does not say it.
            column: the column that holds the ids, where several could.

        Raises:
            RequestError: unreadable file, no or several id columns, rows of different levels, a blank id, ids with
                different modalities. All rows concerned are listed.
        """
        table = read_delimited(path, error=RequestError)
        name = table.path.name
        filled = [
            (row, f"{name}:{line}")
            for row, line in zip(table.rows, table.lines, strict=True)
            if any(map(str.strip, row))
        ]
        if not filled:
            raise RequestError("the request is empty: it names no id", where=name)
        places = [place for _, place in filled]
        cells = dict(zip(table.header, zip(*(row for row, _ in filled), strict=True), strict=True))
        keys = {_plain(header): header for header in table.header}
        if "level" in keys:
            stated = _one_level(cells[keys["level"]], places, name)
            if level not in (None, stated):
                raise RequestError(f"{name} is at level {stated}, but level {level} was asked for", where=name)
            level = stated
        id_column, level = _id_column(table.header, level, column, name)
        ids = cells[id_column]
        parts = {kind: [c.strip() for c in cells[keys[kind]]] for kind in _PARTIAL if kind in keys}
        parts = {kind: named for kind, named in parts.items() if any(named)}
        if not parts:
            return cls.of(level, ids, places=places, source=name, kind="csv")
        if len(parts) > 1 or (level in _PARTIAL and level not in parts):
            raise RequestError(
                f"the columns of {name} do not agree on what is to be forgotten of the records",
                where=f"{name}:1",
                expected="a column `modality` or a column `section`, and no other level but that of the ids",
            )
        ((kind, named),) = parts.items()
        modalities = _same_modalities(ids, named, places, name)
        id_level = "" if level in _PARTIAL else level
        return cls.of(kind, ids, modalities, id_level=id_level, places=places, source=name, kind="csv")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> ForgetRequest:
        """From ``{"level": "patient", "ids": ["0012"], "modalities": ["image"], "id_level": "sample"}``.

        The last two belong to level ``modality`` only, and to level ``section``, where ``sections`` is the key's name.

        Raises:
            RequestError: unreadable file, no JSON, unknown or missing keys, wrong types, numbers among the ids.
        """
        file = Path(path)
        content = read_json(file)
        if not isinstance(content, dict):
            raise RequestError(f"{file.name} holds no JSON object", expected='{"level": "patient", "ids": ["0012"]}')
        problems = [f"unknown key {key!r}. {did_you_mean(key, _JSON_KEYS)}" for key in content if key not in _JSON_KEYS]
        problems += [f"key {key!r} is missing" for key in ("level", "ids") if key not in content]
        problems += [f"{k!r} must be text" for k in ("level", "id_level") if not isinstance(content.get(k, ""), str)]
        problems += [
            f"{k!r} must be a list"
            for k in ("ids", "modalities", "sections")
            if not isinstance(content.get(k, []), list)
        ]
        problems += ["give modalities or sections, not both"] if {"modalities", "sections"} <= set(content) else []
        problems += (
            ["sections belong to level 'section'"]
            if "sections" in content and content.get("level") != "section"
            else []
        )
        if problems:
            raise RequestError(f"{file.name} is no forget request: {'; '.join(problems)}", where=file.name)
        parts = content.get("modalities", content.get("sections"))
        if not all(isinstance(part, str) for part in parts or []):
            raise RequestError("'modalities' (or 'sections') must be a list of text", where=file.name)
        return cls.of(
            content["level"],
            content["ids"],
            parts,
            id_level=content.get("id_level", ""),
            source=file.name,
            kind="json",
        )


def read_json(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        RequestError: it cannot be read, is not UTF-8, or is no JSON; the message names the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError(f"{path.name} cannot be read: {error.strerror}", where=str(path.parent)) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path.name} is not UTF-8 text", where=path.name) from error
    except json.JSONDecodeError as error:
        raise RequestError(f"{path.name} is no JSON: {error.msg}", where=f"{path.name}:{error.lineno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets of thousands of levels
        raise RequestError(
            f"{path.name} is no JSON that can be read ({type(error).__name__})", where=path.name
        ) from None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _one_level(cells: Sequence[str], places: Sequence[str], name: str) -> str:
    """The level that every row states."""
    first: dict[str, str] = {}
    for cell, place in zip(cells, places, strict=True):
        first.setdefault(cell.strip().lower(), place)
    if len(first) != 1 or "" in first:
        raise RequestError(
            f"the rows of {name} do not all state the same level",
            where=", ".join(f"{place}: {value or 'blank'}" for value, place in first.items()),
            expected=f"one of {', '.join(LEVELS)} on every row",
            fix="write one file a level",
        )
    return next(iter(first))


def _id_column(header: Sequence[str], level: str | None, column: str | None, name: str) -> tuple[str, str]:
    """The column of the ids and their level."""
    levels = {h: found for h in header for found, names in _COLUMN_NAMES.items() if _plain(h) in names}
    if column is not None:
        if column not in header:
            raise RequestError(f"{name} has no column {column!r}. {did_you_mean(column, header)}", where=f"{name}:1")
        candidates = [column]
    elif any(_plain(h) == "id" for h in header):
        candidates = [h for h in header if _plain(h) == "id"]
    else:
        candidates = [h for h, found in levels.items() if level in (None, *_PARTIAL, found)]
    if len(candidates) != 1:
        # Without a header, the first line is an id: so what stands there is private.
        raise RequestError(
            f"{name} has {'several columns' if candidates else 'no column'} that may hold the ids",
            where=f"{name}:1",
            expected="a header `level,id[,modality]`, or one column named like patient_id, study_id, sample_id",
            fix="name the column (column=...) and the level (level=...)",
            private=[f"header: {', '.join(header)}"],
        )
    found_level = level or levels.get(candidates[0])
    if found_level is None:
        raise RequestError(
            f"the level of the ids in column {candidates[0]!r} is not known",
            where=f"{name}:1",
            fix=f"give level=... (one of {', '.join(LEVELS)}) or a column `level`",
        )
    return candidates[0], found_level


def _same_modalities(ids: Sequence[str], named: Sequence[str], places: Sequence[str], name: str) -> list[str]:
    """The modalities that every id is listed with."""
    by_id: dict[str, set[str]] = defaultdict(set)
    first: dict[str, str] = {}
    for identifier, modality, place in zip(ids, named, places, strict=True):
        by_id[identifier.strip()].add(modality)
        first.setdefault(identifier.strip(), place)
    if len({frozenset(found) for found in by_id.values()}) > 1 or "" in set().union(*by_id.values()):
        raise RequestError(
            f"the ids of {name} are listed with different modalities, or some with none",
            where=name,
            fix="write one file for each set of modalities",
            private=[f"{i} ({first[i]}): {', '.join(sorted(found)) or 'none'}" for i, found in by_id.items()],
        )
    return [modality for modality in dict.fromkeys(named) if modality]
