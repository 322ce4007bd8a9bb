"""Records beside which another one stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forgetmi.batch import Batch, Loader
from forgetmi.errors import MethodError
from forgetmi.parts.selection.paired import PairedPlan
from forgetmi.training.plans import Step
from forgetmi.training.seeds import numpy_generator


class MismatchedPlan(PairedPlan):
    """Pairs of forget and retain records, and for each forget record a partner: another forget record.

    Partners are drawn afresh each epoch over the whole forget set. Nobody is their own partner, whatever the batch
    size: a permutation within a batch may leave some in their place, and leaves a batch of one there for certain.

    Raises:
        MethodError: there is one forget record only.
    """

    def __init__(
        self, loader: Loader, forget: Sequence[int], retain: Sequence[int], *, batch_size: int, seed: int
    ) -> None:
        super().__init__(loader, forget, retain, batch_size=batch_size, seed=seed)
        if len(forget) < 2:
            raise MethodError(
                "a forget record is to be paired with another one, and there is one only",
                fix="choose a method that does not pair forget records: forgetmi ls methods",
            )

    def steps(self, epoch: int) -> list[Step]:
        """The epoch's pairs and partners."""
        circle = numpy_generator(self.seed, "partners", epoch).permutation(self.forget).tolist()
        partner = dict(zip(circle, (*circle[1:], circle[0]), strict=True))
        return [{**step, "partner": tuple(partner[i] for i in step["forget"])} for step in super().steps(epoch)]


def mixed(batch: Batch, partner: Batch, kept: str) -> Batch:
    """The batch with one modality of its own and the others of the partners, row by row."""
    return replace(
        batch,
        inputs={name: (batch if name == kept else partner).inputs[name] for name in batch.inputs},
        present={name: (batch if name == kept else partner).present[name] for name in batch.present},
    )
