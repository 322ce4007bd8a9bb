"""Values of modalities: those that are read when they are used, and texts that remember their sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from forgetmi.errors import DataError


@runtime_checkable
class LazyValue(Protocol):
    """A modality's value that is read from disk only when it is used."""

    def load(self) -> Any:
        """Read the value.

        Raises:
            DataError: the file is missing or cannot be read; the message names it.
        """


class SectionedText(str):
    """A text made of named sections. It *is* the joined text, so whatever takes a text takes this too.

    Args:
        sections: section name to its text, in order. Blank ones are left out.
        separator: what stands between two sections.

    Raises:
        DataError: every section is blank: a missing text is ``None``, not an empty one.

    >>> text = SectionedText({"findings": "Clear lungs.", "impression": "Normal."})
    >>> str(text.keep_only(["impression"]))
    'Normal.'
    """

    __slots__ = ("sections", "separator")
    sections: Mapping[str, str]
    separator: str

    def __new__(cls, sections: Mapping[str, str], separator: str = "\n") -> SectionedText:
        """The text; see the class."""
        kept = {name: text for name, text in sections.items() if text.strip()}
        if not kept:
            raise DataError("a text has no section with words", fix="give None where a text is missing")
        made = super().__new__(cls, separator.join(kept.values()))
        made.sections, made.separator = kept, separator
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self.sections), self.separator)

    def keep_only(self, names: Iterable[str]) -> SectionedText | None:
        """The text of these sections; ``None`` where it has none of them."""
        wanted = set(names)
        kept = {name: text for name, text in self.sections.items() if name in wanted}
        return SectionedText(kept, self.separator) if kept else None


@dataclass(frozen=True, slots=True)
class LazySections:
    """Some sections of a text that is read when it is used.

    Attributes:
        text: gives a :class:`SectionedText`, or ``None``.
        names: the sections to keep.
    """

    text: LazyValue
    names: tuple[str, ...]

    def load(self) -> SectionedText | None:
        """The sections; ``None`` where the text has none of them.

        Raises:
            DataError: the text cannot be read, or is not kept in sections.
        """
        kept: SectionedText | None = only_sections(self.text.load(), self.names)
        return kept


def only_sections(value: Any, names: Iterable[str]) -> Any:
    """A text (or a lazy one) without its other sections; ``None`` stays ``None``.

    Raises:
        DataError: the text is not kept in sections.
    """
    if value is None:
        return None
    if isinstance(value, SectionedText):
        return value.keep_only(names)
    if isinstance(value, LazyValue):
        return LazySections(value, tuple(names))
    raise DataError(
        "a text is not kept in sections, so that a part of it cannot be named",
        fix="use an adapter that keeps sections, or a request at level modality",
    )
