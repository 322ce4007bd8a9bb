"""A few records that show all that a dataset's records can be."""

from __future__ import annotations

from collections.abc import Sequence

from forgetmi.batch import Loader


def covering(loader: Loader, indices: Sequence[int], each: int) -> list[int]:
    """The first ``each`` records of every set of modalities that these records have, in order; reads no values."""
    seen: dict[tuple[str, ...], int] = {}
    chosen = []
    for index in indices:
        modalities = loader.record(index).modalities
        has = tuple(name for name in loader.modalities if modalities.get(name) is not None)
        if seen.setdefault(has, 0) < each:
            seen[has] += 1
            chosen.append(index)
    return chosen
