"""The run's log: one JSON object a line, in a file; nothing that names a patient."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class RunLog:
    """Appends events to a JSONL file and keeps them in memory.

    Args:
        path: the file, created with mode 0600; ``None`` keeps events in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)

    def event(self, kind: str, /, **fields: Any) -> None:
        """Record that something happened. Values must be JSON-able; tensors and ids do not belong here."""
        entry = {"time": round(time.time(), 3), "event": kind, **fields}
        self.events.append(entry)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, allow_nan=False, default=str) + "\n")
