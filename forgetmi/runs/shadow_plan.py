"""Which shadow models a run needs, where their scores are, and the task file of an array that makes them.

Shadow models do not depend on the unlearning method: runs of the same data, request, model, recipe and seed that name
one ``audit.shadow_folder`` share them.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forgetmi.config import load_config
from forgetmi.errors import AuditError
from forgetmi.files import write_json
from forgetmi.runs import stages
from forgetmi.runs.folder import fingerprint
from forgetmi.runs.prepare import Prepared, prepare
from forgetmi.training.shadows import DESIGN_VERSION, ShadowScores, score_file, shadow_design

TARGETS = ("forget", "test")
TASKS_SCHEMA = "forgetmi.shadow_tasks/1"
_VERSION = 1  # raised when a shadow comes to be trained, unlearned or scored differently with the same settings


@dataclass(frozen=True, repr=False)
class ShadowPlan:
    """Which shadow models a run needs, who is in which, and where their scores are.

    Attributes:
        prepared: the data and the request.
        run: the run's folder.
    """

    prepared: Prepared
    run: Path

    @property
    def count(self) -> int:
        """K."""
        return self.prepared.config.shadow.shadows

    @property
    def kinds(self) -> tuple[str, ...]:
        """``shadows`` and, where they are asked for, ``unlearned_shadows``."""
        return ("shadows", "unlearned_shadows") if self.prepared.config.shadow.unlearned_shadows else ("shadows",)

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """The target patients: those of the forget and the test records."""
        partition = self.prepared.partition
        return tuple(sorted(frozenset().union(*(partition.patients(part) for part in TARGETS))))

    @cached_property
    def design(self) -> NDArray[np.bool_]:
        """[K, patients]: who is in which."""
        return shadow_design(self.patients, self.count, self.prepared.config.run.seed)

    @cached_property
    def _column(self) -> dict[str, int]:
        return {patient: column for column, patient in enumerate(self.patients)}

    def seen(self, index: int, part: str) -> NDArray[np.bool_]:
        """[n]: whether a shadow is trained on each record of a part; nobody is on validation records."""
        dataset, indices = self.prepared.dataset, self.prepared.partition.indices(part)
        if part not in TARGETS:
            return np.zeros(len(indices), dtype=np.bool_)
        return self.design[index, [self._column[dataset[i].patient_id] for i in indices]]

    def inside(self, index: int) -> tuple[int, ...]:
        """Positions of the target records that a shadow is trained on."""
        pairs = ((part, self.prepared.partition.indices(part)) for part in TARGETS)
        return tuple(int(i) for part, indices in pairs for i in np.asarray(indices)[self.seen(index, part)])

    def mark(self, kind: str) -> str:
        """Hash of everything that the scores of a kind depend on; of ``shadows`` the method is no part.

        Nor is their number: of more shadows the first ones are the same, and are kept.
        """
        return self._marks[kind]

    @cached_property
    def _marks(self) -> dict[str, str]:
        prepared = self.prepared
        trained = fingerprint("shadows", _VERSION, DESIGN_VERSION, *stages.retrained_depends(prepared, 0))
        return {
            "shadows": trained,
            "unlearned_shadows": fingerprint("unlearned", trained, stages.settings_of(prepared)["unlearning"]),
        }

    def folder(self, kind: str) -> Path:
        """Where the scores of a kind are."""
        root = self.prepared.config.shadow.shadow_folder or self.run / "shadows"
        return root / f"{kind}-{self.mark(kind)[:16]}"

    def weights(self, index: int) -> Path:
        """Where a shadow's weights are, if they are kept."""
        return self.folder("shadows") / "weights" / f"shadow-{index:04d}"

    def done(self, index: int) -> bool:
        """Whether the scores of a shadow are there, of all kinds."""
        return all(score_file(self.folder(kind), index).is_file() for kind in self.kinds)

    def missing(self) -> list[int]:
        """Shadows whose scores are not there, or cannot be read."""
        return [
            index
            for index in range(self.count)
            if any(ShadowScores.read(self.folder(kind), index) is None for kind in self.kinds)
        ]

    @property
    def executor(self) -> str:
        """The executor's name; ``auto`` decided."""
        config = self.prepared.config
        named = config.shadow.executor
        return named if named != "auto" else "processes" if config.workers > 1 else "in_process"

    def sentence(self) -> str:
        """What would be made, for ``--dry-run``."""
        kinds = " and ".join(kind.replace("_", " ") for kind in self.kinds)
        return f"{kinds}: {self.count}, {self.count - len(self.missing())} of them kept, executor {self.executor}"


def made_with() -> dict[str, str]:
    """The versions that shadow models must share to be compared."""
    return {name: importlib.metadata.version(name) for name in ("forgetmi", "torch")}


def tasks_file(plan: ShadowPlan) -> Path:
    """The task file of an array: where the config is, which shadows are to be made, and hashes; no id, no setting."""
    return plan.run.resolve() / "slurm" / "shadows.json"


def write_tasks(plan: ShadowPlan, tasks: Sequence[int]) -> None:
    """Write the task file."""
    file = tasks_file(plan)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    marks = {kind: plan.mark(kind) for kind in plan.kinds}
    config = str(plan.run.resolve() / "config.yaml")
    document = {
        "schema": TASKS_SCHEMA,
        "config": config,
        "marks": marks,
        "made_with": made_with(),
        "tasks": list(tasks),
    }
    write_json(file, document)


def plan_of_tasks(file: Path) -> tuple[ShadowPlan, list[int]]:
    """The plan behind a task file, and its tasks.

    Raises:
        AuditError: the file cannot be read, or its config, data or code are no longer those that it was written for.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        config, marks, tasks, versions = (found[key] for key in ("config", "marks", "tasks", "made_with"))
        if found["schema"] != TASKS_SCHEMA:
            raise KeyError("schema")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuditError(
            "the task file cannot be read", where=str(file), fix="forgetmi shadows --executor slurm writes it again"
        ) from error
    run = Path(config).parent
    plan = ShadowPlan(prepare(load_config(config, [f"run.folder={json.dumps(str(run))}"])), run)
    if marks != {kind: plan.mark(kind) for kind in plan.kinds} or versions != made_with():
        raise AuditError(
            "settings, data or code have changed since the task file was written: these shadow models would not be "
            "those that it asks for",
            where=str(file),
            fix="forgetmi shadows --executor slurm writes it again",
        )
    return plan, tasks
