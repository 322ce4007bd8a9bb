"""Batches, and the loader that makes them from records."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from forgetmi.errors import DataError, MethodError
from forgetmi.modalities.base import AnswersAnew, Inputs, Modality, resolve_noise
from forgetmi.records import Record, RecordDataset


@dataclass(frozen=True)
class Batch:
    """Records as tensors.

    Attributes:
        inputs: modality name to tensor(s) with leading dimension B.
        present: modality name to mask [B]; false rows of ``inputs`` are blanks that nothing may depend on.
        labels: [B] class indices, [B, L] with NaN where unknown (multilabel), or ``None``.
        indices: [B] positions in the dataset: the key of cached reference outputs. On the CPU.
        studies: [B] a number for each study, equal for records of one study. On the CPU.
        variants: what tells a changed record (another answer) from the one at its position; ``None`` where none is.
    """

    inputs: Mapping[str, Inputs]
    present: Mapping[str, Tensor]
    labels: Tensor | None
    indices: Tensor
    studies: Tensor | None = None
    variants: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return next(iter(self.present.values()), self.indices).device

    def rows(self, positions: Sequence[int]) -> Batch:
        """Some of its records, by their place in the batch."""
        chosen = torch.as_tensor(positions, dtype=torch.long)
        there = chosen.to(self.device)

        def pick(value: Inputs) -> Inputs:
            return {key: tensor[there] for key, tensor in value.items()} if isinstance(value, dict) else value[there]

        return Batch(
            inputs={name: pick(value) for name, value in self.inputs.items()},
            present={name: mask[there] for name, mask in self.present.items()},
            labels=None if self.labels is None else self.labels[there],
            indices=self.indices[chosen],
            studies=None if self.studies is None else self.studies[chosen],
            variants=None if self.variants is None else tuple(self.variants[i] for i in chosen.tolist()),
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device (``indices`` stay on the CPU)."""

        def move(value: Inputs) -> Inputs:
            if isinstance(value, dict):
                return {key: tensor.to(device, non_blocking=True) for key, tensor in value.items()}
            return value.to(device, non_blocking=True)

        return replace(
            self,
            inputs={name: move(value) for name, value in self.inputs.items()},
            present={name: mask.to(device, non_blocking=True) for name, mask in self.present.items()},
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
        )


class Loader:
    """Makes batches of a dataset's records. Clean examples are prepared once and kept, when ``cache`` is on.

    Args:
        dataset: the records.
        modalities: name to :class:`Modality`. A record without one of them gets a blank and a false mask.
        cache: keep prepared examples in memory. Right for data that fits; off for large images.
    """

    def __init__(self, dataset: RecordDataset, modalities: Mapping[str, Modality], *, cache: bool = True) -> None:
        self.dataset = dataset
        self.modalities = dict(modalities)
        self._cache: dict[tuple[int, str], Any] | None = {} if cache else None
        self._overrides: Mapping[int, Record] = {}
        numbers: dict[tuple[str, str], int] = {}
        self._study_numbers = [numbers.setdefault((r.patient_id, r.study_id), len(numbers)) for r in dataset]

    @property
    def keeps_examples(self) -> bool:
        """Whether a record is read once only."""
        return self._cache is not None

    def restricted_to(self, records: Mapping[int, Record]) -> Loader:
        """A loader that sees other versions of some records (say, with a modality removed)."""
        other = Loader(self.dataset, self.modalities, cache=self._cache is not None)
        other._overrides = {**self._overrides, **records}
        return other

    def record(self, index: int) -> Record:
        """The record at a position, as this loader sees it."""
        return self._overrides.get(index, self.dataset[index])

    def batch(self, indices: Sequence[int]) -> Batch:
        """The records as they are. [B] = number of indices, in their order.

        Raises:
            DataError: a value cannot be read; the message says which file.
        """
        return self._assemble(indices, {name: [self._clean(i, name) for i in indices] for name in self.modalities})

    def noisy_batch(self, indices: Sequence[int], noise: Mapping[str, Any] | None, *, seed: int, epoch: int) -> Batch:
        """The same records with noisy inputs, drawn afresh from ``(seed, epoch, sample)``: the number of workers,
        the batch size and the order change nothing.

        Args:
            indices: positions.
            noise: kind of modality to noise options; ``None``, or a kind that it does not name, means that
                modality's default.
            seed, epoch: what the draw depends on, with the sample's id.
        """
        columns: dict[str, list[Any]] = {}
        for name, modality in self.modalities.items():
            options = resolve_noise(modality, (noise or {}).get(modality.kind))
            columns[name] = []
            for index in indices:
                example = self._clean(index, name)
                if example is not None:
                    generator = sample_generator(seed, epoch, self.dataset[index].sample_id, name)
                    read = partial(self.record(index).value, name)
                    example = modality.perturb(read, example, options, generator)
                columns[name].append(example)
        return self._assemble(indices, columns)

    def answered(self, indices: Sequence[int], answers: Sequence[str]) -> Batch:
        """The records with other answers to their questions (a refusal, a template): one a record, in their order.

        Raises:
            DataError: a record has no question.
            MethodError: no modality knows questions.
        """
        columns: dict[str, list[Any]] = {}
        for name, modality in self.modalities.items():
            if not isinstance(modality, AnswersAnew):
                raise MethodError(
                    f"records of kind {modality.kind!r} cannot be given other answers",
                    fix="describe them by prompts and answers (kind: dialogue), or choose another method",
                )
            values = [self.record(index).value(name) for index in indices]
            columns[name] = [modality.answered(value, a) for value, a in zip(values, answers, strict=True)]
        return replace(self._assemble(indices, columns), variants=tuple(answers))

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """What ``batch(indices).labels`` would be, without reading any input."""
        return _label_tensor([self.record(i).label for i in indices])

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Clean batches in the order of the indices; the last one may be smaller."""
        for start in range(0, len(indices), batch_size):
            yield self.batch(indices[start : start + batch_size])

    def _clean(self, index: int, name: str) -> Any:
        """The prepared example, or ``None`` where the modality is missing."""
        key = (index, name)
        if self._cache is not None and key in self._cache:
            return self._cache[key]
        value = self.record(index).value(name)
        example = None if value is None else self.modalities[name].prepare(value)
        if self._cache is not None:
            self._cache[key] = example
        return example

    def _assemble(self, indices: Sequence[int], columns: Mapping[str, Sequence[Any]]) -> Batch:
        inputs: dict[str, Inputs] = {}
        present: dict[str, Tensor] = {}
        for name, examples in columns.items():
            modality = self.modalities[name]
            inputs[name] = modality.collate([modality.blank() if e is None else e for e in examples])
            present[name] = torch.tensor([e is not None for e in examples])
        studies = torch.tensor([self._study_numbers[i] for i in indices])
        return Batch(inputs, present, self.labels(indices), torch.as_tensor(list(indices)), studies)


def _label_tensor(labels: Sequence[Any]) -> Tensor | None:
    if all(label is None for label in labels):
        return None
    if all(isinstance(label, tuple) for label in labels):
        if len({len(label) for label in labels}) > 1:
            raise DataError("records of a batch have different numbers of labels", expected="one value a label")
        return torch.tensor([[float("nan") if v is None else float(v) for v in label] for label in labels])
    if all(isinstance(label, Integral) for label in labels):
        return torch.tensor([int(label) for label in labels])
    raise DataError(
        "some records of a batch have a label and others have none, or their labels are of different kinds",
        fix="give every record of the train, validation and test splits a label, or leave out those without",
    )


def sample_generator(seed: int, epoch: int, sample_id: str, stream: str = "") -> torch.Generator:
    """A generator that depends on ``(seed, epoch, sample, stream)`` and on nothing else."""
    generator = torch.Generator()
    generator.manual_seed(zlib.crc32(f"{seed}/{epoch}/{sample_id}/{stream}".encode()) + (seed << 33) % (2**62))
    return generator
