"""Retraining without the forgotten: the gold standard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from forgetmi.errors import MethodError
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.seeds import derive_seed


@dataclass(frozen=True)
class Retrain:
    """Train a fresh model on the retain set by the original's recipe: theta_R = train(D_r), with a fresh seed.

    The forget records are in no batch. Exact unlearning by construction; its cost is what the other methods save.
    """

    name: ClassVar[str] = "retrain"
    paper: ClassVar[str] = "exact unlearning by definition (Cao and Yang 2015)"
    needs: ClassVar[Needs] = Needs(forget=False, fresh_model=True)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The retrained model."""
        check_job(self, job)
        if job.fresh_model is None or job.recipe is None:
            raise MethodError("retrain needs fresh_model and recipe")
        model = job.fresh_model(derive_seed(job.seed, "retrain", "weights"))
        train_by_recipe(
            model,
            task=job.task,
            loader=job.loader,
            train=job.partition.retain,
            validation=job.partition.validation,
            recipe=job.recipe,
            trainer=job.trainer,
            order_seed=derive_seed(job.seed, "retrain", "order"),
            seed=job.seed,
            name=f"retrain-{job.seed}",
        )
        return model.train(job.model.training)
