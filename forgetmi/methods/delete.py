"""The original's own opinion without the true answer."""

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
class Delete:
    """DELETE, decoupled distillation to erase (Zhou et al., CVPR 2025, arXiv 2503.23751).

        min E_{D_f} KL( p_0 without the true class, renormalised || p_theta )

    The frozen original's probabilities, with the true class's set to zero and the others scaled to sum 1, are the
    target: what the model thinks of a forget record apart from its label stays. The retain set is not used.

    Published for whole classes, whose records all lose that class. Our reading: any records, each its own true class;
    for language models the same at each answer token; BatchNorm statistics are frozen. Independent labels
    (multilabel) are refused: without the true value only its opposite is left.

    Attributes:
        fit: epochs, learning rate and the rest.
    """

    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4, mode="frozen_batchnorm"))

    name: ClassVar[str] = "delete"
    paper: ClassVar[str] = "DELETE (Zhou et al. 2025, arXiv 2503.23751)"
    needs: ClassVar[Needs] = Needs(retain=False)

    def __post_init__(self) -> None:
        if problems := without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        model, teacher = job.copy_of_original(), job.reference.fresh()

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            batch = batches["forget"]
            target = job.task.without_truth(teacher.cached(batch), batch)
            return Loss(job.task.divergence(job.task.output(model, batch), target, batch).mean(), {})

        job.trainer.fit(
            model,
            job.visits("forget", self.fit.batch_size),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
            memory=teacher,
        )
        return model
