"""Fine-tuning on the retain set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.training.options import FitOptions
from forgetmi.training.recipe import train_by_recipe


@dataclass(frozen=True)
class FineTune:
    """Go on training the original on the retain set only: min CE(D_r) from theta_0; forgetting by catastrophe.

    The usual weak baseline (e.g. Golatkar et al. 2020; Jia et al. 2023). With ``lr=0`` or ``epochs=0`` the weights
    are the original's. Forget records are in no batch.

    Attributes:
        fit: epochs, learning rate and the rest.
    """

    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4))

    name: ClassVar[str] = "fine_tune"
    paper: ClassVar[str] = "a standard baseline (Golatkar et al. 2020, arXiv 1911.04933)"
    needs: ClassVar[Needs] = Needs(forget=False)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The fine-tuned model."""
        check_job(self, job)
        model = job.copy_of_original()
        train_by_recipe(
            model,
            task=job.task,
            loader=job.loader,
            train=job.partition.retain,
            validation=job.partition.validation,
            recipe=self.fit,
            trainer=job.trainer,
            order_seed=job.order_seed("retain"),
            seed=job.seed,
            name=self.name,
        )
        return model
