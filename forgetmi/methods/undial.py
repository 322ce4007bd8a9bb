"""The original with the true token's logit lowered, as a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, minimise
from forgetmi.parts.objectives.distil import undial_tokens
from forgetmi.parts.objectives.sequence import token_mean
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class UNDIAL(ForgetRetain):
    """UNDIAL (Dong et al. 2024, arXiv 2402.10052): distil softmax( z_0 - beta onehot(y) ), see :func:`undial_tokens`.

    The mean is over the batch's answer tokens. (Published code takes prompt and padding in, where its label -100 lowers
    the logit of some other token.) ``beta: 0`` is self-distillation: nothing moves. As beta grows it becomes
    ``delete``, but for how tokens of short and long answers weigh.

    Attributes:
        beta: >= 0. Published: 10 (3 to 30).
        retain: published: none.
        gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`. Published: learning rate 1e-4,
            LoRA.
    """

    retain: Literal["none", "nll", "kl"] = "none"
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4, mode="frozen_batchnorm"))
    beta: float = 10.0

    name: ClassVar[str] = "undial"
    paper: ClassVar[str] = "UNDIAL (Dong et al. 2024, arXiv 2402.10052)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + unmet({f"beta must be >= 0, not {self.beta}": self.beta >= 0})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        teacher = job.reference.fresh()

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            batch = batches["forget"]
            outputs = job.task.output(model, batch), teacher.cached(batch)
            return token_mean(*job.task.over_tokens(partial(undial_tokens, beta=self.beta), batch, *outputs))

        return minimise(self, job, forget, teacher)
