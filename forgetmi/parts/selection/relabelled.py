"""Steps that see other labels than the records have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from forgetmi.batch import Batch, Loader
from forgetmi.errors import DataError
from forgetmi.tasks.base import Task
from forgetmi.training.plans import Plan, Step


def labels_of(loader: Loader, indices: Sequence[int]) -> Tensor:
    """The records' labels.

    Raises:
        DataError: they have none.
    """
    labels = loader.labels(indices)
    if labels is None:
        raise DataError("the records have no label, and other labels were asked for")
    return labels


class RelabelledPlan:
    """A plan, some of whose records come with other labels. The dataset and its own batches are not touched.

    Args:
        plan: which records each step sees.
        task: knows what labels look like.
        indices: positions of the records concerned.
        labels: epoch to their labels, in this order; asked again after a resumption, so it may depend on the epoch
            and on nothing that changes.
    """

    def __init__(self, plan: Plan, task: Task, indices: Sequence[int], labels: Callable[[int], Tensor]) -> None:
        self.plan, self.task, self.labels = plan, task, labels
        self.slot = {index: slot for slot, index in enumerate(indices)}
        self._drawn: tuple[int, Tensor] | None = None

    def steps(self, epoch: int) -> list[Step]:
        """The plan's."""
        return self.plan.steps(epoch)

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The plan's batches with the other labels."""
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = (epoch, self.labels(epoch))
        drawn = self._drawn[1]
        return {stream: self._relabelled(batch, drawn) for stream, batch in self.plan.load(step, epoch).items()}

    def _relabelled(self, batch: Batch, drawn: Tensor) -> Batch:
        rows = [row for row, index in enumerate(batch.indices.tolist()) if index in self.slot]
        if not rows or batch.labels is None:
            return batch
        labels = batch.labels.clone()
        labels[rows] = drawn[[self.slot[int(batch.indices[row])] for row in rows]].to(labels.dtype)
        return self.task.relabel(batch, labels)
