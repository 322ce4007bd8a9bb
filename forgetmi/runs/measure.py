"""What a stage costs: wall time, and the highest memory use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Filled in when the block of :func:`measured` ends.

    Attributes:
        seconds: wall time.
        peak_memory_mb: on a GPU, the most that torch had allocated there; on a CPU, the process's largest resident
            set since the block began. ``None`` where the system does not tell.
    """

    seconds: float = 0.0
    peak_memory_mb: float | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure a block."""
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _RESET.write_text("5")  # Linux: the peak starts again from what is in use now
    started = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        cost.peak_memory_mb = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    else:
        cost.peak_memory_mb = _resident_peak()
    cost.seconds = round(time.perf_counter() - started, 3)


def _resident_peak() -> float | None:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None
