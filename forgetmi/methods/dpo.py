"""Other answers instead of those to forget: preferred to them (DPO), or simply taught (PO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import unmet
from forgetmi.methods.answers import OtherAnswers
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, forget_plan, minimise
from forgetmi.parts.objectives.preference import Scale, dpo_loss


@dataclass(frozen=True)
class PO(ForgetRetain, OtherAnswers):
    """PO, "I don't know" tuning (TOFU, Maini et al. 2024, arXiv 2401.06121): min L(D_idk) + L(D_r).

    D_idk are the questions of D_f with other answers, and L the task's training loss: plain fine-tuning on refusals.

    Attributes:
        answers: where the other answers come from, see :class:`~forgetmi.methods.answers.OtherAnswers`.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    name: ClassVar[str] = "po"
    paper: ClassVar[str] = "PO (Maini et al. 2024, arXiv 2401.06121)"
    needs: ClassVar[Needs] = Needs(tasks=("causal_lm",))

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + self.answer_problems()

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            return job.task.loss(model, batches["alternate"])

        return minimise(self, job, forget, plan=self.answered(job, forget_plan(job, self)), asked=("alternate",))


@dataclass(frozen=True)
class DPO(ForgetRetain, OtherAnswers):
    """DPO (Rafailov et al. 2023, arXiv 2305.18290): another answer is preferred to the one to forget, see
    :func:`dpo_loss`.

    With refusals it is IdkDPO (TOFU, Maini et al. 2024); with plausible answers that each record brings itself
    (``answers: own``) AltPO (Mekala et al. 2025, arXiv 2409.13474), whose authors let the model make them up.

    Attributes:
        beta: inverse temperature, > 0. AltPO: .05 to .5.
        answers: where y_w comes from, see :class:`~forgetmi.methods.answers.OtherAnswers`.
        scale: ``npo`` multiplies the loss by 2 / beta, as published unlearning code does.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`. AltPO: alpha 1 to 5.
    """

    beta: float = 0.1
    scale: Scale = "npo"

    name: ClassVar[str] = "dpo"
    paper: ClassVar[str] = "DPO, IdkDPO, AltPO (arXiv 2305.18290, 2401.06121, 2409.13474)"
    needs: ClassVar[Needs] = Needs(tasks=("causal_lm",))

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        problems = super().problems() + unmet({f"beta must be > 0, not {self.beta}": self.beta > 0})
        return problems + self.answer_problems()

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        teacher = job.reference.fresh()

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            chosen, rejected = batches["alternate"], batches["forget"]
            return dpo_loss(
                chosen_nll=job.task.nll(model, chosen),
                chosen_reference_nll=teacher.nll(chosen),
                rejected_nll=job.task.nll(model, rejected),
                rejected_reference_nll=teacher.nll(rejected),
                beta=self.beta,
                scale=self.scale,
            )

        return minimise(self, job, forget, teacher, self.answered(job, forget_plan(job, self)))
