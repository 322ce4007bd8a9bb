"""Negative preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.selection.paired import PairedPlan
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import derive_seed
from forgetmi.training.trainer import Loss


@dataclass(frozen=True)
class NPO:
    """Treat forget records as dispreferred answers (Zhang et al. 2024): see :func:`npo_loss`.

    The frozen original's likelihoods of the forget records are computed once. For classifiers, y given x is the
    label given the record: our reading of a loss that was published for language models.

    Attributes:
        beta: inverse temperature of the loss, > 0.
        retain_weight: weight of the task's loss on as many retain records (the paper's NPO+RT); 0 is plain NPO.
        fit: epochs, learning rate and the rest; BatchNorm statistics are frozen (our reading).
    """

    beta: float = 0.1
    retain_weight: float = 1.0
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str] = "npo"
    paper: ClassVar[str] = "Negative Preference Optimization (Zhang et al. 2024, arXiv 2404.05868)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        problems = [] if self.beta > 0 else [f"beta must be > 0, not {self.beta}"]
        problems += [] if self.retain_weight >= 0 else [f"retain_weight must be >= 0, not {self.retain_weight}"]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        model, teacher = job.copy_of_original(), job.reference.fresh()
        plan = PairedPlan(
            job.fit_loader(),
            job.partition.forget,
            job.partition.retain,
            batch_size=self.fit.batch_size,
            seed=derive_seed(job.seed, self.name),
        )

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            forget = batches["forget"]
            npo = npo_loss(job.task.nll(model, forget), teacher.nll(forget), self.beta)
            if not self.retain_weight:
                return Loss(npo, {"npo": npo})
            retain = job.task.loss(model, batches["retain"])
            return Loss(npo + self.retain_weight * retain, {"npo": npo, "retain": retain})

        job.trainer.fit(
            model, plan, objective, self.fit, seed=job.seed, name=self.name, identity=job.identity(self), memory=teacher
        )
        return model
