"""Noise against a class, then repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.selection.classes import forgotten_classes
from forgetmi.parts.selection.learned_noise import LearnedNoise, OneStepPlan, WithNoisePlan
from forgetmi.training.losses import Loss, Objective
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import Plan, ShuffledPlan
from forgetmi.training.seeds import numpy_generator, torch_generator

_NOISE = FitOptions(epochs=5, lr=0.1, optimizer="adam", weight_decay=0.0, clip_norm=None)
_IMPAIR = FitOptions(epochs=1, lr=0.02, optimizer="adam", weight_decay=0.0, mode="frozen_batchnorm")
_REPAIR = FitOptions(epochs=1, lr=0.01, optimizer="adam", weight_decay=0.0, mode="frozen_batchnorm")


@dataclass(frozen=True)
class UNSIR:
    """UNSIR (Tarun et al., TNNLS 2023, arXiv 2111.08947), for requests that name whole classes only.

        noise:   min over N of  -L(N, c; theta_0) + .1 mean ||N||^2     inputs that theta_0 finds hardest to call c
        impair:  min over theta of L on the noise, labelled c, and a retain subset together
        repair:  min over theta of L on the retain subset

    The forget records themselves are in no batch. A request that leaves retain records of a forgotten class is refused:
    impairing the class would impair them.

    Our reading: continuous inputs are learned, the others are missing in the noise records; noise and retain records
    stand beside each other in each step; BatchNorm statistics are frozen.

    Attributes:
        noise_records: for each class, >= 1. Published: 256.
        noise_steps: a noise epoch, >= 1. Published: 8.
        penalty: the factor .1, >= 0.
        retain_records: size of the retain subset, >= 1. Published: 1000 a class.
        noise_fit, impair, repair: the three fits. Published: Adam .1, 5 epochs; .02, 1 epoch; .01, 1 epoch.
    """

    noise_records: int = 256
    noise_steps: int = 8
    penalty: float = 0.1
    retain_records: int = 1000
    noise_fit: FitOptions = field(default_factory=lambda: _NOISE)
    impair: FitOptions = field(default_factory=lambda: _IMPAIR)
    repair: FitOptions = field(default_factory=lambda: _REPAIR)

    name: ClassVar[str] = "unsir"
    paper: ClassVar[str] = "UNSIR (Tarun et al. 2023, arXiv 2111.08947)"
    needs: ClassVar[Needs] = Needs(forget=False, tasks=("classification",))

    def __post_init__(self) -> None:
        checks = {
            "noise_records must be >= 1": self.noise_records >= 1,
            "noise_steps must be >= 1": self.noise_steps >= 1,
            "penalty must be >= 0": self.penalty >= 0,
            "retain_records must be >= 1": self.retain_records >= 1,
        }
        problems = unmet(checks)
        for name in ("noise_fit", "impair", "repair"):
            problems += [f"{name}: {problem}" for problem in without_validation(getattr(self, name))]
        if problems:
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The repaired model."""
        check_job(self, job)
        classes = forgotten_classes(job.loader, job.partition.forget, job.partition.retain, method=self.name)
        drawn = numpy_generator(job.seed, self.name, "retain").permutation(job.partition.retain)
        some = drawn[: self.retain_records].tolist()
        model = job.copy_of_original()
        noise = self._noise(job, classes)
        for name, fit in (("impair", self.impair), ("repair", self.repair)):
            plan: Plan = ShuffledPlan(
                job.loader, some, batch_size=fit.batch_size, seed=job.order_seed(name), stream="retain"
            )
            if name == "impair":
                plan = WithNoisePlan(plan, noise, fit.batch_size)
            self._fit(job, model, plan, _union(job), fit, name)
        return model

    def _fit(
        self, job: UnlearningJob, model: nn.Module, plan: Plan, objective: Objective, fit: FitOptions, name: str
    ) -> None:
        identity = job.identity(self)
        job.trainer.fit(model, plan, objective, fit, seed=job.seed, name=f"{self.name}-{name}", identity=identity)

    def _noise(self, job: UnlearningJob, classes: Sequence[int]) -> LearnedNoise:
        frozen = job.copy_of_original().requires_grad_(False).eval()
        labels = torch.tensor([label for label in classes for _ in range(self.noise_records)])
        noise = LearnedNoise(job.loader, labels, torch_generator(job.seed, self.name, "noise"))

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            loss, norm = job.task.loss(frozen, noise.batch()), noise.squared_norm()
            return Loss(self.penalty * norm - loss, {"noise": loss, "norm": norm})

        self._fit(job, noise, OneStepPlan(self.noise_steps), objective, self.noise_fit, "noise")
        return noise


def _union(job: UnlearningJob) -> Objective:
    """The mean loss over the records of all streams."""

    def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
        parts: dict[str, Tensor] = {stream: job.task.loss(model, batch) for stream, batch in batches.items()}
        total = sum(len(batch) for batch in batches.values())
        return Loss(torch.stack([len(batches[s]) / total * loss for s, loss in parts.items()]).sum(), parts)

    return objective
