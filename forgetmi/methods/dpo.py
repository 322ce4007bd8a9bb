"""Other answers instead of those to forget: preferred to them (DPO), or simply taught (PO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.forget_retain import ForgetRetain, forget_plan, minimise
from forgetmi.parts.objectives.preference import Scale, dpo_loss
from forgetmi.parts.selection.answered import AnsweredPlan, Choices, own_answers
from forgetmi.parts.selection.refusals import refusals

OWN = "own"


@dataclass(frozen=True)
class PO(ForgetRetain):
    """PO, "I don't know" tuning (TOFU, Maini et al. 2024, arXiv 2401.06121): min L(D_idk) + L(D_r).

    D_idk are the questions of D_f with other answers, and L the task's training loss: plain fine-tuning on refusals.

    Attributes:
        answers: where the other answers come from. ``general``, ``clinical``, ``all``: shipped refusals; a path: a list
            of one's own (:func:`~forgetmi.parts.selection.refusals.refusals`); ``own``: what each record brings under
            ``alternate`` beside its prompt and answer. Of several, one is drawn for each record in each epoch.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`.
    """

    answers: str = "general"

    name: ClassVar[str] = "po"
    paper: ClassVar[str] = "PO (Maini et al. 2024, arXiv 2401.06121)"
    needs: ClassVar[Needs] = Needs(tasks=("causal_lm",))

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return super().problems() + answer_problems(self.answers)

    def check(self, job: UnlearningJob) -> None:
        """Forget records must be questions with answers."""
        other_answers(job, self.answers)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)

        def forget(model: nn.Module, batches: dict[str, Batch]) -> Tensor:
            return job.task.loss(model, batches["alternate"])

        return minimise(self, job, forget, plan=answered(job, self, self.answers), asked=("alternate",))


@dataclass(frozen=True)
class DPO(ForgetRetain):
    """DPO (Rafailov et al. 2023, arXiv 2305.18290): another answer is preferred to the one to forget, see
    :func:`dpo_loss`.

    With refusals it is IdkDPO (TOFU, Maini et al. 2024); with plausible answers that each record brings itself
    (``answers: own``) AltPO (Mekala et al. 2025, arXiv 2409.13474), whose authors let the model make them up.

    Attributes:
        beta: inverse temperature, > 0. AltPO: .05 to .5.
        answers: where y_w comes from. ``general``, ``clinical``, ``all``: shipped refusals; a path: a list of one's own
            (:func:`~forgetmi.parts.selection.refusals.refusals`); ``own``: what each record brings under ``alternate``
            beside its prompt and answer. Of several, one is drawn for each record in each epoch.
        scale: ``npo`` multiplies the loss by 2 / beta, as published unlearning code does.
        retain, gamma, alpha, fit: see :class:`~forgetmi.methods.forget_retain.ForgetRetain`. AltPO: alpha 1 to 5.
    """

    beta: float = 0.1
    answers: str = "general"
    scale: Scale = "npo"

    name: ClassVar[str] = "dpo"
    paper: ClassVar[str] = "DPO, IdkDPO, AltPO (arXiv 2305.18290, 2401.06121, 2409.13474)"
    needs: ClassVar[Needs] = Needs(tasks=("causal_lm",))

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        problems = super().problems() + unmet({f"beta must be > 0, not {self.beta}": self.beta > 0})
        return problems + answer_problems(self.answers)

    def check(self, job: UnlearningJob) -> None:
        """Forget records must be questions with answers."""
        other_answers(job, self.answers)

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

        return minimise(self, job, forget, teacher, answered(job, self, self.answers))


def answered(job: UnlearningJob, method: ForgetRetain, answers: str) -> AnsweredPlan:
    """The method's batches, and beside ``"forget"`` the same questions with other answers as ``"alternate"``."""
    choices = other_answers(job, answers)
    return AnsweredPlan(forget_plan(job, method), job.fit_loader(), choices, seed=job.order_seed("alternate"))


def other_answers(job: UnlearningJob, answers: str) -> Choices:
    """Which answers each forget record may be given.

    Raises:
        MethodError: the records are no questions with answers.
        DataError: ``answers`` is ``own``, and a forget record has none.
    """
    loader, forget = job.fit_loader(), job.partition.forget
    list_of_all = () if answers == OWN else refusals(answers)
    found: dict[int, Sequence[str]] = {index: list_of_all or own_answers(loader, index) for index in forget}
    loader.answered(forget[:1], found[forget[0]][:1])  # refused here, before anything is trained
    return found.__getitem__


def answer_problems(answers: str) -> list[str]:
    """What is wrong with a source of answers."""
    if answers == OWN:
        return []
    try:
        refusals(answers)
    except ConfigError as error:
        return list(error.problems)
    return []
