"""The membership attack published with Forget-MI: a support vector classifier on the loss.

As published: ``SVC(C=3, kernel="rbf", gamma="auto")`` on the scalar loss, label 1 for retain and 0 for test; the figure
is the share of forget points that it calls 1. Its points are means over batches of 32, seven to twenty-two for the
forget set, against ten times as many retain as test points, and it is fitted on the test points that stand for
"never seen". :class:`PublishedSvcAttack` does that, for comparison with published tables only. :class:`SvcAttack` is
the same classifier made sound: one point a record, balanced, and nobody scored by a model that was fitted on them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.svm import SVC

from forgetmi.attacks.membership.result import (
    AttackOptions,
    AttackResult,
    PartSignals,
    check_attack_options,
    check_disjoint,
    loss_figures,
    patient_folds,
)
from forgetmi.attacks.membership.scored import decided_result
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, Interval
from forgetmi.metrics.roc import Floats


@dataclass(frozen=True)
class SvcAttack(AttackOptions):
    """The published classifier, per record.

    Test and forget patients are dealt into folds. The model of a fold is fitted on the test records of the other folds
    and on as many retain records, drawn without replacement; it scores the forget and test records of its fold. So
    forget records are scored by models that never saw them, like test records, and each by exactly one model, so that
    both kinds of scores carry the same noise. Score = decision value; "member" is a positive one.

    Attributes:
        folds: fewer where there are fewer test patients.
        max_records: of a class in one fit (a support vector fit is quadratic in them).
    """

    name: ClassVar[str] = "svc"

    max_records: int = 2000

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        return [] if self.max_records >= 2 else [f"max_records must be at least 2, not {self.max_records}"]

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
            forget: the records that are asked about; signal ``loss``.
            test: non-members, other patients.
            rng: for folds, subsamples and intervals.
            retain: members to learn from, other patients. Required.
            population: not used by this attack.

        Raises:
            AuditError: no retain records, fewer than two test patients, a signal is missing or not finite, or a patient
                stands in two parts.
        """
        if retain is None:
            raise AuditError(f"attack {self.name!r} learns what a member looks like from retain records: pass `retain`")
        check_disjoint({"forget": forget, "test": test, "retain": retain})
        folds = min(self.folds, np.unique(test.patients).size)
        if folds < 2:
            raise AuditError("one test patient: the attack cannot be fitted on one and scored on another")
        notes = [] if folds == self.folds else [f"{folds} folds instead of {self.folds}: few test patients"]
        forget_fold = patient_folds(forget.patients, folds, rng)
        test_fold = patient_folds(test.patients, folds, rng)
        forget_loss, test_loss = forget.get("loss"), test.get("loss")
        # sorted: neither the subsample nor the fit may depend on the order in which records were given
        seen = np.sort(retain.get("loss"))
        scores = np.empty(forget_loss.size + test_loss.size)
        fold = np.concatenate([forget_fold, test_fold])
        losses = np.concatenate([forget_loss, test_loss])
        fitted = []
        for held_out in range(folds):
            unseen = np.sort(test_loss[test_fold != held_out])
            size = min(unseen.size, seen.size, self.max_records)
            fitted.append(size)
            members = np.sort(rng.choice(seen, size, replace=False))
            others = unseen if size == unseen.size else np.sort(rng.choice(unseen, size, replace=False))
            inside = fold == held_out
            if inside.any():
                scores[inside] = fit_svc(members, others).decision_function(losses[inside][:, None])
        notes.append(f"each fit saw {min(fitted)} to {max(fitted)} retain records and as many test records")
        return decided_result(
            scores,
            scores > 0.0,
            fold,
            forget,
            test,
            rng,
            name=self.name,
            definition="SVC(C=3, rbf, gamma=auto) on the loss of one record, retain (1) against test (0), as many of "
            f"each; {folds}-fold cross-validation by patient; score = decision value of the one model that saw neither "
            "the record nor its patient; member: score above 0",
            options={**asdict(self), "fprs": list(self.fprs)},
            fprs=self.fprs,
            n_resamples=self.n_resamples,
            level=self.level,
            notes=notes,
        )


@dataclass(frozen=True)
class PublishedSvcAttack:
    """The published form, for comparison only: batch means, unbalanced, fitted on the whole test set.

    Its figure moves in steps of 1 / (number of forget batches) and depends on the order of the records and on the batch
    size. No interval can be given: a batch mixes patients.

    Attributes:
        batch_size: records a batch; the last batch may be smaller (whether the published run kept it is not said).
        n_resamples, level: of the intervals of the losses beside it.
    """

    name: ClassVar[str] = "published_svc"
    references: ClassVar[tuple[str, ...]] = ()
    needs_population: ClassVar[bool] = False
    signals: ClassVar[tuple[str, ...]] = ("loss",)

    batch_size: int = 32
    n_resamples: int = N_RESAMPLES
    level: float = LEVEL

    def __post_init__(self) -> None:
        own = [] if self.batch_size >= 1 else [f"batch_size must be at least 1, not {self.batch_size}"]
        check_attack_options(2, (), self.n_resamples, self.level, own)

    def result(
        self,
        forget: PartSignals,
        test: PartSignals,
        rng: np.random.Generator,
        *,
        retain: PartSignals | None = None,
        population: PartSignals | None = None,
    ) -> AttackResult:
        """Attack one model, records batched in the order given.

        Raises:
            AuditError: no retain records, a signal is missing or not finite, or a patient stands in two parts.
        """
        if retain is None:
            raise AuditError(f"attack {self.name!r} learns what a member looks like from retain records: pass `retain`")
        check_disjoint({"forget": forget, "test": test, "retain": retain})
        asked, unseen, seen = (batch_means(part.get("loss"), self.batch_size) for part in (forget, test, retain))
        calls = fit_svc(seen, unseen).predict(asked[:, None]) == 1
        hits, n_patients = int(calls.sum()), int(np.unique(forget.patients).size)
        reason = "a batch mean mixes patients: no interval can be given"
        figure = Figure(
            name="share_called_member",
            value=hits / asked.size,
            interval=Interval.none(reason, n_patients=n_patients, level=self.level),
            n_patients=n_patients,
            n_samples=forget.get("loss").size,
            direction="remembers_above",
            sentence=f"For comparison only: {hits} of {asked.size} forget batches are called members.",
            counts={"tp": hits, "n_forget": asked.size, "n_retain": seen.size, "n_test": unseen.size},
        )
        losses = loss_figures(forget, test, rng, n_resamples=self.n_resamples, level=self.level)
        return AttackResult(
            name=self.name,
            definition="FOR COMPARISON ONLY, as published with Forget-MI: SVC(C=3, rbf, gamma=auto) on mean losses of "
            f"batches of {self.batch_size}, retain (1) against test (0), unbalanced; share of forget batches called 1",
            options=asdict(self),
            figures={"share_called_member": figure, **losses},
            comparison_only=True,
            notes=[f"the figure moves in steps of 1/{asked.size} and depends on batch size and order of the records"],
        )


def fit_svc(members: ArrayLike, others: ArrayLike) -> SVC:
    """SVC(C=3, rbf, gamma=auto), fitted on losses of members (label 1) and others (label 0)."""
    seen, unseen = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    labels = np.repeat([1, 0], [seen.size, unseen.size])
    # a seed, which nothing uses, or numpy's global generator is asked for one
    return SVC(C=3, kernel="rbf", gamma="auto", random_state=0).fit(np.concatenate([seen, unseen])[:, None], labels)


def batch_means(values: Floats, batch_size: int) -> Floats:
    """Means of consecutive batches, in the order given; the last one may be smaller."""
    starts = np.arange(0, values.size, batch_size)
    return np.add.reduceat(values, starts) / np.diff(np.append(starts, values.size))
