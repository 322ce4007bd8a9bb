"""Gradient ascent on the forget set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class GradientAscent:
    """Climb the training loss on the forget set: min -L(D_f) from theta_0 (NegGrad, Golatkar et al. 2020).

    L is the task's own training loss (a classifier's cross-entropy, a language model's mean over answer tokens). It
    is unbounded: too many steps destroy the model, which the audit flags. The retain set is not used.

    Attributes:
        fit: epochs, learning rate and the rest. Our reading: BatchNorm statistics are frozen, so that the forget
            records do not leak into them.
    """

    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=3, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str] = "gradient_ascent"
    paper: ClassVar[str] = "NegGrad (Golatkar et al. 2020, arXiv 1911.04933)"
    needs: ClassVar[Needs] = Needs(retain=False)

    def __post_init__(self) -> None:
        if problems := without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after the ascent."""
        check_job(self, job)
        model = job.copy_of_original()
        plan = job.visits("forget", self.fit.batch_size)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            loss = job.task.loss(model, batches["forget"])
            return Loss(-loss, {"forget": loss})

        job.trainer.fit(model, plan, objective, self.fit, seed=job.seed, name=self.name, identity=job.identity(self))
        return model
