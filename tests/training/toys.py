"""A job small enough to be trained hundreds of times: vectors of four numbers, three classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Batch, Loader
from forgetmi.models.output import ModelOutput
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.trainer import FitResult, Trainer

TASK = ClassificationTask(3)
N = 11  # no multiple of a batch size: the last batch is smaller


class VectorModality:
    """Plain vectors; ``prepared`` counts the calls."""

    kind = "vector"

    def __init__(self) -> None:
        self.prepared = 0

    @property
    def default_noise(self) -> None:
        return None

    def prepare(self, value: Any) -> torch.Tensor:
        self.prepared += 1
        return torch.as_tensor(value, dtype=torch.float32)

    def perturb(self, read: Any, example: torch.Tensor, noise: Any, generator: torch.Generator) -> torch.Tensor:
        return example + torch.randn(example.shape, generator=generator)

    def blank(self) -> torch.Tensor:
        return torch.zeros(4)

    def collate(self, examples: Any) -> torch.Tensor:
        return torch.stack(list(examples))

    def to_config(self) -> dict[str, Any]:
        return {"kind": "vector"}


def vectors(n: int = N) -> RecordDataset:
    draw = np.random.default_rng(7)
    records = [
        Record(f"SAMPLE-{i:02d}", f"STUDY-{i:02d}", f"PATIENT-{i:02d}", "h", {"x": draw.normal(size=4)}, i % 3, "train")
        for i in range(n)
    ]
    return RecordDataset(records, name="vectors", levels=("patient", "sample"), modality_kinds={"x": "vector"})


def vector_loader(n: int = N) -> Loader:
    return Loader(vectors(n), {"x": VectorModality()})


class Net(nn.Module):
    """Two layers, with dropout and BatchNorm where asked for."""

    def __init__(self, dropout: float = 0.0, batchnorm: bool = False, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6) if batchnorm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.rows = 0
        self.modes: list[bool] = []
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.5)

    def forward(self, batch: Batch) -> ModelOutput:
        x = batch.inputs["x"]
        self.rows += len(x)
        self.modes.append(self.training)
        joint = torch.tanh(self.norm(self.first(x)))
        return ModelOutput(self.last(self.dropout(joint)), unimodal={"x": x[:, :2]}, joint=joint, present=batch.present)


def fit(
    options: FitOptions, *, model: nn.Module | None = None, trainer: Trainer | None = None, seed: int = 3, n: int = N,
    objective: Any = None, loader: Loader | None = None, **more: Any,
) -> tuple[nn.Module, FitResult]:  # fmt: skip
    model = Net() if model is None else model
    plan = ShuffledPlan(loader or vector_loader(n), range(n), batch_size=options.batch_size, seed=1)
    objective = objective or task_objective(TASK, "records")
    trainer = trainer or Trainer(device="cpu", progress=False)
    return model, trainer.fit(model, plan, objective, options, seed=seed, **more)


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
