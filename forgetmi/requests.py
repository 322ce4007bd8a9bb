"""Forget requests: who or what is to be forgotten, read from CSV, JSON or Python, and what that makes of a dataset."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forgetmi.delimited import base_suffix, read_delimited
from forgetmi.errors import ConfigError, RequestError, did_you_mean
from forgetmi.partition import Partition
from forgetmi.records import LEVELS, Record, RecordDataset

ID_LEVELS = ("institution", "patient", "study", "sample")
# Column names (lower case, letters and digits only) by which the level of a lone id column is known.
_COLUMN_NAMES = {
    "institution": {"institution", "institutionid", "site", "siteid", "hospital", "hospitalid"},
    "patient": {"patient", "patientid", "subject", "subjectid", "personid", "mrn"},
    "study": {"study", "studyid", "studyinstanceuid", "accessionnumber", "examid"},
    "sample": {"sample", "sampleid", "dicomid", "imageid", "sopinstanceuid"},
}
_JSON_KEYS = ("level", "ids", "modalities", "id_level")


@dataclass(frozen=True)
class ForgetRequest:
    """Who or what is to be forgotten. Build it with :meth:`of`, :meth:`from_csv`, :meth:`from_json`.

    Attributes:
        level: ``institution``, ``patient``, ``study``, ``sample`` or ``modality``.
        ids: identifiers at that level, exact strings, each once, in the order of the source.
        places: where each id stands (``file:row``), for the person who must correct it.
        modalities: for level ``modality``, what is to be forgotten of the records; else ``None``.
        id_level: what the ids name: the level itself; for level ``modality``, samples unless said otherwise.
        source: where the request comes from.
        duplicates: how often the source repeats an id (harmless).
    """

    level: str
    ids: tuple[str, ...]
    places: tuple[str, ...]
    modalities: tuple[str, ...] | None = None
    id_level: str = ""
    source: str = "Python"
    duplicates: int = 0

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise RequestError(
                f"level {self.level!r} is unknown. {did_you_mean(self.level, LEVELS)}", where=self.source
            )
        allowed = ID_LEVELS if self.level == "modality" else (self.level,)
        default = "sample" if self.level == "modality" else self.level
        object.__setattr__(self, "id_level", self.id_level or default)
        if self.id_level not in allowed:
            raise RequestError(
                f"at level {self.level} the ids cannot name something of level {self.id_level!r}",
                where=self.source,
                expected=f"id_level one of {', '.join(allowed)}",
            )
        if not self.ids:
            raise RequestError("the request is empty: it names no id", where=self.source)
        if (self.level == "modality") != bool(self.modalities):
            raise RequestError(
                "a request at level modality must name modalities, and no other may",
                where=self.source,
                fix='give e.g. level "modality" with modalities ["image"], or leave the modalities out',
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
        )

    @classmethod
    def from_csv(
        cls, path: str | os.PathLike[str], level: str | None = None, column: str | None = None
    ) -> ForgetRequest:
        """From a CSV or TSV with columns ``level,id[,modality]``, or with one column named like ``patient_id``.

        A ``modality`` column makes it a request at level ``modality`` for what the ids name (``sample`` where the level
        reads ``modality``); an id may stand on several rows, once a modality.

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
        named = [cell.strip() for cell in cells[keys["modality"]]] if "modality" in keys else []
        if not any(named):
            return cls.of(level, ids, places=places, source=name)
        modalities = _same_modalities(ids, named, places, name)
        id_level = "" if level == "modality" else level
        return cls.of("modality", ids, modalities, id_level=id_level, places=places, source=name)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> ForgetRequest:
        """From ``{"level": "patient", "ids": ["0012"], "modalities": ["image"], "id_level": "sample"}``.

        The last two belong to level ``modality`` only.

        Raises:
            RequestError: unreadable file, no JSON, unknown or missing keys, wrong types, numbers among the ids.
        """
        file = Path(path)
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise RequestError(f"{file.name} cannot be read: {error.strerror}", where=str(file.parent)) from error
        except UnicodeDecodeError as error:
            raise RequestError(f"{file.name} is not UTF-8 text", where=file.name) from error
        except json.JSONDecodeError as error:
            raise RequestError(f"{file.name} is no JSON: {error.msg}", where=f"{file.name}:{error.lineno}") from error
        if not isinstance(content, dict):
            raise RequestError(f"{file.name} holds no JSON object", expected='{"level": "patient", "ids": ["0012"]}')
        problems = [f"unknown key {key!r}. {did_you_mean(key, _JSON_KEYS)}" for key in content if key not in _JSON_KEYS]
        problems += [f"key {key!r} is missing" for key in ("level", "ids") if key not in content]
        problems += [f"{k!r} must be text" for k in ("level", "id_level") if not isinstance(content.get(k, ""), str)]
        problems += [f"{k!r} must be a list" for k in ("ids", "modalities") if not isinstance(content.get(k, []), list)]
        if problems:
            raise RequestError(f"{file.name} is no forget request: {'; '.join(problems)}", where=file.name)
        if not all(isinstance(modality, str) for modality in content.get("modalities", [])):
            raise RequestError("'modalities' must be a list of text", where=file.name)
        return cls.of(
            content["level"],
            content["ids"],
            content.get("modalities"),
            id_level=content.get("id_level", ""),
            source=file.name,
        )


def read_request(path: str | os.PathLike[str], *, level: str | None = None, column: str | None = None) -> ForgetRequest:
    """A request from a file, by its suffix: ``.csv``, ``.tsv`` (also ``.gz``) or ``.json``.

    Raises:
        RequestError: another suffix, or what :meth:`ForgetRequest.from_csv` and :meth:`~ForgetRequest.from_json` say.
    """
    suffix = base_suffix(Path(path))
    if suffix in (".csv", ".tsv"):
        return ForgetRequest.from_csv(path, level, column)
    if suffix == ".json":
        if level is not None or column is not None:
            raise RequestError("level and column are for CSV requests; a JSON request says its level itself")
        return ForgetRequest.from_json(path)
    raise RequestError(f"{Path(path).name} is no request file", expected="a name that ends in .csv, .tsv or .json")


def resolve(
    dataset: RecordDataset, request: ForgetRequest, *, remaining: Literal["refuse", "exclude"] = "refuse"
) -> Partition:
    """What a request makes of a dataset.

    Ids are compared as exact strings. Validation and test lose the records of the patients that are concerned (which
    only an institution can have there). ``Partition.leftovers`` counts, level by level, what the same patients hold
    anywhere in the dataset beyond the forget records: institutions, patients, studies and samples of those other
    records; and, for a request at level ``modality``, the other modalities of the forget records.

    Args:
        dataset: the records with their splits.
        request: who or what is to be forgotten.
        remaining: what becomes of train records of the same patients that the request does not name. ``"refuse"``:
            an error that counts them, for they would put a patient on both sides. ``"exclude"``: used on neither side.

    Raises:
        RequestError: the data does not support the level; ids are unknown, ambiguous, not in the train split or
            without the modality (all are listed, with file and row); records of the same patients remain; nothing
            would be left to retain.
        ConfigError: ``remaining`` is neither.
    """
    if remaining not in ("refuse", "exclude"):
        raise ConfigError(
            [f"remaining={remaining!r} is unknown. {did_you_mean(str(remaining), ('refuse', 'exclude'))}"]
        )
    _check_level(dataset, request)
    positions = _positions(dataset, request)
    train = {identifier: [i for i in found if dataset[i].split == "train"] for identifier, found in positions.items()}
    _refuse_ids(
        request,
        [i for i in request.ids if not train[i]],
        "have no record in the train split",
        "the model was not trained on them: there is nothing to forget; take them out of the request",
    )
    wanted = request.modalities
    if wanted is not None:
        train = {k: [i for i in found if _holds(dataset[i], wanted)] for k, found in train.items()}
        _refuse_ids(
            request,
            [i for i in request.ids if not train[i]],
            f"have no record with {' or '.join(wanted)}",
            "there is nothing to forget; take them out of the request",
        )
    forget = {i for found in train.values() for i in found}
    patients = dataset.patients(i for found in positions.values() for i in found)
    others = [i for i in range(len(dataset)) if dataset[i].patient_id in patients and i not in forget]
    excluded = [i for i in others if dataset[i].split == "train"]
    leftovers = _leftovers(dataset, forget, others, wanted)
    if excluded and remaining == "refuse":
        _refuse_remaining(dataset, request, len(forget), excluded)
    parts = {
        split: tuple(i for i in dataset.indices(split) if dataset[i].patient_id not in patients)
        for split in ("train", "validation", "test")
    }
    if not parts["train"]:
        raise RequestError(
            "the request covers the whole train split: nothing is left to retain",
            where=request.source,
            fix="a model that must forget everyone is deleted, not unlearned",
        )
    return Partition(
        dataset=dataset,
        forget=tuple(sorted(forget)),
        retain=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        level=request.level,
        modalities=wanted,
        excluded=tuple(excluded),
        leftovers=leftovers,
    )


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
        candidates = [h for h, found in levels.items() if level in (None, "modality", found)]
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


def _check_level(dataset: RecordDataset, request: ForgetRequest) -> None:
    for level in dict.fromkeys((request.level, request.id_level)):
        if level not in dataset.levels:
            raise RequestError(
                f"{dataset.name} cannot support a request at level {level}",
                where=request.source,
                expected=f"one of {', '.join(dataset.levels)}",
                fix="use a level that the data has, or give the adapter the column with these ids",
            )
    unknown = [name for name in request.modalities or () if name not in dataset.modality_kinds]
    if unknown:
        hints = "; ".join(f"{name!r}: {did_you_mean(name, dataset.modality_kinds)}" for name in unknown)
        raise RequestError(f"{dataset.name} has no such modality. {hints}", where=request.source)


def _key(record: Record, level: str) -> str:
    return record.institution if level == "institution" else str(getattr(record, f"{level}_id"))


def _positions(dataset: RecordDataset, request: ForgetRequest) -> dict[str, list[int]]:
    """Id to positions, for ids that are all known and name one thing each."""
    positions: dict[str, list[int]] = {identifier: [] for identifier in request.ids}
    for index, record in enumerate(dataset):
        if (key := _key(record, request.id_level)) in positions:
            positions[key].append(index)
    unknown = [identifier for identifier in request.ids if not positions[identifier]]
    if unknown:
        _refuse_ids(request, unknown, f"are not in {dataset.name}", _why_unknown(dataset, request, unknown))
    if request.id_level in ("study", "sample"):
        ambiguous = [i for i, found in positions.items() if len(dataset.patients(found)) > 1]
        _refuse_ids(
            request,
            ambiguous,
            "belong to more than one patient",
            "name the patients or the samples instead: the same id is used twice in the data",
        )
    return positions


def _why_unknown(dataset: RecordDataset, request: ForgetRequest, unknown: Iterable[str]) -> str:
    """The likeliest reason, from the data."""
    missing = set(unknown)
    for level in dataset.levels:
        if level not in ("modality", request.id_level):
            hits = len(missing & {_key(record, level) for record in dataset})
            if hits:
                return f"{hits} of them are ids at level {level}: correct the level"
    bare = {_key(record, request.id_level).lstrip("0") for record in dataset}
    hits = sum(identifier.lstrip("0") in bare for identifier in missing)
    if hits:
        return f"{hits} of them match when leading zeros are ignored: write the ids as they stand in the data"
    return "correct these ids, or take them out of the request"


def _refuse_ids(request: ForgetRequest, ids: Sequence[str], problem: str, fix: str) -> None:
    if ids:
        place = dict(zip(request.ids, request.places, strict=True))
        raise RequestError(
            f"{len(ids)} of {len(request.ids)} {request.id_level} ids of the request {problem}",
            where=request.source,
            fix=fix,
            private=[f"{identifier} ({place[identifier]})" for identifier in ids],
        )


def _refuse_remaining(dataset: RecordDataset, request: ForgetRequest, named: int, others: Sequence[int]) -> None:
    by_patient: dict[str, list[Record]] = defaultdict(list)
    for index in others:
        by_patient[dataset[index].patient_id].append(dataset[index])
    studies = len({(dataset[i].patient_id, dataset[i].study_id) for i in others})
    raise RequestError(
        f"the request names {named} train samples, but {len(by_patient)} of their patients have {len(others)} other "
        f"samples in {studies} studies of the train split: these patients would stand on both sides",
        where=request.source,
        expected="forget and retain sets that are disjoint by patient",
        fix='widen the request to level patient, or choose remaining="exclude" (these samples are then used on '
        "neither side, and the report says so)",
        private=[f"{patient}: {len(records)} other samples" for patient, records in sorted(by_patient.items())],
    )


def _holds(record: Record, modalities: Iterable[str]) -> bool:
    return any(record.modalities.get(name) is not None for name in modalities)


def _leftovers(
    dataset: RecordDataset, forget: Iterable[int], others: Sequence[int], modalities: Sequence[str] | None
) -> Mapping[str, int]:
    records = [dataset[index] for index in others]
    kept = 0
    if modalities is not None:
        kept = sum(
            value is not None for i in forget for name, value in dataset[i].modalities.items() if name not in modalities
        )
    return {
        "institution": len({r.institution for r in records} - {""}),
        "patient": len({r.patient_id for r in records}),
        "study": len({(r.patient_id, r.study_id) for r in records}),
        "sample": len(records),
        "modality": kept,
    }
