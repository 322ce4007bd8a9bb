"""One side of one case, in this process: seconds on the clock, seconds of the processor, extra memory, the outcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

from membership_bench.cases import CASES, Call
from membership_bench.peers import PEERS

REPEATS, SECONDS = 7, 4.0  # the best of so many calls, or of those that fit into so long
LIMIT = 300  # a side that takes longer is given up


def measure(case_name: str, side: str, folder: Path | None, divisor: int, memory: bool) -> dict[str, Any]:
    """Measure here. ``side``: ``ours`` or a peer's name; ``memory``: the peak instead of the time.

    Memory is what the call itself allocated through Python and numpy at most at one time, its result included; arrays
    that it is given are not counted.
    """
    case = CASES[case_name]
    arrays = case.arrays(case_name, divisor)
    call: Call
    if side == "ours":
        call = case.ours(arrays)
    else:
        assert folder is not None
        call = next(peer for peer in PEERS if peer.name == side).calls[case_name](folder, arrays)
    if memory:
        call()  # imports and caches of the first call are not its working memory
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return {"mib": (tracemalloc.get_traced_memory()[1] - before) / 2**20}
    clock: list[float] = []
    processor: list[float] = []
    spent = 0.0
    result = None
    while len(clock) < REPEATS and spent < SECONDS:
        start, start_cpu = time.perf_counter(), time.process_time()
        result = call()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
        spent += clock[-1]
    return {"seconds": min(clock), "processor_s": min(processor), "outcome": case.outcome(result, arrays)}


def in_process(script: Path, case: str, side: str, folder: Path | None, divisor: int, memory: bool) -> dict[str, Any]:
    """:func:`measure` in a process of its own; ``{"failed": why}`` where it fails."""
    command = [sys.executable, str(script), "--measure", case, "--side", side, "--divisor", str(divisor)]
    command += ["--peer", str(folder)] if folder else []
    command += ["--memory"] if memory else []
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {LIMIT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit status {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
