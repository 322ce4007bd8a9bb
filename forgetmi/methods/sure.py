"""SURE: only the modules that matter most for the forget records move, so that they may move far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from accelerate.state import PartialState
from torch import nn

from forgetmi.errors import MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.wrapper import NOT_MASKED, Wrapper
from forgetmi.parts.updates.mask import WeightMask
from forgetmi.parts.updates.saliency import Level, saliency_masks, shares
from forgetmi.parts.updates.stepwise import StepMask
from forgetmi.parts.updates.streamed import mean_gradient


@dataclass(frozen=True)
class SURE(Wrapper):
    """SURE (Zhang et al., ICLR 2025, arXiv 2410.16454), a mask over any method.

        m_i = 1[ || grad_i L(D_f) ||_2 >= gamma ],  gamma a percentile of the norms of all units i

    The paper's form: units are modules, the mask is made at theta_0 and fixed (``level: module``, ``when: once``). What
    the released code means to do: units are rows, the mask is made anew at each step, from the step's forget records
    (``level: row``, ``when: step``). There the mask is never applied, and the forget gradient counts twice; here units
    outside the mask stay as they are bit by bit, under momentum and weight decay too, and the step's gradient is the
    method's own. ``percentile: 0`` is the method itself, ``percentile: 100`` moves one unit (those with the largest
    norm).

    Published with a large learning rate (1e-4) and a large weight of the retain term, so that weights leave the buckets
    that a later quantisation to 4 bits has: without these, the mask alone need not help.

    Our reading: L is the mean negative log-likelihood of D_f (whose gradient at theta_0 is, but for its length and
    sign, that of gradient ascent and NPO); a module is one layer, its weight and bias together.

    Attributes:
        percentile: in [0, 100]. Published: 90, 99.
        level: the units.
        when: see above.
        inner: the method that is masked. Published: NPO with a KL retain term, GradDiff.
        options: its options.
        batch_size: of the pass that makes a fixed mask; changes speed and memory only.
    """

    percentile: float = 90.0
    level: Level = "module"
    when: Literal["once", "step"] = "once"
    inner: str = "npo"
    batch_size: int = 32

    name: ClassVar[str] = "sure"
    paper: ClassVar[str] = "SURE (Zhang et al. 2025, arXiv 2410.16454)"
    needs: ClassVar[Needs] = Needs()
    not_around = NOT_MASKED

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return unmet(
            {
                f"percentile must be in [0, 100], not {self.percentile}": 0 <= self.percentile <= 100,
                f"batch_size must be >= 1, not {self.batch_size}": self.batch_size >= 1,
            }
        )

    def check(self, job: UnlearningJob) -> None:
        """The masked method must be able to do it, and a mask of each step needs the whole step."""
        super().check(job)
        if self.when == "step" and PartialState().num_processes > 1:
            raise MethodError(
                "a mask of each step needs all of its records, and each process sees some of them",
                fix="set when: once, or run one process",
            )

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The masked method's model."""
        check_job(self, job)
        inner, original = self.wrapped(), job.copy_of_original()
        choose = partial(saliency_masks, percentile=self.percentile, level=self.level)
        if self.when == "step":
            stepwise = StepMask(original.eval(), job.task, job.partition.forget, choose)
            same = f"{self.name} {self.percentile} {self.level}"
            return inner.unlearn(replace(job, trainer=stepwise.constrain(job.trainer, same)))
        gradients = mean_gradient(
            original,
            job.task,
            job.fit_loader(),
            job.partition.forget,
            batch_size=self.batch_size,
            device=job.trainer.device,
        )
        mask = WeightMask(choose(gradients), original)
        job.trainer.log.event("mask", method=self.name, shares=shares(mask.masks))
        model = inner.unlearn(replace(job, trainer=mask.constrain(job.trainer)))
        mask.restore(model)
        return model
