"""Other answers beside those to forget: where they come from, and the batches that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forgetmi.errors import ConfigError
from forgetmi.methods.base import UnlearningJob
from forgetmi.parts.selection.answered import AnsweredPlan, Choices, own_answers
from forgetmi.parts.selection.refusals import refusals
from forgetmi.training.plans import Plan

OWN = "own"


@dataclass(frozen=True)
class OtherAnswers:
    """Option of methods that ask the questions of D_f with other answers.

    Attributes:
        answers: where the other answers come from. ``general``, ``clinical``, ``all``: shipped refusals; a path: a list
            of one's own (:func:`~forgetmi.parts.selection.refusals.refusals`); ``own``: what each record brings under
            ``alternate`` beside its prompt and answer. Of several, one is drawn for each record in each epoch.
    """

    answers: str = "general"

    def answer_problems(self) -> list[str]:
        """What is wrong with the source of answers."""
        if self.answers == OWN:
            return []
        try:
            refusals(self.answers)
        except ConfigError as error:
            return list(error.problems)
        return []

    def check(self, job: UnlearningJob) -> None:
        """Forget records must be questions with answers."""
        self._choices(job)

    def answered(self, job: UnlearningJob, plan: Plan) -> AnsweredPlan:
        """The plan's batches, and beside ``"forget"`` the same questions with other answers as ``"alternate"``."""
        return AnsweredPlan(plan, job.fit_loader(), self._choices(job), seed=job.order_seed("alternate"))

    def _choices(self, job: UnlearningJob) -> Choices:
        """Which answers each forget record may be given.

        Raises:
            MethodError: the records are no questions with answers.
            DataError: ``answers`` is ``own``, and a forget record has none.
        """
        loader, forget = job.fit_loader(), job.partition.forget
        list_of_all = () if self.answers == OWN else refusals(self.answers)
        found: dict[int, Sequence[str]] = {index: list_of_all or own_answers(loader, index) for index in forget}
        loader.answered(forget[:1], found[forget[0]][:1])  # refused here, before anything is trained
        return found.__getitem__
