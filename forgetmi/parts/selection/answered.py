"""Steps that see forget records with other answers beside them as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from forgetmi.batch import Batch, Loader
from forgetmi.errors import DataError
from forgetmi.training.plans import Plan, Step
from forgetmi.training.seeds import numpy_generator

OWN = "alternate"
"""The key of a record's value beside ``prompt`` and ``answer``: another answer, or a list of them."""

Choices = Callable[[int], Sequence[str]]
"""A record's position to the answers that it may be given."""


class AnsweredPlan:
    """A plan with one more stream, ``"alternate"``: the forget records' questions, with other answers.

    Of several answers one is drawn from ``(seed, epoch, position)``: another in each epoch, and the same whatever the
    batch size and the number of workers.

    Args:
        plan: has a stream ``"forget"``.
        loader: makes the batches.
        choices: see :data:`Choices`; at least one for each record.
        seed: of the draws.
    """

    def __init__(self, plan: Plan, loader: Loader, choices: Choices, *, seed: int) -> None:
        self.plan, self.loader, self.choices, self.seed = plan, loader, choices, seed

    def steps(self, epoch: int) -> list[Step]:
        """The plan's, each with its forget records as a stream more."""
        return [{**step, "alternate": step["forget"]} for step in self.plan.steps(epoch)]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The plan's batches, and the other answers."""
        indices = step["alternate"]
        answers = [self._drawn(index, epoch) for index in indices]
        rest = {stream: records for stream, records in step.items() if stream != "alternate"}
        return {**self.plan.load(rest, epoch), "alternate": self.loader.answered(indices, answers)}

    def _drawn(self, index: int, epoch: int) -> str:
        given = self.choices(index)
        return given[int(numpy_generator(self.seed, "answer", epoch, index).integers(len(given)))]


def own_answers(loader: Loader, index: int) -> list[str]:
    """The other answers that a record brings itself, under :data:`OWN`.

    Raises:
        DataError: it has none, or they are no texts.
    """
    record = loader.record(index)
    values = [record.value(name) for name in record.modalities]
    given = next((value[OWN] for value in values if isinstance(value, Mapping) and OWN in value), None)
    found = [given] if isinstance(given, str) else given
    texts = isinstance(found, Sequence) and all(isinstance(answer, str) and answer.strip() for answer in found)
    if not found or not texts:
        raise DataError(
            "a forget record has no alternative answer",
            where=f"record at position {index}",
            expected=f"a text, or a list of texts, under {OWN!r} beside its prompt and answer",
            fix="give each forget record one, or take answers from a list of refusals",
        )
    return list(found)
