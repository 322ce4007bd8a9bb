"""The model's own opinion without the true token, as its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, minimise
from forgetmi.parts.objectives.distil import ce_u_tokens
from forgetmi.parts.objectives.sequence import after_first, token_mean


@dataclass(frozen=True)
class CEU(ForgetRetain):
    """CE-U (Yang 2025, arXiv 2503.01224): min CE( softmax(z with z_y = -inf), z ), see :func:`ce_u_tokens`.

    The target is the model's own and a constant of the step; the gradient is bounded and fades with p_y.

    Attributes:
        skip: answer tokens at the start of each answer that are left alone, >= 0. Published: 1. An answer that has no
            more than these is forgotten whole (our reading: a record of the request is never passed over), so a
            classifier's label always counts.
        retain: published: none.
        gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    retain: Literal["none", "nll", "kl"] = "none"
    skip: int = 1

    name: ClassVar[str] = "ce_u"
    paper: ClassVar[str] = "CE-U (Yang 2025, arXiv 2503.01224)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + unmet({f"skip must be >= 0, not {self.skip}": self.skip >= 0})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            batch = batches["forget"]
            values, mask = job.task.over_tokens(ce_u_tokens, batch, job.task.output(model, batch))
            rest = after_first(mask, self.skip)
            return token_mean(values, rest.where(rest.any(dim=1, keepdim=True), mask))

        return minimise(self, job, forget)
