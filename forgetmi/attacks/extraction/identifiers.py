"""Identifiers in answers: where they stand, and what else could stand there.

Nothing here prints an identifier: spans are positions, and formats are what a site writes down, not what a person has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict

from forgetmi.errors import ConfigError, DataError, did_you_mean

DATE_FORMATS = ("%Y-%m-%d", "%m/%d/%Y", "%d.%m.%Y")
_PLACE = re.compile(r"\{(\d+)([dul])\}")
_LETTERS = {"d": "0123456789", "u": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "l": "abcdefghijklmnopqrstuvwxyz"}
_MOST = 2**62  # what a generator draws as one number

# In the order in which they claim a piece of text. The secret is the group "id", or all of it.
_FINDERS = {
    "email": r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "mrn": r"\b(?:MRN|medical record (?:number|no\.?)|record (?:number|no\.?)|patient id)\s*[:#]?\s*"
    r"(?P<id>(?=[A-Z-]{0,4}\d)[A-Z]{0,3}-?\d{4,12})\b",
    "date": r"(?<![\w/.-])(?:\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}|\d{1,2}\.\d{1,2}\.\d{4})(?!\d|[/-]\d)",
    "ssn": r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])",
    "phone": r"(?<![\w-])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])",
}
KINDS = tuple(_FINDERS)
"""Kinds of identifiers that are found by themselves; of any other kind a record says where they stand."""


@dataclass(frozen=True)
class Span:
    """Where an identifier stands in an answer (or in a plain text): characters from ``start`` to before ``end``."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class IdentifierFormat:
    """All that could stand where an identifier stands: a space R whose members are numbered.

    Attributes:
        pattern: a text with places: ``MRN {6d}`` (six digits), ``{2u}`` (two capital letters), ``{3l}`` (small ones).
        dates: the first and the last day of a range, both in it.
        date_format: how a day is written (``strftime``).
        names: a list.
        names_file: the same, one a line, in UTF-8.

    Raises:
        ConfigError: not exactly one of ``pattern``, ``dates``, ``names`` and ``names_file``, or one of them is wrong.
    """

    pattern: str | None = None
    dates: tuple[date, date] | None = None
    date_format: str = DATE_FORMATS[0]
    names: tuple[str, ...] = ()
    names_file: Path | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        given = [self.pattern is not None, self.dates is not None, bool(self.names), self.names_file is not None]
        problems = []
        if sum(given) != 1:
            problems.append("an identifier's format is one of pattern, dates, names and names_file")
        if self.pattern is not None:
            rest = _PLACE.sub("", self.pattern)
            if "{" in rest or "}" in rest or not _PLACE.search(self.pattern) or self.size < 2:
                problems.append("pattern: give places such as {6d} (digits), {2u} or {2l} (letters), at least one")
            elif self.size > _MOST:
                problems.append("pattern: it has more than 2^62 members")
        if self.dates is not None and not self.dates[0] < self.dates[1]:
            problems.append("dates: the first day must stand before the last one")
        if self.names_file is not None and not self.names_file.is_file():
            problems.append(f"names_file: there is no file {self.names_file.name}")
        elif (self.names or self.names_file is not None) and len(self._names) < 2:
            problems.append("names: at least two different ones")
        if problems:
            raise ConfigError(problems)

    @classmethod
    def like(cls, text: str) -> IdentifierFormat | None:
        """All texts of the same shape: other digits at the places of the digits. ``None`` where it has none."""
        if not re.search("[0-9]", text) or "{" in text or "}" in text:
            return None
        return cls(pattern=re.sub(r"[0-9]+", lambda run: f"{{{len(run[0])}d}}", text))

    @property
    def size(self) -> int:
        """How many there are: the size of R."""
        if self.pattern is not None:
            return math.prod(len(_LETTERS[kind]) ** int(count) for count, kind in _PLACE.findall(self.pattern))
        return len(self._names) if self.dates is None else (self.dates[1] - self.dates[0]).days + 1

    def text(self, number: int) -> str:
        """The member of a number, 0 to ``size`` - 1."""
        if self.dates is not None:
            return (self.dates[0] + timedelta(days=number)).strftime(self.date_format)
        if self.pattern is None:
            return self._names[number]

        def fill(place: re.Match[str]) -> str:
            nonlocal number
            letters, written = _LETTERS[place[2]], ""
            for _ in range(int(place[1])):
                number, digit = divmod(number, len(letters))
                written += letters[digit]
            return written[::-1]

        return _PLACE.sub(fill, self.pattern)

    def others(self, text: str, count: int, rng: np.random.Generator) -> list[str]:
        """Members that are not ``text``, each once: all of them where R has no more than ``count`` + 1 members, else
        ``count`` of them, drawn with equal chances.
        """
        exact = self.size <= count + 1
        numbers = range(self.size) if exact else rng.choice(self.size, size=count + 1, replace=False).tolist()
        found = [other for other in map(self.text, numbers) if other != text]
        return found if exact else found[:count]

    @cached_property
    def _names(self) -> tuple[str, ...]:
        lines = self.names if self.names_file is None else self.names_file.read_text(encoding="utf-8").splitlines()
        return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def find_identifiers(text: str, kinds: Iterable[str] = KINDS) -> list[Span]:
    """Identifiers that are known by their form, in the order of the text; none overlap.

    Our own expressions, for English notes: a number after "MRN", "record number" or the like; dates in digits; numbers
    of the form of the US social security number; telephone numbers of ten digits; e-mail addresses. A name has no form.

    Raises:
        ConfigError: an unknown kind.
    """
    problems = [f"kind {kind!r} is unknown. {did_you_mean(kind, KINDS)}" for kind in kinds if kind not in KINDS]
    if problems:
        raise ConfigError(problems)
    found: list[Span] = []
    for kind in (kind for kind in KINDS if kind in set(kinds)):
        for match in re.finditer(_FINDERS[kind], text, re.IGNORECASE if kind == "mrn" else 0):
            start, end = match.span("id" if "id" in match.re.groupindex else 0)
            if all(end <= other.start or start >= other.end for other in found):
                found.append(Span(start, end, kind))
    return sorted(found, key=lambda span: span.start)


def identifiers_of(value: Any, kinds: Iterable[str] = KINDS) -> list[Span]:
    """The identifiers in a record's answer, or in its plain text: the first place of each.

    Where the record says which they are (``"identifiers"``: a list of ``{"text": ..., "kind": ...}``), those; else
    those of :func:`find_identifiers`. What stands in the prompt too is no secret, and is left out.

    Args:
        value: a record's value, see :data:`forgetmi.modalities.dialogue.Value`.
        kinds: to look for.

    Raises:
        DataError: the list has another form, or an identifier does not stand in the answer.
    """
    if isinstance(value, str):
        text, prompt, named = str(value), "", None
    elif not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in ("prompt", "answer")):
        raise DataError(
            f"a text was given as {type(value).__name__}", expected='a string, or {"prompt": ..., "answer": ...}'
        )
    else:
        text, prompt, named = value["answer"], value["prompt"], value.get("identifiers")
    spans = find_identifiers(text, kinds) if named is None else _named(named, text)
    first: dict[str, Span] = {}
    for span in spans:
        first.setdefault(text[span.start : span.end], span)
    return [span for written, span in first.items() if not stands_in(written, prompt)]


def stands_in(text: str, other: str) -> bool:
    """Whether a text stands in another one as words of its own; case and the width of blanks do not matter."""
    words = r"\s+".join(map(re.escape, text.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", other, re.IGNORECASE) is not None


def date_format_of(text: str) -> tuple[date, str] | None:
    """The day that a text says, and how it is written; ``None`` where it is no day in digits with leading zeros."""
    for written in DATE_FORMATS:
        try:
            day = datetime.strptime(text, written).date()
        except ValueError:
            continue
        if day.strftime(written) == text:
            return day, written
    return None


def _named(named: Any, text: str) -> list[Span]:
    spans = []
    form = 'a list of {"text": ..., "kind": ...}'
    if isinstance(named, str | Mapping) or not hasattr(named, "__iter__"):
        raise DataError(f"a record's identifiers are given as {type(named).__name__}", expected=form)
    for entry in named:
        written, kind = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("text", "kind"))
        if not isinstance(written, str) or not isinstance(kind, str) or not written.strip() or not kind:
            raise DataError("an identifier of a record has no text or no kind", expected=form)
        start = text.find(written)
        if start < 0:
            raise DataError(
                f"an identifier of kind {kind!r} does not stand in the answer of its record",
                fix="write it as the answer does, letter by letter",
            )
        spans.append(Span(start, start + len(written), kind))
    return spans
