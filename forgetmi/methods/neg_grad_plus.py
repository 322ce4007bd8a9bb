"""Descent on the retain set and ascent on the forget set at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.selection.sequences import CycledPlan
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class NegGradPlus:
    """NegGrad+ (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880): min alpha L(D_r) - (1 - alpha) L(D_f).

    L is the task's own training loss. An epoch visits the retain set once; the forget set starts again, in a new
    order, as often as it must. With ``alpha=1`` it is fine-tuning, with ``alpha=0`` gradient ascent, exactly.

    Our reading: BatchNorm statistics are frozen (one published version trains in eval mode, one does not); the
    notebook's pull towards theta_0 is left out.

    Attributes:
        alpha: share of the retain loss, in [0, 1]. Published: .95 to .9999, by data set.
        fit: epochs, learning rate and the rest.
    """

    alpha: float = 0.95
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4, mode="frozen_batchnorm"))

    name: ClassVar[str] = "neg_grad_plus"
    paper: ClassVar[str] = "NegGrad+ (Kurmanji et al. 2023, arXiv 2302.09880)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        problems = [] if 0 <= self.alpha <= 1 else [f"alpha must be in [0, 1], not {self.alpha}"]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        model = job.copy_of_original()
        plan = CycledPlan(*(job.visits(part, self.fit.batch_size) for part in ("retain", "forget")))
        weights = {"retain": self.alpha, "forget": self.alpha - 1.0}

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            # What weighs nothing is not computed: no time is lost, and no dropout drawn.
            parts = {stream: job.task.loss(model, batches[stream]) for stream, weight in weights.items() if weight}
            return Loss(torch.stack([weights[stream] * loss for stream, loss in parts.items()]).sum(), parts)

        job.trainer.fit(model, plan, objective, self.fit, seed=job.seed, name=self.name, identity=job.identity(self))
        return model
