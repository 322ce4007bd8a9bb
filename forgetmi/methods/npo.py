"""Negative preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, minimise
from forgetmi.parts.objectives.npo import npo_loss


@dataclass(frozen=True)
class NPO(ForgetRetain):
    """Treat forget records as dispreferred answers (Zhang et al. 2024): see :func:`npo_loss`.

    The frozen original's likelihoods of the forget records are computed once. For classifiers, y given x is the
    label given the record: our reading of a loss that was published for language models. The paper's NPO is
    ``retain: none``, its NPO+RT ``retain: nll``, its NPO+KL ``retain: kl``. As beta falls to 0 the gradient becomes
    gradient ascent's on sums over each record's tokens.

    Attributes:
        beta: inverse temperature of the loss, > 0.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    beta: float = 0.1

    name: ClassVar[str] = "npo"
    paper: ClassVar[str] = "Negative Preference Optimization (Zhang et al. 2024, arXiv 2404.05868)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + unmet({f"beta must be > 0, not {self.beta}": self.beta > 0})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        teacher = job.reference.fresh()

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            batch = batches["forget"]
            return npo_loss(job.task.nll(model, batch), teacher.nll(batch), self.beta)

        return minimise(self, job, forget, teacher)
