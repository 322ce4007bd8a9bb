"""Fine-tuning that makes weights small."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.objectives.sparsity import Schedule, l1_norm, l1_weight
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class L1Sparse:
    """l1-sparse unlearning (Jia et al., NeurIPS 2023, arXiv 2304.04934): min L(D_r) + g_e ||theta||_1.

    g_e goes from ``alpha`` to 0 over the epochs, and is 0 in the last ``free_epochs``
    (:func:`~forgetmi.parts.objectives.sparsity.l1_weight`). All weights that may move are penalised, biases and
    normalisation too, as published. With ``alpha=0`` it is fine-tuning, exactly.

    Attributes:
        alpha: the penalty's first weight, >= 0. It multiplies a sum over all weights, so its scale depends on the
            model's size; the published default, .2, is far too large for use.
        free_epochs: epochs without penalty at the end, >= 0.
        schedule: ``decreasing`` (published), ``constant``, ``increasing``.
        fit: epochs, learning rate and the rest.
    """

    alpha: float = 1e-5
    free_epochs: int = 0
    schedule: Schedule = "decreasing"
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4))

    name: ClassVar[str] = "l1_sparse"
    paper: ClassVar[str] = "l1-sparse (Jia et al. 2023, arXiv 2304.04934)"
    needs: ClassVar[Needs] = Needs(forget=False)

    def __post_init__(self) -> None:
        problems = [] if self.alpha >= 0 else [f"alpha must be >= 0, not {self.alpha}"]
        problems += [] if self.free_epochs >= 0 else [f"free_epochs must be >= 0, not {self.free_epochs}"]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The fine-tuned model."""
        check_job(self, job)
        model = job.copy_of_original()
        penalised = self.fit.epochs - self.free_epochs
        weight = 0.0

        def turn(epoch: int) -> None:
            nonlocal weight
            weight = l1_weight(self.alpha, epoch, penalised, self.schedule)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            loss = job.task.loss(model, batches["retain"])
            if not weight:
                return Loss(loss, {"retain": loss})
            norm = l1_norm(p for p in model.parameters() if p.requires_grad)
            return Loss(loss + weight * norm, {"retain": loss, "l1": norm})

        job.trainer.fit(
            model,
            job.visits("retain", self.fit.batch_size),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
            on_epoch=turn,
        )
        return model
