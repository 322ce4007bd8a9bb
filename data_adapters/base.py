"""What every data adapter is: a frozen dataclass of options with ``load() -> RecordDataset``."""

from __future__ import annotations

from typing import ClassVar, Protocol

from forgetmi.records import RecordDataset


class Adapter(Protocol):
    """Reads one source's published layout. It never writes into the source's folder and drops nothing silently.

    Attributes:
        name: the registered name.
        summary: one line for ``forgetmi ls adapters``.
        levels: the request levels that the source can support.
        license_note: what the licence or the use agreement forbids, in one sentence.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    levels: ClassVar[tuple[str, ...]]
    license_note: ClassVar[str]

    def load(self) -> RecordDataset:
        """Index the source. Pixels and long texts are read later, when a record's value is asked for.

        Raises:
            DataError: a file or column is missing or malformed; the message names file, row and what to do.
        """
        ...
