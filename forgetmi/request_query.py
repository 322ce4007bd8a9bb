"""A request that says which records are meant instead of naming them: a site, a range of dates, a device, any tag."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forgetmi.errors import RequestError, did_you_mean
from forgetmi.forget_request import ForgetRequest
from forgetmi.records import Record, RecordDataset

_KEYS = ("level", "query", "missing", "modalities", "sections", "id_level")
_RANGE = ("from", "to")


@dataclass(frozen=True)
class Range:
    """Both ends belong to it; an end that is ``None`` is open.

    Attributes:
        low, high: numbers; dates as YYYYMMDD.
        dates: whether values are dates (``2019-12-31``, ``20191231``, or either with a time after it).
    """

    low: float | None
    high: float | None
    dates: bool


@dataclass(frozen=True)
class Query:
    """Which records are meant: those that fit every condition.

    Attributes:
        where: attribute (or ``institution``) to a set of accepted values, or to a :class:`Range`.
        level: of the request: what the records that fit belong to is forgotten. ``patient`` takes all records of every
            patient with one that fits; ``sample`` takes those that fit and nothing else.
        missing: what becomes of train records whose attribute is not known, so that nobody can say whether they are
            meant: ``refuse``, or ``leave`` (they are not taken, and the notes count them).
        modalities, id_level: as in :class:`~forgetmi.forget_request.ForgetRequest`.
        source: for messages.
    """

    where: Mapping[str, frozenset[str] | Range]
    level: str
    missing: Literal["refuse", "leave"] = "refuse"
    modalities: tuple[str, ...] | None = None
    id_level: str = ""
    source: str = "query"
    kind: str = field(default="query", init=False)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], *, source: str = "query") -> Query:
        """From ``{"level": "study", "query": {"StudyDate": {"from": "2019-01-01"}, "Manufacturer": ["A", "B"]}}``.

        A condition is one value, a list of values (any of them; compared without regard to case and blanks around), or
        a range with ``from``, ``to`` or both. Attributes with "date" in their name have ranges of dates, others of
        numbers.

        Raises:
            RequestError: unknown or missing keys, conditions of another form; all of them at once.
        """
        problems = [f"unknown key {key!r}. {did_you_mean(str(key), _KEYS)}" for key in content if key not in _KEYS]
        if not isinstance(content.get("level"), str):
            problems.append("'level' must be text: what the records that fit belong to is forgotten at this level")
        if content.get("missing", "refuse") not in ("refuse", "leave"):
            problems.append("'missing' must be refuse or leave")
        parts = content.get("modalities", content.get("sections"))
        if parts is not None and not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
            problems.append("'modalities' (or 'sections') must be a list of text")
        if not isinstance(content.get("id_level", ""), str):
            problems.append("'id_level' must be text")
        asked = content.get("query")
        where: dict[str, frozenset[str] | Range] = {}
        if not isinstance(asked, Mapping) or not asked:
            problems.append('\'query\' must hold at least one condition, such as {"Manufacturer": "ACME"}')
        else:
            for name, condition in asked.items():
                try:
                    where[str(name)] = _condition(str(name), condition)
                except ValueError as error:
                    problems.append(f"query.{name}: {error}")
        if problems:
            raise RequestError(f"the query cannot be used: {'; '.join(problems)}", where=source)
        return cls(
            where=where,
            level=content["level"],
            missing=content.get("missing", "refuse"),
            modalities=None if parts is None else tuple(parts),
            id_level=content.get("id_level", ""),
            source=source,
        )

    def find(self, dataset: RecordDataset) -> ForgetRequest:
        """The request that names what fits, of the train split: the model was trained on nothing else.

        Raises:
            RequestError: the data has no such attribute or level, attributes are not known (``missing="refuse"``), or
                nothing fits.
        """
        self._check_names(dataset)
        train = [record for record in dataset if record.split == "train"]
        verdicts = [self._fits(record) for record in train]
        unknown = sum(verdict is None for verdict in verdicts)
        if unknown and self.missing == "refuse":
            raise RequestError(
                f"for {unknown} of {len(train)} train records the data does not say whether they fit the query",
                where=self.source,
                fix='leave these conditions out, or state missing "leave": these records are then not forgotten',
            )
        chosen = [record for record, fits in zip(train, verdicts, strict=True) if fits]
        if not chosen:
            alone = ", ".join(
                f"{name}: {sum(bool(_test(self._value(r, name), c)) for r in train)}" for name, c in self.where.items()
            )
            raise RequestError(
                f"no train record fits the query (records that fit each condition alone: {alone})", where=self.source
            )
        elsewhere = sum(record.split != "train" and bool(self._fits(record)) for record in dataset)
        notes = [f"{len(chosen)} train records fit the query"]
        if elsewhere:
            notes.append(f"{elsewhere} records of validation and test fit it too: the model was not trained on them")
        if unknown:
            notes.append(f"{unknown} train records were not taken: the data does not say whether they fit")
        partial = self.level in ("modality", "section")
        id_level = (self.id_level or "sample") if partial else self.level
        attribute = "institution" if id_level == "institution" else f"{id_level}_id"
        ids = dict.fromkeys(getattr(record, attribute, "") for record in chosen)
        return ForgetRequest.of(
            self.level,
            ids,
            self.modalities,
            id_level=id_level if partial else "",
            places=[self.source] * len(ids),
            source=self.source,
            notes=notes,
            kind=self.kind,
        )

    def _check_names(self, dataset: RecordDataset) -> None:
        known = {name for record in dataset for name in record.attributes}
        if "institution" in dataset.levels:
            known.add("institution")
        unknown = [name for name in self.where if name not in known]
        if unknown:
            hints = "; ".join(f"{name!r}: {did_you_mean(name, known)}" for name in unknown)
            raise RequestError(f"{dataset.name} does not say this of its records. {hints}", where=self.source)
        asked = (self.id_level or "sample") if self.level in ("modality", "section") else self.level
        for level in (self.level, asked):
            if level not in dataset.levels:
                raise RequestError(
                    f"{dataset.name} cannot support a request at level {level}",
                    where=self.source,
                    expected=f"one of {', '.join(dataset.levels)}",
                )

    @staticmethod
    def _value(record: Record, name: str) -> str:
        return record.institution if name == "institution" else record.attributes.get(name, "")

    def _fits(self, record: Record) -> bool | None:
        """``None`` where that depends on an attribute that is not known."""
        answers = [_test(self._value(record, name), condition) for name, condition in self.where.items()]
        if any(answer is False for answer in answers):
            return False  # whatever the others would say
        return None if None in answers else True


def _condition(name: str, given: Any) -> frozenset[str] | Range:
    if isinstance(given, Mapping):
        if not given or set(given) - set(_RANGE):
            raise ValueError("a range has the keys from and to, or one of them")
        dates = "date" in name.lower()
        ends = {}
        for key, end in given.items():
            ends[key] = None if isinstance(end, bool) else _number(str(end), dates=dates)
            if ends[key] is None:
                raise ValueError(f"{key}: {end!r} is no {'date such as 2019-12-31' if dates else 'number'}")
        low, high = ends.get("from"), ends.get("to")
        if low is not None and high is not None and low > high:
            raise ValueError("from lies after to")
        return Range(low, high, dates)
    values = given if isinstance(given, list) else [given]
    texts = [str(v) for v in values if isinstance(v, str | int | float) and not isinstance(v, bool)]
    if len(texts) != len(values) or not all(text.strip() for text in texts):
        raise ValueError("expected a text, a list of texts, or a range")
    return frozenset(map(_plain, texts))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


def _test(value: str, condition: frozenset[str] | Range) -> bool | None:
    """Whether a value fits; ``None`` where it is not known."""
    if not value.strip():
        return None
    if not isinstance(condition, Range):
        return _plain(value) in condition
    number = _number(value, dates=condition.dates)
    if number is None:
        return None
    return (condition.low is None or number >= condition.low) and (condition.high is None or number <= condition.high)


def _number(text: str, *, dates: bool) -> float | None:
    """A finite number; of a date, YYYYMMDD."""
    plain = text.strip()
    if not dates:
        try:
            number = float(plain)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    day = plain[:10] if "-" in plain[:10] else plain[:8]
    try:
        found = datetime.date.fromisoformat(day)
    except ValueError:
        return None
    return found.year * 10000 + found.month * 100 + found.day
