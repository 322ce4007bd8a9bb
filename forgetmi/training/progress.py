"""Progress for people: a bar on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

logger = logging.getLogger("forgetmi")


class Progress:
    """Shows how far a fit is, its loss parts and the time left.

    Args:
        total: steps.
        title: what is running.
        enabled: off shows nothing (other ranks, tests, ``--no-progress``).
        every: seconds between lines where there is no terminal.
        done: steps that an earlier run did; they tell nothing about the time left.
    """

    def __init__(self, total: int, title: str, *, enabled: bool, every: float = 20.0, done: int = 0) -> None:
        self.total, self.title, self.every = total, title, every
        self.enabled = enabled
        self.done = self._before = done
        self._started = self._shown = time.monotonic()
        terminal = enabled and sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, initial=done, desc=title, unit="step", file=sys.stderr, leave=False) if terminal else None
        )

    def advance(self, parts: Mapping[str, float], steps: int = 1) -> None:
        """Some steps are done; ``parts`` are shown beside the bar."""
        self.done += steps
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in parts.items()}, refresh=False)
            self._bar.update(steps)
        elif self.enabled and time.monotonic() - self._shown > self.every:
            self._shown = time.monotonic()
            left = (self._shown - self._started) / (self.done - self._before) * (self.total - self.done)
            shown = "".join(f", {name} {value:.3g}" for name, value in parts.items())
            logger.info("%s: step %d of %d%s, about %.0f s left", self.title, self.done, self.total, shown, left)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
