"""NPO without a reference, on likelihoods a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, minimise
from forgetmi.parts.objectives.preference import simnpo_loss
from forgetmi.parts.objectives.sequence import sequence_means


@dataclass(frozen=True)
class SimNPO(ForgetRetain):
    """SimNPO (Fan et al. 2024, arXiv 2410.07163): min gamma SimNPO(D_f) + alpha L(D_r), see :func:`simnpo_loss`.

    Long answers count no more than short ones, and what the original thought of them counts for nothing. A
    classifier's label is an answer of one token: our reading.

    Attributes:
        beta: inverse temperature, > 0. Published: 2.5 and 4.5 (TOFU, 5 % and 10 %).
        margin: the paper's gamma. Where published code has the margin inside of the product with beta (``delta``), it
            is beta delta.
        gamma: weight of the forget term. Published: .1375 and .125.
        retain, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    gamma: float = 0.125
    beta: float = 4.5
    margin: float = 0.0

    name: ClassVar[str] = "simnpo"
    paper: ClassVar[str] = "SimNPO (Fan et al. 2024, arXiv 2410.07163)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + unmet({f"beta must be > 0, not {self.beta}": self.beta > 0})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            means = sequence_means(*job.task.token_nll(model, batches["forget"]))
            return simnpo_loss(means, self.beta, self.margin)

        return minimise(self, job, forget)
