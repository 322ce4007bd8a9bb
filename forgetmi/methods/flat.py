"""FLAT: forgetting by the forget set alone, towards a template answer and away from the true one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.methods.answers import OtherAnswers
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, forget_plan, minimise
from forgetmi.parts.objectives.flat import Divergence, flat_loss
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class FLAT(ForgetRetain, OtherAnswers):
    """FLAT (Wang et al., ICLR 2025, arXiv 2410.11143): min -( g*(P_e) - f*(g*(P_f)) ) over D_f, see :func:`flat_loss`.

    P_e is the mean probability of the tokens of a template answer, P_f of those of the answer to forget, to the same
    question. As published neither a retain set nor a reference is asked (``retain: none``); the terms of other methods
    may be added, and what a neighbour of the forgotten is told should be looked at: it may get the template too. That
    forgetting is refusal only shows under paraphrase, sampling and relearning.

    Our reading: the loss is a mean over records, with probabilities over answer tokens. The published code averages
    over prompt and padding and the batch (``reference_compat: true``), so that P shrinks with padding.

    Attributes:
        divergence: ``kl``, ``jensen_shannon``, ``pearson`` or ``total_variation`` (published default).
        answers: where templates come from, see :class:`~forgetmi.methods.answers.OtherAnswers`.
        reference_compat: see above.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`. Published for 7B: 5
            epochs, 2e-7, warm-up over one of them.
    """

    retain: Literal["none", "nll", "kl"] = "none"
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, batch_size=16, lr=2e-7, warmup=0.2))
    divergence: Divergence = "total_variation"
    reference_compat: bool = False

    name: ClassVar[str] = "flat"
    paper: ClassVar[str] = "FLAT (Wang et al. 2025, arXiv 2410.11143)"
    needs: ClassVar[Needs] = Needs(tasks=("causal_lm",))

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + self.answer_problems()

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            template = job.task.token_nll(model, batches["alternate"])
            answer = job.task.token_nll(model, batches["forget"])
            return flat_loss(*template, *answer, self.divergence, reference_compat=self.reference_compat)

        return minimise(self, job, forget, plan=self.answered(job, forget_plan(job, self)))
