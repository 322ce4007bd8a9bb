"""A whole run: from a configuration to a report."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from forgetmi.config import Config, load_config
from forgetmi.errors import ConfigError
from forgetmi.pseudonyms import patient_hasher
from forgetmi.runs import stages
from forgetmi.runs.check import read_values, refuse_own_places
from forgetmi.runs.documents import note_start
from forgetmi.runs.folder import RunFolder, fingerprint
from forgetmi.runs.lock import locked
from forgetmi.runs.prepare import Prepared, prepare, site_key
from forgetmi.runs.redact import resolved
from forgetmi.runs.shadows import check_shadows, make_shadows
from forgetmi.training.runlog import RunLog

logger = logging.getLogger("forgetmi")

STAGES = ("original", "unlearned", "retrained", "shadows", "audit")


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: where everything is.
        report: the report's path; ``None`` when the run stopped before the audit.
        evidence: ``evidence.json``; empty then.
    """

    folder: Path
    report: Path | None
    evidence: Mapping[str, Any]

    @property
    def decision(self) -> str | None:
        """The verdict: ``pass``, ``fail`` or ``inconclusive``."""
        decision: str | None = self.evidence["verdict"]["decision"] if self.evidence else None
        return decision


def run(
    config: Config | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    until: str = "audit",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    audit_again: bool = False,
    submit: bool = False,
) -> RunResult:
    """Train the original, make it forget, retrain, audit, report; what is done already is kept.

    Args:
        config: a YAML file, a mapping, or what :func:`forgetmi.load_config` returned.
        overrides: ``"training.lr=1e-4"``; not with a :class:`Config`.
        until: the last stage: ``original``, ``unlearned``, ``retrained`` or ``audit`` (with the report); or
            ``shadows``: only shadow models, which need none of the others.
        resume: take up a run whose settings have changed since (what depends on them is made again), and go on from
            checkpoints.
        overwrite: begin anew.
        progress: show bars or lines.
        audit_again: audit although it was done.
        submit: with ``until="shadows"`` and ``audit.executor: slurm``, hand the array to the scheduler.

    Raises:
        ForgetMIError: of the kind that says what is wrong: the config, the data, the request, training, the audit.
    """
    _refuse_launcher()
    checked = config if isinstance(config, Config) else load_config(config, overrides)
    refuse_own_places(checked)
    with _threads(checked.run.threads):
        settings = resolved(checked, patient_hasher(site_key(checked)))
        RunFolder.check(checked.run.folder, settings, resume=resume, overwrite=overwrite)
        prepared = prepare(checked)  # bad input leaves no folder behind
        there = RunFolder(checked.run.folder)
        stages.check_method(prepared, there)
        if until == "audit":
            stages.check_audit(prepared)
        check_shadows(prepared, there.path)
        if overwrite or not there.is_done("original", fingerprint(*stages.original_depends(prepared))):
            read_values(prepared, progress=progress)
        with _owner_only(), locked(checked.run.folder):
            before = {} if overwrite else there.settings()
            folder = RunFolder.open(checked.run.folder, settings, resume=resume, overwrite=overwrite, progress=progress)
            with logged_to(folder.log):
                note_start(folder, checked, before, settings)
                logger.info("%s", first_line(prepared))
                return _stages(prepared, folder, until, audit_again, submit)


def _refuse_launcher() -> None:
    """A run is one process: several would write the same models and markers at the same time."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.strip() not in ("", "0", "1"):
        raise ConfigError(
            [f"a run was started {processes} times over, by torchrun or accelerate launch, for one run folder"],
            where="WORLD_SIZE in the environment",
            fix="start it once, without a launcher. audit.workers makes retrained models side by side; a single fit "
            "runs on several devices through forgetmi.training.trainer.Trainer, from Python under torchrun",
        )


def first_line(prepared: Prepared) -> str:
    """Device, precision and who is to be forgotten, in numbers."""
    run = prepared.config.run
    device = run.device if run.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    counts = prepared.partition.counts()
    sizes = "; ".join(
        f"{part} {n['patients']} patients, {n['studies']} studies, {n['samples']} samples" for part, n in counts.items()
    )
    return f"{prepared.dataset.name} on {device}, {run.precision}, seed {run.seed}. {sizes}"


def _stages(prepared: Prepared, folder: RunFolder, until: str, audit_again: bool, submit: bool) -> RunResult:
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("original", lambda: stages.train_original(prepared, folder)),
        ("unlearned", lambda: stages.unlearn(prepared, folder)),
        ("retrained", lambda: stages.retrain_all(prepared, folder)),
    ]
    if until == "shadows":
        make_shadows(prepared, folder, submit=submit)
        return RunResult(folder.path, None, {})
    for name, step in steps:
        step()
        if name == until:
            return RunResult(folder.path, None, {})
    if prepared.config.shadow.shadows:
        make_shadows(prepared, folder)
    evidence = stages.audit(prepared, folder, again=audit_again)
    return RunResult(folder.path, stages.report(folder.path), evidence)


class _ToRunLog(logging.Handler):
    """The package's messages as events of the run's log."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.INFO)
        self.run_log = log

    def emit(self, record: logging.LogRecord) -> None:
        self.run_log.event("message", level=record.levelname.lower(), text=record.getMessage())


@contextlib.contextmanager
def logged_to(log: RunLog) -> Iterator[None]:
    """The package's messages go into the run's log too, for the length of the block."""
    handler, level = _ToRunLog(log), logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _owner_only() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
