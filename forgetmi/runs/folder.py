"""The folder of a run: what stands where, which stages are done, and when it may be written to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from forgetmi.errors import ConfigError, ForgetMIError
from forgetmi.files import write_json, write_text
from forgetmi.runs.redact import result_settings
from forgetmi.training.runlog import RunLog

logger = logging.getLogger("forgetmi")

_HEADER = """\
# Every setting of this run, defaults too, written by forgetmi. Ids of the request stand here as keyed hashes, from
# which the site's key finds them again: this file can be given as --config.
"""
_DOCUMENTS = (
    "run.json",
    "evidence.json",
    "evidence_arrays.npz",
    "patients_restricted.csv",
    "report.html",
    "report.pdf",
    "model_card.md",
)
_OURS = ("config.yaml", "log.jsonl", *_DOCUMENTS)
_OUR_FOLDERS = ("models", "checkpoints", "stages", "shadows", "slurm")


@dataclass(frozen=True)
class Done:
    """What is known of a finished stage.

    Attributes:
        fingerprint: what it depended on.
        seconds, peak_memory_mb: what it cost.
        facts: JSON-able, say the hash of the weights that it wrote.
    """

    fingerprint: str
    seconds: float
    peak_memory_mb: float | None
    facts: Mapping[str, Any]


def timed(done: Done) -> float | None:
    """Seconds that a stage took, or ``None`` where they are not those of the whole work: given, or resumed."""
    return done.seconds if done.facts.get("made_here", True) and done.facts.get("whole", True) else None


class RunFolder:
    """``run.json``, ``evidence.json``, ``report.html``, ``model_card.md``, ``config.yaml``, ``log.jsonl``,
    ``models/{original,unlearned,retrained-0,...}``, ``checkpoints/`` while a stage runs, and ``stages/``, one marker a
    finished stage. Everything is readable by its owner only.

    Args:
        path: the folder; :meth:`open` makes it.
        resume: unfinished stages go on from their checkpoints.
        progress: show bars or lines.
    """

    def __init__(self, path: Path, *, resume: bool = False, progress: bool = True) -> None:
        self.path, self.resume, self.progress = path, resume, progress
        self.log = RunLog(path / "log.jsonl" if path.is_dir() else None)

    @classmethod
    def open(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: bool = True,
    ) -> RunFolder:
        """Make the folder, or take up the run that it holds; see :meth:`check`.

        Documents of other settings go at once: what is broken off from here on leaves none that says what is not so.

        Args:
            path: the folder.
            settings: from :func:`forgetmi.runs.redact.resolved`.
            resume, overwrite: see :meth:`check`.
            progress: show bars or lines.

        Raises:
            ConfigError: as :meth:`check` says.
            ForgetMIError: it cannot be written.
        """
        cls.check(path, settings, resume=resume, overwrite=overwrite)
        config = path / "config.yaml"
        if config.is_file() and overwrite:
            _remove_run(path)
        elif config.is_file() and _changes(result_settings(_read(config)), result_settings(settings)):
            _remove_documents(path)
        make_folder(path)
        write_text(config, _HEADER + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
        return cls(path, resume=resume, progress=progress)

    @staticmethod
    def check(path: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that is not free for this run.

        A run of the same settings may be taken up: its finished stages are kept. A run of other settings is refused,
        unless it is to be resumed (stages that depend on what changed are made again) or overwritten (all of it goes).

        Raises:
            ConfigError: the folder holds another run, or something that is no run.
        """
        config = path / "config.yaml"
        if path.exists() and not config.is_file() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(
                ["run.folder: it is not empty and holds no run"],
                where=str(path),
                fix="choose another folder: nothing of others' is written over",
            )
        if config.is_file() and not resume and not overwrite:
            changed = _changes(result_settings(_read(config)), result_settings(settings))
            if changed:
                raise ConfigError(
                    [f"run.folder: it holds a run with other settings: {', '.join(changed[:8])}"],
                    where=str(path),
                    fix="choose another run.folder, or add --resume (redo what depends on them) or --overwrite",
                )

    def settings(self) -> dict[str, Any]:
        """What was resolved when the run was last started; empty where there is no run.

        Raises:
            ConfigError: it cannot be read.
        """
        config = self.path / "config.yaml"
        return _read(config) if config.is_file() else {}

    def model(self, name: str) -> Path:
        """The folder of a model: ``original``, ``unlearned``, ``retrained-0`` and so on."""
        return self.path / "models" / name

    def done(self, stage: str) -> Done | None:
        """What is known of a stage; ``None`` where it is not finished."""
        try:
            return Done(**json.loads((self.path / "stages" / f"{stage}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # a marker that cannot be read is no marker: the stage is made again

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Whether a stage is finished and depended on the same."""
        found = self.done(stage)
        return found is not None and found.fingerprint == fingerprint

    def finish(self, stage: str, done: Done) -> None:
        """Mark a stage as finished; its checkpoints go."""
        (self.path / "stages").mkdir(mode=0o700, exist_ok=True)
        write_json(self.path / "stages" / f"{stage}.json", vars(done))
        shutil.rmtree(self.path / "checkpoints" / stage, ignore_errors=True)
        _remove_empty(self.path / "checkpoints")
        self.log.event("stage_finished", stage=stage, seconds=done.seconds, peak_memory_mb=done.peak_memory_mb)

    def checkpoints(self, stage: str, fingerprint: str) -> Path:
        """A folder for a stage's checkpoints; those of the same stage with other settings are removed.

        The run's documents are removed too: they speak of the model that is about to be made again.
        """
        _remove_documents(self.path)
        folder = self.path / "checkpoints" / stage
        marker = folder / "fingerprint"
        if not (self.resume and marker.is_file() and marker.read_text(encoding="utf-8") == fingerprint):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            write_text(marker, fingerprint)
        return folder


def make_folder(path: Path) -> None:
    """The folder, which only its owner may look into.

    Raises:
        ForgetMIError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ForgetMIError(
            f"the run folder cannot be made: {error.strerror}", where=str(path), fix="choose another run.folder"
        ) from error


def fingerprint(*parts: Any) -> str:
    """A hash of JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _read(config: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            [f"the run's own {config.name} cannot be read"], where=str(config), fix="add --overwrite to begin anew"
        ) from error
    return found if isinstance(found, dict) else {}


def _changes(old: Any, new: Any, key: str = "") -> list[str]:
    """Dotted keys in which two settings differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            change
            for name in sorted({*old, *new})
            for change in _changes(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if old == new else [key]


def _remove_run(path: Path) -> None:
    """What a run writes, and nothing else that may lie there."""
    for name in _OURS:
        (path / name).unlink(missing_ok=True)
    for name in _OUR_FOLDERS:
        shutil.rmtree(path / name, ignore_errors=True)


def _remove_documents(path: Path) -> None:
    for name in _DOCUMENTS:
        (path / name).unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process may have been faster
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
