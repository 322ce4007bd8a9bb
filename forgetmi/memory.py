"""Large tables and Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many small objects without the cycle collector, which would walk over all of them again and again.

    Nothing is freed late but cycles, and they are found at the next full collection. Of 377,110 records, a third of the
    loading time was spent so.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Frozen and thawed, objects are of the oldest generation; else all are walked over on their way there.
            gc.freeze()
            gc.unfreeze()
        if was_on:
            gc.enable()
