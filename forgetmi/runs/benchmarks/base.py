"""What a benchmark is: options, the data that it reads, and what it finds of one model."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from forgetmi.errors import AuditError
from forgetmi.files import sha256_file
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Ints
from forgetmi.models.causal_lm import Dtype
from forgetmi.records import RecordDataset
from forgetmi.runs.evaluation import Subject, check_intervals, refuse
from forgetmi.training.seeds import numpy_generator

Score = Mapping[str, Any]
Data = Mapping[str, RecordDataset]


@dataclass(frozen=True)
class Part:
    """Metrics of a set's N records.

    Attributes:
        patients: of each record [N], as integers: what an interval resamples.
        metrics: N values each.
    """

    patients: Ints
    metrics: tuple[PerExample, ...]


@dataclass(frozen=True)
class Findings:
    """What a benchmark finds of one model.

    Attributes:
        parts: set to its metrics.
        scores: name to what is no mean over records: ``value``, which is ``None`` with a ``reason``, and whatever else
            there is to say.
        raw: the benchmark's own result, to be compared with another model's.
    """

    parts: Mapping[str, Part]
    scores: Mapping[str, Score] = field(default_factory=dict)
    raw: Any = None

    def means(self) -> dict[str, float]:
        """Metric to its mean over the records that have a value."""
        every = [metric for part in self.parts.values() for metric in part.metrics if metric.known.any()]
        return {metric.name: float(metric.values[metric.known].mean()) for metric in every}


@dataclass(frozen=True)
class Benchmark(ABC):
    """Options that every benchmark has.

    Attributes:
        format: what stands around a prompt, ``{prompt}`` in it; ``None``: the tokenizer's chat template, or
            "Question: ... Answer: " where it has none.
        max_length: longer texts are cut; with ``None``, they are an error.
        dtype: of the weights.
        batch_size: speed and memory only.
        n_bootstrap, level: of the intervals.
        seed: of resamples, samples and the destroyed copy.

    Raises:
        ConfigError: all that is wrong.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    reusable: ClassVar[bool] = True
    """Whether all that a result depends on is in its key, so that a kept result may be given again."""

    format: str | None = None
    max_length: int | None = None
    dtype: Dtype = "float32"
    batch_size: int = 32
    n_bootstrap: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        problems = check_intervals(self.n_bootstrap, self.level, self.seed)
        if self.batch_size < 1:
            problems.append(f"batch_size must be at least 1, not {self.batch_size}")
        refuse([*problems, *self.problems()])

    def problems(self) -> list[str]:
        """What is wrong with the benchmark's own options."""
        return []

    @property
    def of_one_model(self) -> tuple[str, ...]:
        """Options whose values hold for one model only."""
        return ()

    @abstractmethod
    def load(self, folder: Path) -> Data:
        """What is read, by name.

        Raises:
            DataError: a set is missing or malformed.
        """

    @abstractmethod
    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """What it finds of a model, which stands on its device."""

    def for_others(self) -> Benchmark:
        """The same without what holds for one model only."""
        return self

    def hashes(self, folder: Path) -> dict[str, str]:
        """Of what a result depends on beside :meth:`load`'s records: file to hash."""
        return {}

    def against(self, ours: Findings, theirs: Findings | None) -> dict[str, Score]:
        """Scores that compare with a retrained model; without one, each says so."""
        return {}

    def texts(self, data: Data) -> tuple[str, list[Any]]:
        """What they are, and texts that a model must find likely which is not destroyed: none that are to be forgotten
        if there are others.
        """
        return "texts", []

    def generator(self, *names: object) -> np.random.Generator:
        """For resamples: the same for every model."""
        return numpy_generator(self.seed, self.name, *names)

    @property
    def intervals(self) -> dict[str, Any]:
        """Settings of intervals."""
        return {"n_resamples": self.n_bootstrap, "level": self.level}


NO_REFERENCE = "no retrained model was given (--reference), and there is no default for one"


def compared(make: Callable[[], Score]) -> Score:
    """A score, or why there is none."""
    try:
        return make()
    except AuditError as error:
        return absent(error.public)


def absent(reason: str) -> Score:
    """A score that cannot be had."""
    return {"value": None, "reason": reason}


def alone(metrics: Sequence[PerExample]) -> Part:
    """A part whose records stand alone."""
    return Part(np.arange(len(metrics[0].values)), tuple(metrics))


def values_of(dataset: RecordDataset, modality: str = "dialogue", **said: str) -> list[Any]:
    """Values of the records with these attributes, in their order."""
    return [r.value(modality) for r in dataset if all(r.attributes.get(key) == value for key, value in said.items())]


def records_sha256(dataset: RecordDataset) -> str:
    """Hash of all that a benchmark reads of a data set's records, whatever files they came from."""
    digest = hashlib.sha256()
    for r in dataset:
        values = {name: r.value(name) for name in sorted(r.modalities)}
        row = [r.sample_id, r.patient_id, r.split, r.label, dict(r.attributes), values]
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def files_sha256(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
