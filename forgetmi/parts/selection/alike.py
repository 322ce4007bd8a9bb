"""Batches without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from forgetmi.batch import Batch, Loader
from forgetmi.modalities.base import Inputs


def alike_batches(loader: Loader, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Every record once, in batches of records whose inputs have the same shapes: nothing is padded for another's sake.

    For statistics of what happens inside a model, where the padding's positions would count like any other.
    """
    waiting: dict[object, list[Batch]] = {}
    for index in indices:
        batch = loader.batch([index])
        shapes = tuple(tuple(tensor.shape) for value in batch.inputs.values() for tensor in _tensors(value))
        group = waiting.setdefault(shapes, [])
        group.append(batch)
        if len(group) == batch_size:
            yield _joined(waiting.pop(shapes))
    for group in waiting.values():
        yield _joined(group)


def _tensors(value: Inputs) -> list[Tensor]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _joined(batches: Sequence[Batch]) -> Batch:
    def join(values: Sequence[Inputs]) -> Inputs:
        first = values[0]
        if isinstance(first, dict):
            return {key: torch.cat([value[key] for value in values]) for key in first}  # type: ignore[index]
        return torch.cat(values)  # type: ignore[arg-type]

    first = batches[0]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    studies = [batch.studies for batch in batches if batch.studies is not None]
    return Batch(
        inputs={name: join([batch.inputs[name] for batch in batches]) for name in first.inputs},
        present={name: torch.cat([batch.present[name] for batch in batches]) for name in first.present},
        labels=torch.cat(labels) if len(labels) == len(batches) else None,
        indices=torch.cat([batch.indices for batch in batches]),
        studies=torch.cat(studies) if len(studies) == len(batches) else None,
    )
