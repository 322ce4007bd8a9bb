"""Threshold attacks: one number a record, one threshold for all (Yeom et al. 2018; Song and Mittal 2021)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from forgetmi.attacks.membership.result import (
    AttackResult,
    PartSignals,
    check_attack_options,
    check_disjoint,
    loss_figures,
    patient_codes,
    patient_folds,
    record_figures,
)
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES
from forgetmi.metrics.roc import Bools, Floats, Ints, best_balanced_accuracy


@dataclass(frozen=True)
class ThresholdAttack:
    """Members are forget records, non-members are test records; score = -signal.

    AUC and TPR at an FPR need no fitting. Balanced accuracy does: its threshold is fitted by cross-validation, folds
    drawn by patient within each class, and a record is only ever decided on by the threshold of the folds that do not
    hold its patient. Fitting and scoring weigh the two classes equally instead of drawing equal-size subsamples: no
    record is left out and no luck of a draw is added.

    Attributes:
        folds: of the cross-validation; fewer where a class has fewer patients.
        fprs: false positive rates.
        n_resamples, level: of the intervals.
    """

    name: ClassVar[str] = "loss"
    signal: ClassVar[str] = "loss"

    folds: int = 5
    fprs: tuple[float, ...] = (0.01, 0.001)
    n_resamples: int = N_RESAMPLES
    level: float = LEVEL

    def __post_init__(self) -> None:
        check_attack_options(self.folds, self.fprs, self.n_resamples, self.level)

    def result(
        self, forget: PartSignals, test: PartSignals, rng: np.random.Generator, *, retain: PartSignals | None = None
    ) -> AttackResult:
        """Attack one model.

        Args:
            forget: members; needs the signals ``loss`` and :attr:`signal`.
            test: non-members, other patients; the same signals.
            rng: for folds and intervals.
            retain: not used by this attack.

        Raises:
            AuditError: a signal is missing or not finite, or a patient stands on both sides.
        """
        check_disjoint({"forget": forget, "test": test})
        values = [forget.get(self.signal), test.get(self.signal)]
        scores = -np.concatenate(values)
        member = np.repeat([True, False], [len(v) for v in values])
        patients = np.concatenate([np.asarray(forget.patients), np.asarray(test.patients)])
        folds = min(self.folds, np.unique(forget.patients).size, np.unique(test.patients).size)
        notes = [] if folds == self.folds else [f"{folds} folds instead of {self.folds}: a class has few patients"]
        fold, called = np.full(scores.size, -1, dtype=np.int64), None
        if folds >= 2:
            fold = np.concatenate([patient_folds(part.patients, folds, rng) for part in (forget, test)])
            called = out_of_fold_calls(scores, member, fold)
        else:
            notes = ["a side has one patient: no threshold can be fitted without it"]
        figures = record_figures(
            scores,
            called,
            member,
            patients,
            rng,
            fprs=self.fprs,
            n_resamples=self.n_resamples,
            level=self.level,
            no_calls="; ".join(notes),
        )
        figures |= loss_figures(forget, test, rng, n_resamples=self.n_resamples, level=self.level)
        return AttackResult(
            name=self.name,
            definition=f"score = -{self.signal}; members: forget records, non-members: test records; ties count half; "
            f"threshold for balanced accuracy from {folds}-fold cross-validation by patient, classes weigh the same; "
            "TPR: the largest with realised FPR at or below the target",
            options={"signal": self.signal, **asdict(self), "fprs": list(self.fprs)},
            figures=figures,
            scores=scores,
            member=member,
            called=called,
            fold=fold,
            patient=patient_codes(patients),
            notes=notes,
        )


class EntropyAttack(ThresholdAttack):
    """The signal is the entropy of the prediction: it needs no label."""

    name = signal = "entropy"


class ModifiedEntropyAttack(ThresholdAttack):
    """The signal is the modified entropy, which a confident wrong answer makes large."""

    name = signal = "modified_entropy"


def out_of_fold_calls(scores: Floats, member: Bools, fold: Ints) -> Bools:
    """Decide on each record with the threshold fitted on the other folds [n]."""
    called = np.zeros(scores.size, dtype=np.bool_)
    for held_out in np.unique(fold):
        inside = fold == held_out
        called[inside] = scores[inside] >= fit_threshold(scores[~inside], member[~inside])
    return called


def fit_threshold(scores: Floats, member: Bools) -> float:
    """The threshold of highest balanced accuracy: the middle of its gap between scores.

    ``inf`` calls nobody a member and ``-inf`` everybody. Of equally good thresholds the highest is taken: the fewest
    accused.
    """
    _, best = best_balanced_accuracy(scores, member)
    lower = scores[scores < best]
    if np.isinf(best) or lower.size == 0:
        return float(best) if np.isinf(best) else -np.inf
    return float((best + lower.max()) / 2.0)
