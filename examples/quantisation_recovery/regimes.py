"""What is unlearned from what, with which steps, and rounded how: fixed before a rounded model is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetmi.attacks.quantisation.quantisers import FP4, NF4, Int4, Int8, Quantiser

QUANTISERS: tuple[Quantiser, ...] = (Int8(), Int4(), Int4("tensor", scale="paper"), NF4(), FP4())

STARTS: Mapping[str, Quantiser | None] = {"float": None, "4 bits": NF4()}
"""What the original is: as it was trained, or as it was handed on in 4 bits (NF4) and unpacked to be unlearned."""


@dataclass(frozen=True)
class Regime:
    """A method and the learning rates that it may choose from.

    Attributes:
        method, options: without ``fit``; of ``sure``, the options of what it masks.
        factors: of the learning rate that the original was trained with.
        epochs: passes over the forget set.
        mask: of ``sure``.
    """

    method: str
    options: Mapping[str, Any]
    factors: tuple[float, ...]
    epochs: int
    mask: Mapping[str, Any] | None = None

    def candidates(self, lr: float) -> Sequence[dict[str, Any]]:
        """The method's settings, one for each learning rate."""
        made: list[dict[str, Any]] = []
        for factor in self.factors:
            fit = {"epochs": self.epochs, "batch_size": 16, "lr": lr * factor}
            options = {**self.options, "fit": fit}
            made.append(options if self.mask is None else {**self.mask, "options": options})
        return made


_RETAIN = {"retain": "nll", "alpha": 1.0}
_SURE = Regime("sure", {"retain": "nll", "alpha": 4.0}, (0.1, 0.3), 8, {"percentile": 75.0, "inner": "npo"})

FULL: Mapping[str, Regime] = {
    "NPO, small steps": Regime("npo", _RETAIN, (0.006, 0.02), 12),
    "GradDiff, small steps": Regime("grad_diff", _RETAIN, (0.003, 0.01), 12),
    "SURE over NPO, large steps": _SURE,
}
QUICK: Mapping[str, Regime] = {
    "NPO, small steps": Regime("npo", _RETAIN, (0.02, 0.04), 10),
    "SURE over NPO, large steps": _SURE,
}
