"""From one score a record to an attack's result: figures, decisions by cross-validation, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forgetmi.attacks.membership.result import (
    AttackResult,
    PartSignals,
    loss_figures,
    patient_codes,
    patient_folds,
    record_figures,
)
from forgetmi.metrics.roc import Bools, Floats, Ints, best_balanced_accuracy


def scored_result(
    scores: Floats,
    forget: PartSignals,
    test: PartSignals,
    rng: np.random.Generator,
    *,
    name: str,
    definition: str,
    options: Mapping[str, Any],
    folds: int,
    fprs: Sequence[float],
    n_resamples: int,
    level: float,
    notes: Sequence[str] = (),
    threshold: float | None = None,
    called: Bools | str | None = None,
    unit: str = "record",
) -> AttackResult:
    """The result of an attack that gives every record one score.

    AUC and TPR at an FPR need no fitting. Balanced accuracy does, unless the attack names its threshold: the threshold
    is fitted by cross-validation, folds drawn by patient within each class, and a record is only ever decided on by the
    threshold of the folds that do not hold its patient. Classes weigh the same; no record is left out.

    Args:
        scores: [n_forget + n_test], higher = member, forget records first.
        forget: members; where it has the signal ``loss``, the losses stand beside the figures.
        test: non-members, other patients.
        rng: for folds and intervals.
        name, definition, options: of the attack; the rules that all attacks share are added to the definition.
        folds: of the cross-validation; fewer where a class has fewer patients.
        fprs: false positive rates.
        n_resamples, level: of the intervals.
        notes: what the reader must know besides.
        threshold: a record is called a member from this score on, by the attack's own definition; none is fitted.
        called: decisions [n_forget + n_test] of a rule that ``definition`` states, or why there can be none; nothing is
            fitted either.
        unit: what a score is of: a record, or a patient.
    """
    n = [len(np.asarray(part.patients)) for part in (forget, test)]
    member = np.repeat([True, False], n)
    remarks, fold, rule = list(notes), np.full(scores.size, -1, dtype=np.int64), "decisions by that rule"
    if isinstance(called, str):
        remarks.append(called)
        called, rule = None, f"no decisions: {called}"
    elif called is not None:
        pass
    elif threshold is not None:
        called, rule = scores >= threshold, f"called a member from a score of {threshold:g} on"
    else:
        used = min(folds, np.unique(forget.patients).size, np.unique(test.patients).size)
        if used >= 2:
            fold = np.concatenate([patient_folds(part.patients, used, rng) for part in (forget, test)])
            called = out_of_fold_calls(scores, member, fold)
            remarks += [] if used == folds else [f"{used} folds instead of {folds}: a class has few patients"]
        else:
            remarks.append("a side has one patient: no threshold can be fitted without it")
        rule = f"threshold for balanced accuracy from {used}-fold cross-validation by patient, classes weigh the same"
    return decided_result(
        scores,
        called,
        fold,
        forget,
        test,
        rng,
        name=name,
        definition=f"{definition}; members: forget {unit}s, non-members: test {unit}s; ties count half; {rule}; "
        "TPR: the largest with realised FPR at or below the target",
        options=options,
        fprs=fprs,
        n_resamples=n_resamples,
        level=level,
        notes=remarks,
        unit=unit,
    )


def decided_result(
    scores: Floats,
    called: Bools | None,
    fold: Ints,
    forget: PartSignals,
    test: PartSignals,
    rng: np.random.Generator,
    *,
    name: str,
    definition: str,
    options: Mapping[str, Any],
    fprs: Sequence[float],
    n_resamples: int,
    level: float,
    notes: list[str],
    unit: str = "record",
) -> AttackResult:
    """The result of scores on which it is decided already.

    Args:
        scores, called: [n_forget + n_test], forget records first; no decisions: ``None``, and ``notes`` say why.
        fold: the fold that held the record out, or -1 [n].
        forget, test, rng, name, options, fprs, n_resamples, level, unit: as in :func:`scored_result`.
        definition: the whole of it.
        notes: what the reader must know.
    """
    member = np.repeat([True, False], [len(np.asarray(part.patients)) for part in (forget, test)])
    patients = np.concatenate([np.asarray(forget.patients), np.asarray(test.patients)])
    figures = record_figures(
        scores,
        called,
        member,
        patients,
        rng,
        fprs=fprs,
        n_resamples=n_resamples,
        level=level,
        no_calls="; ".join(notes),
        unit=unit,
    )
    figures |= loss_figures(forget, test, rng, n_resamples=n_resamples, level=level)
    return AttackResult(
        name=name,
        definition=definition,
        options=options,
        figures=figures,
        scores=scores,
        member=member,
        called=called,
        fold=fold,
        patient=patient_codes(patients),
        notes=notes,
    )


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
