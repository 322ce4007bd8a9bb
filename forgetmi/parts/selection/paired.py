"""Steps that see forget and retain records side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forgetmi.batch import Batch, Loader
from forgetmi.training.plans import Step
from forgetmi.training.seeds import numpy_generator


class PairedPlan:
    """Each epoch: the forget records shuffled, and a fresh random sample of the retain records of the same size.

    Pairs are drawn on the host from ``(seed, epoch)``, so one and four processes see the same sequence.

    Args:
        loader: makes the batches.
        forget, retain: positions. With fewer retain than forget records, retain records repeat within the epoch.
        batch_size: forget records (and retain records) a step; the last step may be smaller.
        seed: see above.
        noise: kind of modality to noise options. When it is given (``{}`` for the defaults), steps hold a third
            batch ``"forget_noisy"``: the same forget records in the same order, with noise drawn afresh each epoch.
    """

    def __init__(
        self,
        loader: Loader,
        forget: Sequence[int],
        retain: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        noise: Mapping[str, Any] | None = None,
    ) -> None:
        self.loader, self.forget, self.retain = loader, np.asarray(forget), np.asarray(retain)
        self.batch_size, self.seed, self.noise = batch_size, seed, noise

    def steps(self, epoch: int) -> list[Step]:
        """The epoch's pairs."""
        draw = numpy_generator(self.seed, "pairs", epoch)
        forget = draw.permutation(self.forget)
        rounds = -(-len(forget) // len(self.retain))
        retain = np.concatenate([draw.permutation(self.retain) for _ in range(rounds)])[: len(forget)]
        return [
            {
                "forget": tuple(forget[i : i + self.batch_size].tolist()),
                "retain": tuple(retain[i : i + self.batch_size].tolist()),
            }
            for i in range(0, len(forget), self.batch_size)
        ]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """``forget``, ``retain`` and, with noise, ``forget_noisy``."""
        batches = {stream: self.loader.batch(indices) for stream, indices in step.items()}
        if self.noise is not None:
            batches["forget_noisy"] = self.loader.noisy_batch(step["forget"], self.noise, seed=self.seed, epoch=epoch)
        return batches
