"""Tasks of the Language Model Evaluation Harness, put to one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from forgetmi.errors import ConfigError
from forgetmi.metrics.lm_harness import HarnessOptions, run_harness
from forgetmi.metrics.per_example import PerExample
from forgetmi.runs.benchmarks.base import Benchmark, Data, Findings, Score, alone, files_sha256
from forgetmi.runs.evaluation import Subject


@dataclass(frozen=True)
class HarnessBenchmark(Benchmark):
    """Tasks of the Language Model Evaluation Harness in one's own folder, see :mod:`forgetmi.metrics.lm_harness`.

    A task's file may name data anywhere, so a result is never given again: it is measured anew each time.

    Attributes:
        tasks: names of tasks, groups or tags in the folder.
        shots: examples before each question; ``None`` for each task's own number.
        limit: questions of each task, the first ones; all by default.
        add_bos: whether a text begins with the token for it; ``None``: as the tokenizer does.
        chat: ask through the tokenizer's chat template.
        forgotten: of ``tasks``, those about what is to be forgotten.
    """

    name: ClassVar[str] = "lm_eval"
    summary: ClassVar[str] = "tasks of the Language Model Evaluation Harness, from their YAML files (extra lm-eval)"
    reusable: ClassVar[bool] = False

    tasks: tuple[str, ...] = ()
    shots: int | None = None
    limit: int | None = None
    add_bos: bool | None = None
    chat: bool = False
    forgotten: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is wrong with the own options."""
        try:
            self._options()
        except ConfigError as error:
            return list(error.problems)
        return []

    def load(self, folder: Path) -> Data:
        """Nothing: the Harness reads for itself."""
        return {}

    def hashes(self, folder: Path) -> dict[str, str]:
        """Of every file of the folder."""
        return files_sha256(folder)

    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """Every task's metrics, and the means that the Harness makes of groups."""
        found = run_harness(subject.model, subject.modality.tokenizer, folder, self._options())
        metrics: dict[str, list[PerExample]] = {}
        for (task, _), example in found.examples.items():
            metrics.setdefault(task, []).append(example)
        scores: dict[str, Score] = {
            f"{task}/{name}": {"value": value, "shots": found.shots.get(task), "version": found.versions.get(task)}
            for task, values in found.values.items()
            for name, value in values.items()
        }
        return Findings({task: alone(made) for task, made in metrics.items()}, scores)

    def _options(self) -> HarnessOptions:
        return HarnessOptions(
            tasks=self.tasks, shots=self.shots, limit=self.limit, batch_size=self.batch_size,
            max_length=self.max_length, add_bos=self.add_bos, chat=self.chat, forgotten=self.forgotten, seed=self.seed,
        )  # fmt: skip
