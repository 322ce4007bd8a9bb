"""Two teachers: an incompetent one for the forget records, the original for the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.models.output import ModelOutput
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.reference import Reference
from forgetmi.training.remembered import RememberedTogether
from forgetmi.training.seeds import derive_seed, numpy_generator


@dataclass(frozen=True)
class BadTeacher:
    """Bad Teacher (Chundawat et al., AAAI 2023, arXiv 2205.08096).

        min E_x KL( l p_bad(x / T) + (1 - l) p_0(x / T) || p_theta(x / T) ),   l = 1 on D_f, 0 on D_r,

    with p_bad an untrained model and p_0 the frozen original. Forget records and a retain subset are shuffled together.
    The sum over classes is divided by the number of records only (the published code divides by C as well); there is
    no factor T^2, as published. Both teachers are asked in eval mode and about each record once where that can be
    kept; only one of them about each record.

    Our reading: BatchNorm statistics are frozen (the publication leaves the student's mode to the caller). An original
    that started from pre-trained weights has that start as its bad teacher.

    Attributes:
        temperature: T > 0.
        retain_share: share of D_r that is used, in [0, 1], the same records in each epoch. Published: .3.
        fit: epochs, learning rate and the rest. Published: Adam 1e-4, 1 epoch.
    """

    temperature: float = 1.0
    retain_share: float = 0.3
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=1, lr=1e-4, mode="frozen_batchnorm"))

    name: ClassVar[str] = "bad_teacher"
    paper: ClassVar[str] = "Bad Teacher (Chundawat et al. 2023, arXiv 2205.08096)"
    needs: ClassVar[Needs] = Needs(fresh_model=True)

    def __post_init__(self) -> None:
        problems = [] if self.temperature > 0 else [f"temperature must be > 0, not {self.temperature}"]
        problems += [] if 0 <= self.retain_share <= 1 else [f"retain_share must be in [0, 1], not {self.retain_share}"]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The student."""
        check_job(self, job)
        if job.fresh_model is None:
            raise MethodError("bad_teacher needs fresh_model")
        good = job.reference.fresh()
        untrained = job.fresh_model(derive_seed(job.seed, self.name, "teacher")).requires_grad_(False)
        bad = Reference(untrained, job.task, job.trainer.device)
        forget = frozenset(job.partition.forget)
        retain = numpy_generator(job.seed, self.name, "retain").permutation(job.partition.retain)
        some = retain[: round(self.retain_share * len(retain))].tolist()

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            batch = batches["records"]
            output = job.task.output(model, batch)
            target = _targets(batch, forget, bad, good)
            return Loss(job.task.divergence(output, target, batch, self.temperature).mean(), {})

        model = job.copy_of_original()
        plan = ShuffledPlan(
            job.fit_loader(),
            (*job.partition.forget, *some),
            batch_size=self.fit.batch_size,
            seed=job.order_seed("both"),
        )
        job.trainer.fit(
            model,
            plan,
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
            memory=RememberedTogether(good=good, bad=bad),
        )
        return model


def _targets(batch: Batch, forget: Collection[int], bad: Reference, good: Reference) -> ModelOutput:
    """The logits of each record's own teacher."""
    is_forget = torch.tensor([index in forget for index in batch.indices.tolist()])
    found, order = [], []
    for teacher, mask in ((bad, is_forget), (good, ~is_forget)):
        rows = mask.nonzero()[:, 0]
        if len(rows):
            found.append(teacher.cached(batch.rows(rows.tolist())).logits)
            order.append(rows)
    back = torch.cat(order).argsort().to(batch.device)
    return ModelOutput(torch.cat(found)[back])
