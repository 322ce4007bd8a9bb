"""Where numbered tasks are carried out: in this process, in several side by side, or as a Slurm array. One ``map``.

What a task makes is a file, written atomically, so that a task that is done already costs nothing, and a ``map`` that
was broken off is taken up by calling it again. Other processes are told settings, paths and seeds, never records.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from forgetmi.errors import ForgetMIError, MissingDependencyError, TrainingError
from forgetmi.files import write_text
from forgetmi.training.progress import Progress

logger = logging.getLogger("forgetmi")

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What ``torchrun`` and ``accelerate launch`` tell their processes of one another."""

SLURM_DEFAULTS: Mapping[str, str | int] = {"cpus-per-task": 4, "mem": "16G", "time": "04:00:00"}
"""Options of ``sbatch`` where nothing else is asked for."""

_SETUP = ("umask 077", 'export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"')


@dataclass(frozen=True)
class Work:
    """Tasks known by their numbers.

    Attributes:
        title: what they make, for messages: "shadow models".
        done: whether a task's file is there.
        here: carries out a task in this process.
        worker: ``"module:function"``: what another process calls with ``order`` to get what ``here`` is.
        order: what the other process is told. It goes through its standard input: not into a file, nor into arguments
            that others can list.
        command: words of a command that carries out a task when its number is added; for schedulers. It holds paths.
        together: carries out several tasks at once, where that can be done.
    """

    title: str
    done: Callable[[int], bool]
    here: Callable[[int], object]
    worker: str
    order: Any
    command: Sequence[str] = ()
    together: Callable[[Sequence[int]], object] | None = None


class Executor(Protocol):
    """Carries out tasks."""

    def map(self, work: Work, tasks: Sequence[int]) -> list[int]:
        """Carry out the tasks; those that are left to somebody else (a scheduler) are returned.

        Raises:
            TrainingError: a task failed; what others finished is kept.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One task after the other, in this process.

    Attributes:
        progress: show a bar or lines; off where tasks show their own.
    """

    progress: bool = False

    def map(self, work: Work, tasks: Sequence[int]) -> list[int]:
        """See :class:`Executor`."""
        bar = Progress(len(tasks), work.title, enabled=self.progress)
        try:
            for task in tasks:
                work.here(task)
                bar.advance({})
        finally:
            bar.close()
        return []


class Together:
    """All tasks at once, in this process: models that are stacked and trained as one."""

    def map(self, work: Work, tasks: Sequence[int]) -> list[int]:
        """See :class:`Executor`. Raises :class:`TrainingError` where this work cannot be done at once."""
        if work.together is None:
            raise TrainingError(f"{work.title} cannot be made all at once", fix="choose another executor")
        if tasks:
            work.together(tasks)
        return []


def available_cores() -> int:
    """Cores that this process may use: what the scheduler gave, not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class ProcessPool:
    """Processes side by side; each is made ready once (reads the data) and takes every ``workers``-th task.

    Attributes:
        workers: how many.
        threads: of each one's arithmetic; small models are slower with more. ``None``: the cores, shared out.
        progress: show a bar or lines.

    Where there are several GPUs, each process sees one, in turn.
    """

    workers: int
    threads: int | None = None
    progress: bool = True

    def map(self, work: Work, tasks: Sequence[int]) -> list[int]:
        """See :class:`Executor`."""
        workers = min(self.workers, len(tasks))
        if not workers:
            return []
        logger.info("%s: %d, %d at a time", work.title, len(tasks), workers)
        threads = self.threads or max(1, available_cores() // workers)
        # Each of them stands alone, also where this process was told that it is one of a launcher's.
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        environment["OMP_NUM_THREADS"] = str(threads)
        gpus = _gpus()
        processes: list[subprocess.Popen[bytes]] = []
        bar = Progress(len(tasks), work.title, enabled=self.progress)
        try:
            for k in range(workers):
                own = {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if len(gpus) > 1 else {}
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "forgetmi.training.executors"],
                    stdin=subprocess.PIPE,
                    env={**environment, **own},
                )
                processes.append(process)
                assert process.stdin is not None
                with process.stdin as pipe:
                    pipe.write(pickle.dumps((work.worker, work.order, list(tasks[k::workers]), threads)))
            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):
                    break  # the others' work would be in vain
                time.sleep(0.2)
                ready = sum(work.done(task) for task in tasks)
                if ready > bar.done:
                    bar.advance({}, ready - bar.done)
        finally:
            bar.close()
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            for process in processes:
                process.wait()
        if failed := [process.returncode for process in processes if process.returncode]:
            raise TrainingError(
                f"{len(failed)} of {workers} processes that make {work.title} failed (exit {failed[0]})",
                fix="what they said stands above; what was finished is kept. `audit.workers=1` uses no process",
            )
        return []


def _gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


@dataclass(frozen=True)
class SlurmArray:
    """An array of jobs, one a task: writes the script that ``sbatch`` takes, and submits it only if asked to.

    Attributes:
        folder: where the script and the jobs' logs stand; on storage that every node sees.
        name: of the array and its files.
        options: of ``sbatch``, by their long names: partition, account, time, ... They go over
            :data:`SLURM_DEFAULTS`.
        at_a_time: how many tasks may run at once.
        submit: hand it to the scheduler: by submitit where that is installed (``pip install 'forgetmi[slurm]'``), else
            by ``sbatch``.
    """

    folder: Path
    name: str
    options: Mapping[str, str | int] = field(default_factory=dict)
    at_a_time: int = 16
    submit: bool = False

    @property
    def script(self) -> Path:
        """The script's file."""
        return self.folder / f"{self.name}.sbatch"

    def map(self, work: Work, tasks: Sequence[int]) -> list[int]:
        """Write the script; all tasks are left to the scheduler. Raises :class:`TrainingError` if it takes none."""
        if tasks:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_text(self.script, self.text(work, tasks))
            if self.submit:
                self._submit(work, tasks)
        return list(tasks)

    def text(self, work: Work, tasks: Sequence[int]) -> str:
        """The script."""
        options: dict[str, str | int] = {
            "job-name": f"forgetmi-{self.name}",
            "array": f"{ranges(tasks)}%{self.at_a_time}",
            "nodes": 1,
            "ntasks": 1,
            **SLURM_DEFAULTS,
            **self.options,
            # %A and %a are the array's and the task's number, so a percent sign of the folder's own is doubled.
            "output": f"{self.folder}".replace("%", "%%") + f"/{self.name}-%A_%a.log",
        }
        return "\n".join(
            [
                "#!/bin/bash",
                f"# sbatch {shlex.quote(str(self.script))}",
                f"# {len(tasks)} {work.title}, a task each. A task that is done already ends at once: after a failure,",
                "# submit again. Adapt partition, time and memory to your cluster. No internet is needed; this folder",
                "# and the data must be on storage that every node sees.",
                *(f"#SBATCH --{key}={_quoted(value)}" for key, value in options.items()),
                "#SBATCH --requeue",
                "",
                "set -euo pipefail",
                *_SETUP,
                f'exec {shlex.join(work.command)} "$SLURM_ARRAY_TASK_ID"',
                "",
            ]
        )

    def _submit(self, work: Work, tasks: Sequence[int]) -> None:
        try:
            jobs = self._by_submitit(work, tasks)
        except MissingDependencyError:
            try:
                done = subprocess.run(["sbatch", str(self.script)], capture_output=True, text=True, check=True)  # noqa: S603, S607
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                raise TrainingError(
                    f"sbatch did not take the script: {said.strip()}",
                    where=str(self.script),
                    fix="submit it where Slurm is, or make the models here with another executor",
                ) from error
            jobs = done.stdout.strip()
        logger.info("%s: handed to the scheduler, %s", work.title, jobs)

    def _by_submitit(self, work: Work, tasks: Sequence[int], cluster: str | None = "slurm") -> str:
        """Submit through submitit, which queues preempted tasks again. Its pickles hold the command and numbers."""
        try:
            import submitit
        except ImportError as error:
            raise MissingDependencyError("submitting by submitit", "slurm") from error
        try:
            executor = submitit.AutoExecutor(folder=self.folder / "submitit", cluster=cluster)
            executor.update_parameters(
                name=f"forgetmi-{self.name}",
                slurm_array_parallelism=self.at_a_time,
                slurm_setup=list(_SETUP),
                slurm_additional_parameters={**SLURM_DEFAULTS, **self.options},
            )
            jobs = executor.map_array(submitit.helpers.CommandFunction(list(work.command)), [str(i) for i in tasks])
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            raise TrainingError(
                f"submitit could not submit: {error}",
                where=str(self.script),
                fix="submit the script where Slurm is, or make the models here with another executor",
            ) from error
        return f"job {jobs[0].job_id.partition('_')[0]}"


def check_slurm_options(options: Mapping[str, str | int]) -> list[str]:
    """What is wrong with options for ``sbatch``: they stand in a script."""
    problems = []
    for key, value in options.items():
        if not key.replace("-", "").isalnum() or key != key.lower() or key in ("array", "output"):
            problems.append(f"slurm: {key!r} is no long option of sbatch that may be set here")
        if any(ord(letter) < 32 or letter == '"' for letter in str(value)):
            problems.append(f"slurm.{key}: line breaks and quotation marks are not allowed in {str(value)!r}")
    return problems


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as Slurm writes them.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _quoted(value: str | int) -> str:
    text = str(value)
    return f'"{text}"' if any(letter in text for letter in " #;'") else text


def _main() -> None:
    """What a process of a pool does: read its order from the standard input and carry it out."""
    import torch

    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that half-written files are removed
    worker, order, tasks, threads = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own parent
    torch.set_num_threads(threads)
    module, _, function = worker.partition(":")
    try:
        carry_out = getattr(importlib.import_module(module), function)(order)
        for task in tasks:
            carry_out(task)
    except KeyboardInterrupt:
        sys.exit(130)  # the parent was interrupted too, and says so
    except ForgetMIError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _main()
