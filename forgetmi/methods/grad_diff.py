"""Gradient ascent on the forget set, held by the retain set: by its likelihood, or by the original's own opinion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, Term, minimise


def ascent(job: UnlearningJob) -> Term:
    """-L(D_f), L the task's own training loss; unbounded below."""

    def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
        return -job.task.loss(model, batches["forget"])

    return forget


@dataclass(frozen=True)
class GradDiff(ForgetRetain):
    """GradDiff (Liu et al. 2022, arXiv 2203.12817): min -gamma L(D_f) + alpha L(D_r).

    L is the task's own training loss (a language model's mean over the batch's answer tokens). Unbounded below: too
    many steps destroy the model. ``retain: none`` or ``alpha: 0`` is ``gradient_ascent``, exactly.

    Attributes: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    name: ClassVar[str] = "grad_diff"
    paper: ClassVar[str] = "GradDiff (Liu et al. 2022, arXiv 2203.12817)"
    needs: ClassVar[Needs] = Needs()

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        return minimise(self, job, ascent(job))


@dataclass(frozen=True)
class KLMin(ForgetRetain):
    """KL minimisation (TOFU, Maini et al. 2024, arXiv 2401.06121): min -L(D_f) + E_{D_r} KL( p_0 || p_theta ).

    ``grad_diff`` with ``retain: kl``: the retain records hold the model to what it said of them, not to their own
    answers. At theta_0 the divergence and its gradient are 0 (without dropout).

    Attributes: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    retain: Literal["none", "nll", "kl"] = "kl"

    name: ClassVar[str] = "kl_min"
    paper: ClassVar[str] = "KL minimisation (Maini et al. 2024, arXiv 2401.06121)"
    needs: ClassVar[Needs] = Needs()

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        return minimise(self, job, ascent(job))
