"""The label-only attack (Choquette-Choo et al. 2021): for models that give predictions and no probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.attacks.membership.result import AttackOptions, AttackResult, PartSignals, check_disjoint
from forgetmi.attacks.membership.scored import scored_result
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import measure
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.roc import Floats, balanced_accuracy_statistic


def robustness(correct: ArrayLike) -> Floats:
    """Share of a record's queries that are answered right: [n], higher = member.

    Choquette-Choo et al. (2021, "Label-Only Membership Inference Attacks", section 4): a model answers its training
    records right even when they are changed a little, for they lie far from its decision boundary; the answers to
    augmented copies measure the distance without a probability. The paper feeds the vector of right and wrong answers
    to a classifier fitted on a shadow model. Our reading without shadow models: its sum, in which every query weighs
    the same. It takes q + 1 values (more for multilabel), so that many records tie; ties are not broken. With q = 1,
    the record alone, it is the gap attack (Yeom et al. 2018): member if and only if answered right.

    Args:
        correct: [n] or [n, q], 1 where right, 0 where wrong, or the share that is right (multilabel); the first query
            is the record as it is.

    Raises:
        AuditError: another shape, or a value outside [0, 1].
    """
    answers = np.asarray(correct, dtype=np.float64)
    if answers.ndim not in (1, 2) or answers.size == 0 or not ((answers >= 0.0) & (answers <= 1.0)).all():
        raise AuditError(f"answers {answers.shape} must be [n] or [n, q] with values in [0, 1]: right 1, wrong 0")
    result: Floats = answers.reshape(len(answers), -1).mean(axis=1)
    return result


@dataclass(frozen=True)
class LabelOnlyAttack(AttackOptions):
    """Labels alone: the share of a record's copies, itself and noisy ones, that are answered right.

    Score: :func:`robustness`. With one query a record is called a member if it is answered right, and no threshold is
    fitted. With more, the threshold is fitted by cross-validation, and ``balanced_accuracy@gap`` gives the gap attack
    beside it: with train accuracy a and test accuracy b it is 1/2 + (a - b) / 2, by definition.
    Scores take few values, so that a false positive rate between two of them is not reached.
    """

    name: ClassVar[str] = "label_only"
    signals: ClassVar[tuple[str, ...]] = ("correct",)

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
            forget: members; the signal ``correct``, the record as it is first.
            test: non-members, other patients; as many queries a record.
            rng: for folds and intervals.
            retain, population: not used by this attack.

        Raises:
            AuditError: the signal is missing, not in [0, 1] or of another number of queries, or a patient stands on
                both sides.
        """
        check_disjoint({"forget": forget, "test": test})
        asked = [part.queries("correct") for part in (forget, test)]
        n_queries = [answers.shape[1] for answers in asked]
        if n_queries[0] != n_queries[1]:
            raise AuditError(f"{n_queries[0]} queries a forget record and {n_queries[1]} a test record: ask alike")
        answers = np.concatenate(asked)
        noisy = n_queries[0] > 1
        what = f"{n_queries[0]} queries (the record and {n_queries[0] - 1} noisy copies)" if noisy else "one query"
        made = scored_result(
            robustness(answers),
            forget,
            test,
            rng,
            name=self.name,
            definition=f"score = share of right answers to {what}; only predicted labels are used",
            options={**asdict(self), "fprs": list(self.fprs), "n_queries": n_queries[0]},
            folds=self.folds,
            fprs=self.fprs,
            n_resamples=self.n_resamples,
            level=self.level,
            threshold=None if noisy else 1.0,
        )
        right, member = answers[:, 0] >= 1.0, np.repeat([True, False], [len(part) for part in asked])
        patients = np.concatenate([np.asarray(forget.patients), np.asarray(test.patients)])
        gap = measure(
            "balanced_accuracy@gap",
            balanced_accuracy_statistic(right, member),
            PatientBootstrap(patients, rng, strata=member, n_resamples=self.n_resamples, level=self.level),
            direction="remembers_above",
            sentence="Calling members the records that are answered right, without noise, tells {value:.1%} apart "
            "(guessing: 50 %).",
            bounds=(0.0, 1.0),
            counts={
                "tp": int((right & member).sum()),
                "fp": int((right & ~member).sum()),
                "n_members": int(member.sum()),
                "n_nonmembers": int((~member).sum()),
            },
        )
        return replace(made, figures={**made.figures, gap.name: gap})
