"""Plans: which records each step of each epoch sees. Drawn on the host from ``(seed, epoch)`` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from forgetmi.batch import Batch, Loader
from forgetmi.training.seeds import numpy_generator

Step = Mapping[str, tuple[int, ...]]
"""One step: stream name ("records", "forget", "retain") to positions in the dataset."""


class Plan(Protocol):
    """The steps of a fit."""

    def steps(self, epoch: int) -> list[Step]:
        """The epoch's steps, the same whenever asked."""
        ...

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The step's batches; may run in a worker process."""
        ...


class ShuffledPlan:
    """One stream of shuffled records.

    Args:
        loader: makes the batches.
        indices: positions to visit once an epoch.
        batch_size: records a step; the last step may be smaller.
        seed: the order depends on it and on the epoch.
        stream: the stream's name.
    """

    def __init__(
        self, loader: Loader, indices: Sequence[int], *, batch_size: int, seed: int, stream: str = "records"
    ) -> None:
        self.loader, self.indices, self.batch_size, self.seed, self.stream = loader, indices, batch_size, seed, stream

    def steps(self, epoch: int) -> list[Step]:
        """Every record once, in an order drawn from ``(seed, epoch)``."""
        order = numpy_generator(self.seed, "order", epoch).permutation(np.asarray(self.indices)).tolist()
        return [{self.stream: tuple(order[i : i + self.batch_size])} for i in range(0, len(order), self.batch_size)]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """Clean batches."""
        return {stream: self.loader.batch(indices) for stream, indices in step.items()}


def split_step(step: Step, pieces: int) -> list[tuple[Step, float]]:
    """A step in equal pieces, each with its weight in the step's mean (they sum to 1).

    A stream that is shorter than the number of pieces lends its first record to the pieces that would have none;
    these pieces weigh nothing, so that every process makes the same number of passes. Exact where the streams have
    equal lengths; else a piece weighs as its share of the first stream.
    """
    if pieces == 1:
        return [(step, 1.0)]
    parts = {stream: np.array_split(np.asarray(indices), pieces) for stream, indices in step.items()}
    first = next(iter(step))
    found: list[tuple[Step, float]] = []
    for k in range(pieces):
        sizes = {stream: len(parts[stream][k]) for stream in step}
        weight = sizes[first] / len(step[first]) if all(sizes.values()) else 0.0
        chosen = {stream: tuple(parts[stream][k].tolist()) or step[stream][:1] for stream in step}
        found.append((chosen, weight))
    total = sum(weight for _, weight in found)
    return [(piece, weight / total) for piece, weight in found]


class Pieces(Dataset[tuple[dict[str, Batch], float]]):
    """An epoch's pieces for one process, in order; loading may happen in workers."""

    def __init__(self, plan: Plan, pieces: list[tuple[Step, float]], epoch: int) -> None:
        self.plan, self.pieces, self.epoch = plan, pieces, epoch

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> tuple[dict[str, Batch], float]:
        step, weight = self.pieces[index]
        return self.plan.load(step, self.epoch), weight
