"""Retrained models side by side, each process with few threads: small models are slower with more."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from forgetmi.config import Config
from forgetmi.errors import TrainingError
from forgetmi.runs.folder import RunFolder, private_files
from forgetmi.training.progress import Progress

logger = logging.getLogger("forgetmi")

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What ``torchrun`` and ``accelerate launch`` tell their processes of one another."""


def retrain_in_processes(config: Config, folder: RunFolder, indices: Sequence[int], workers: int) -> None:
    """Make retrained models in ``workers`` processes; each prepares the data once and takes every ``workers``-th model.

    What the processes are told (the request's ids are in it) goes through their standard input: not into a file, nor
    into arguments that others can list.

    Raises:
        TrainingError: a process failed; what it said stands above.
    """
    logger.info("retrained: %d models, %d at a time", len(indices), workers)
    threads = config.run.threads or max(1, (os.cpu_count() or 1) // workers)
    # Each of them stands alone, also where this process was told that it is one of a launcher's.
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment["OMP_NUM_THREADS"] = str(threads)
    before = {index: folder.done(f"retrained-{index}") for index in indices}
    processes: list[subprocess.Popen[bytes]] = []
    bar = Progress(len(indices), "retrained models", enabled=folder.progress)
    try:
        for k in range(workers):
            order = (config, folder.path, folder.resume, list(indices[k::workers]), threads, workers)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "forgetmi.runs.worker"], stdin=subprocess.PIPE, env=environment
            )
            processes.append(process)
            assert process.stdin is not None
            with process.stdin as pipe:
                pipe.write(pickle.dumps(order))
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break  # the others' work would be in vain
            time.sleep(0.2)
            ready = sum(folder.done(f"retrained-{index}") != before[index] for index in indices)
            if ready > bar.done:
                bar.advance({}, ready - bar.done)
    finally:
        bar.close()
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()
    failed = [process.returncode for process in processes if process.returncode]
    if failed:
        raise TrainingError(
            f"{len(failed)} of {workers} processes that make retrained models failed (exit {failed[0]})",
            fix="what they said stands above; models that were finished are kept. `audit.workers=1` uses no process",
        )


def _main() -> None:
    """What a process does: read its order from the standard input and carry it out."""
    import torch

    from forgetmi.errors import ForgetMIError
    from forgetmi.runs.prepare import prepare
    from forgetmi.runs.stages import retrain_one

    private_files()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that half-written files are removed
    config, path, resume, indices, threads, workers = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own parent
    torch.set_num_threads(threads)
    try:
        prepared = prepare(config)
        folder = RunFolder(path, resume=resume, progress=False)
        for index in indices:
            retrain_one(prepared, folder, index, at_a_time=workers)
    except KeyboardInterrupt:
        sys.exit(130)  # the parent was interrupted too, and says so
    except ForgetMIError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _main()
