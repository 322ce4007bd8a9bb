"""Gradient ascent in which every token has a weight of its own: WGA, TNPO, SatImp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, Term, minimise
from forgetmi.parts.objectives.ascent import ascent_loss
from forgetmi.parts.objectives.reweighted import satimp_weights, tnpo_weights, wga_weights


def weighted_ascent(job: UnlearningJob, weights: Callable[[Tensor, Batch], Tensor]) -> Term:
    """-(1/N) sum_t w_t (-log p_t) over the N answer tokens of the forget batch.

    Args:
        job: gives the task. A classifier's record is a sequence of one token (independent labels: one each).
        weights: -log p [B, T] and the batch to w [B, T], which count as constants.
    """

    def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
        nll, mask = job.task.token_nll(model, batches["forget"])
        return ascent_loss(nll, mask, weights(nll, batches["forget"]))

    return forget


@dataclass(frozen=True)
class WGA(ForgetRetain):
    """Weighted gradient ascent (Wang et al., ICLR 2025, arXiv 2502.19301): min -(1/N) sum_t p_t^beta (-log p_t).

    The weight is a constant of the step: see :func:`wga_weights`. ``beta: 0`` is ``grad_diff``.

    Attributes:
        beta: >= 0. Published: 1; the authors' code: 5.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    beta: float = 1.0

    name: ClassVar[str] = "wga"
    paper: ClassVar[str] = "WGA (Wang et al. 2025, arXiv 2502.19301)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + unmet({f"beta must be >= 0, not {self.beta}": self.beta >= 0})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        return minimise(self, job, weighted_ascent(job, lambda nll, _: wga_weights(nll, self.beta)))


@dataclass(frozen=True)
class TNPO(ForgetRetain):
    """NPO token by token (Wang et al., ICLR 2025, arXiv 2502.19301): weights 2 p^(beta + power) / (p^beta + p_0^beta).

    The weight is a constant of the step: see :func:`tnpo_weights`. The original's likelihoods are computed once.

    Attributes:
        beta: inverse temperature, > 0. The authors' code: 4.
        power: the paper's alpha, >= 0; above 0 it is WTNPO (the authors' code: 1.5).
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    beta: float = 4.0
    power: float = 0.0

    name: ClassVar[str] = "tnpo"
    paper: ClassVar[str] = "TNPO, WTNPO (Wang et al. 2025, arXiv 2502.19301)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        checks = {f"beta must be > 0, not {self.beta}": self.beta > 0}
        return super().problems() + unmet(checks | {f"power must be >= 0, not {self.power}": self.power >= 0})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        teacher = job.reference.fresh()

        def weights(nll: Tensor, batch: Batch) -> Tensor:
            return tnpo_weights(nll, teacher.token_nll(batch)[0], self.beta, self.power)

        return minimise(self, job, weighted_ascent(job, weights), teacher)


@dataclass(frozen=True)
class SatImp(ForgetRetain):
    """SatImp (Yang et al., ICML 2025, arXiv 2505.11953): weights p^beta1 (1 - p)^beta2, see :func:`satimp_weights`.

    ``beta2: 0`` is ``wga``; both 0 is ``grad_diff``.

    Attributes:
        beta1, beta2: saturation and importance, >= 0. Published: 5 and 1.
        gamma: weight of the forget term. Published: .1, with alpha 1.
        retain, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    gamma: float = 0.1
    beta1: float = 5.0
    beta2: float = 1.0

    name: ClassVar[str] = "satimp"
    paper: ClassVar[str] = "SatImp (Yang et al. 2025, arXiv 2505.11953)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        checks = {"beta1 must be >= 0": self.beta1 >= 0, "beta2 must be >= 0": self.beta2 >= 0}
        return super().problems() + unmet(checks)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        return minimise(self, job, weighted_ascent(job, lambda nll, _: satimp_weights(nll, self.beta1, self.beta2)))
