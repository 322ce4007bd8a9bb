"""Threshold attacks: one number a record, one threshold for all (Yeom et al. 2018; Song and Mittal 2021).

Those on signals of language models stand in :mod:`forgetmi.attacks.membership.language`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from forgetmi.attacks.membership.result import AttackOptions, AttackResult, PartSignals, check_disjoint
from forgetmi.attacks.membership.scored import scored_result
from forgetmi.metrics.roc import Floats


@dataclass(frozen=True)
class ThresholdAttack(AttackOptions):
    """Members are forget records, non-members are test records; score = -signal, or the signal where :attr:`higher`.

    AUC and TPR at an FPR need no fitting. Balanced accuracy does: its threshold is fitted by cross-validation, folds
    drawn by patient within each class, and a record is only ever decided on by the threshold of the folds that do not
    hold its patient. Fitting and scoring weigh the two classes equally instead of drawing equal-size subsamples: no
    record is left out and no luck of a draw is added.
    """

    name: ClassVar[str] = "loss"
    signal: ClassVar[str] = "loss"
    higher: ClassVar[bool] = False  # whether members have the higher signal

    def scored(self, signal: Floats) -> tuple[Floats, str]:
        """Scores [n], higher = member, from the signal [n]; and how they are made."""
        return (signal, f"score = {self.signal}") if self.higher else (-signal, f"score = -{self.signal}")

    def result(
        self,
        forget: PartSignals,
        test: PartSignals,
        rng: np.random.Generator,
        *,
        retain: PartSignals | None = None,
        population: PartSignals | None = None,
    ) -> AttackResult:
        """Attack one model.

        Args:
            forget: members; needs the signals ``loss`` and :attr:`signal`.
            test: non-members, other patients; the same signals.
            rng: for folds and intervals.
            retain, population: not used by this attack.

        Raises:
            AuditError: a signal is missing or not finite, or a patient stands on both sides.
        """
        check_disjoint({"forget": forget, "test": test})
        scores, definition = self.scored(np.concatenate([forget.get(self.signal), test.get(self.signal)]))
        return scored_result(
            scores,
            forget,
            test,
            rng,
            name=self.name,
            definition=definition,
            options={"signal": self.signal, **asdict(self), "fprs": list(self.fprs)},
            folds=self.folds,
            fprs=self.fprs,
            n_resamples=self.n_resamples,
            level=self.level,
        )


class EntropyAttack(ThresholdAttack):
    """The signal is the entropy of the prediction: it needs no label."""

    name = signal = "entropy"
    signals = ("entropy",)


class ModifiedEntropyAttack(ThresholdAttack):
    """The signal is the modified entropy, which a confident wrong answer makes large."""

    name = signal = "modified_entropy"
    signals = ("modified_entropy",)
