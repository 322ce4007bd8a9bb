"""What a population attack takes and gives.

A population attack is one rule for all records: it sees a scalar of each forget record (members) and of each test
record (non-members) and calls records members. Folds and intervals go by patient; patients enter results as arbitrary
numbers, never by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.figure import Figure, absent, measure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, PatientBootstrap
from forgetmi.metrics.roc import (
    Bools,
    Floats,
    Ints,
    RocCurve,
    auc_statistic,
    balanced_accuracy_statistic,
    check_scores,
    mean_statistic,
    roc_curve,
    tpr_at_fpr,
    tpr_at_fpr_statistic,
)

LANGUAGE_SIGNALS = ("zlib", "min_k", "min_k_plus_plus", "gradient_norm", "perturbation")
"""Signals that language models are asked for; see :mod:`forgetmi.attacks.membership.language_signals`."""


@dataclass(frozen=True)
class References:
    """The same signals of the same records under K reference models.

    Attributes:
        signals: name to [K, n], or [K, n, q] with q queries (augmented views) a record.
        seen: [K, n]: whether reference k saw the record: trained on it (``shadows``), or trained on it and then
            unlearned it (``unlearned_shadows``). Retrained models saw neither forget nor test records.
    """

    signals: Mapping[str, ArrayLike]
    seen: ArrayLike


@dataclass(frozen=True)
class PartSignals:
    """Signals of a part's records under one model.

    Attributes:
        signals: name (``loss``, ``entropy``, ``modified_entropy``, ``scaled_logit``; of language models also
            :data:`LANGUAGE_SIGNALS`) to one value a record [n], or to [n, q] of q queries a record.
        patients: patient of each record [n].
        references: what is known of them under reference models: ``shadows``, ``unlearned_shadows``, ``retrained``.
    """

    signals: Mapping[str, ArrayLike]
    patients: ArrayLike
    references: Mapping[str, References] = field(default_factory=dict)

    def get(self, name: str) -> Floats:
        """One signal [n].

        Raises:
            AuditError: there is none of that name, its length differs from the patients', or it is not finite.
        """
        values = self.queries(name)
        if values.shape[1] != 1:
            raise AuditError(f"signal {name!r} has {values.shape[1]} queries a record: this attack takes one")
        return values[:, 0]

    def queries(self, name: str) -> Floats:
        """One signal [n, q]; q = 1 where there is one value a record. Raises as :meth:`get`."""
        values = _finite(f"signal {name!r}", self._named(self.signals, name, ""))
        patients = np.asarray(self.patients)
        if values.ndim not in (1, 2) or values.shape[:1] != patients.shape or values.size == 0:
            raise AuditError(f"signal {name!r} {values.shape} and patients {patients.shape}: one value a record, n > 0")
        return values.reshape(len(values), -1)

    def under_references(self, kind: str, name: str) -> tuple[Floats, Bools]:
        """A signal [K, n, q] under reference models of a kind, and which of them saw which record [K, n].

        Raises:
            AuditError: there are none, shapes do not fit, or a value is not finite.
        """
        if kind not in self.references:
            raise AuditError(
                f"the attack compares with reference models of the kind {kind!r}, and there are none",
                expected=f"given: {', '.join(self.references) or 'no reference models'}",
                fix="shadow models: set audit.shadows; a file of signals: give rows of reference models",
            )
        references, n = self.references[kind], len(np.asarray(self.patients))
        values = _finite(f"signal {name!r} of {kind}", self._named(references.signals, name, f" of {kind}"))
        seen = np.asarray(references.seen, dtype=np.bool_)
        if values.ndim not in (2, 3) or values.shape[:2] != seen.shape or seen.shape[1] != n:
            raise AuditError(
                f"signal {name!r} of {kind} {values.shape}, seen {seen.shape}: [K, n] or [K, n, q], n = {n}"
            )
        return values.reshape(*seen.shape, -1), seen

    def _named(self, signals: Mapping[str, ArrayLike], name: str, of: str) -> Floats:
        if name not in signals:
            language = "it is one of language models: name it where their signals are scored, or leave the attack out"
            raise AuditError(
                f"the attack needs the signal {name!r}{of}",
                expected=f"given: {', '.join(signals)}",
                fix=language if name in LANGUAGE_SIGNALS else None,
            )
        return np.asarray(signals[name], dtype=np.float64)


def _finite(what: str, values: Floats) -> Floats:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise AuditError(f"{what}: {wrong} of {values.size} values are not finite")
    return values


@dataclass(frozen=True)
class AttackResult:
    """What an attack found on one model.

    Attributes:
        name: the attack.
        definition: what exactly was done, with its options named: figures of other definitions do not compare.
        options: the options.
        figures: key to figure. Every attack gives ``share_called_member`` (of the forget records), ``forget_loss`` and
            ``test_loss`` (a low attack figure beside an enormous forget loss is over-forgetting, not success);
            per-record attacks add ``auc``, ``balanced_accuracy`` and ``tpr_at_fpr_<target>``.
        comparison_only: the figure is here to be compared with published ones; no verdict may rest on it.
        scores, member, called, fold, patient: one entry a scored record, forget records first: score (higher = member),
            truth, decision, the fold that held the record out (-1: none) and the patient as an arbitrary number.
            ``None`` where the attack scores no records.
        notes: what the reader must know (sub-sampling, folds that were reduced).
    """

    name: str
    definition: str
    options: Mapping[str, Any]
    figures: Mapping[str, Figure]
    comparison_only: bool = False
    scores: Floats | None = None
    member: Bools | None = None
    called: Bools | None = None
    fold: Ints | None = None
    patient: Ints | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def roc(self) -> RocCurve | None:
        """The curve behind the figures."""
        return None if self.scores is None or self.member is None else roc_curve(self.scores, self.member)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Per-record arrays for a side file: with them every figure can be computed again."""
        named = {name: getattr(self, name) for name in ("scores", "member", "called", "fold", "patient")}
        return {name: value for name, value in named.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-record arrays, JSON-able."""
        return {
            "name": self.name,
            "definition": self.definition,
            "options": dict(self.options),
            "comparison_only": self.comparison_only,
            "figures": {key: figure.to_dict() for key, figure in self.figures.items()},
            "roc": None if self.roc is None else self.roc.to_dict(),
            "notes": list(self.notes),
        }


def check_attack_options(
    folds: int, fprs: Sequence[float], n_resamples: int, level: float, own: Sequence[str] = ()
) -> None:
    """Raise :class:`ConfigError` with everything that is wrong, with what is wrong with options of the attack's own."""
    problems = list(own)
    if folds < 2:
        problems.append(f"folds must be at least 2, not {folds}: a record may not be scored on what it was fitted on")
    problems += [f"fprs: a false positive rate lies in (0, 1), not {fpr}" for fpr in fprs if not 0.0 < fpr < 1.0]
    if n_resamples < 100:
        problems.append(f"n_resamples must be at least 100, not {n_resamples}")
    if not 0.0 < level < 1.0:
        problems.append(f"level must lie in (0, 1), not {level}")
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True)
class AttackOptions:
    """Base of the attacks: the options that all have, and what each of them needs.

    Attributes:
        references: kinds of reference models that it can compare with, in order of preference; none: it compares with
            none.
        needs_population: whether it needs records of other patients that nobody trained on.
        signals: that it reads.
        folds: of the cross-validation; fewer where a class has fewer patients.
        fprs: false positive rates.
        n_resamples, level: of the intervals.
    """

    references: ClassVar[tuple[str, ...]] = ()
    needs_population: ClassVar[bool] = False
    signals: ClassVar[tuple[str, ...]] = ("loss",)

    folds: int = 5
    fprs: tuple[float, ...] = (0.1, 0.01, 0.001)
    n_resamples: int = N_RESAMPLES
    level: float = LEVEL

    def __post_init__(self) -> None:
        check_attack_options(self.folds, self.fprs, self.n_resamples, self.level, self.problems())

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        return []


def patient_codes(patients: ArrayLike) -> Ints:
    """Patients as numbers, by first appearance [n]."""
    _, first, codes = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[codes]


def patient_folds(patients: ArrayLike, folds: int, rng: np.random.Generator) -> Ints:
    """A fold for each record [n]: a patient's records share one, and folds hold as many patients as can be, plus one.

    The assignment depends on the patients, not on the order of the records.
    """
    names, codes = np.unique(np.asarray(patients), return_inverse=True)
    of_patient = np.empty(names.size, dtype=np.int64)
    of_patient[rng.permutation(names.size)] = np.arange(names.size) % folds
    return of_patient[codes]


def check_disjoint(parts: Mapping[str, PartSignals]) -> None:
    """Raise :class:`AuditError` if a patient stands in two parts."""
    seen: dict[Any, str] = {}
    for name, part in parts.items():
        for patient in np.unique(np.asarray(part.patients)).tolist():
            if patient in seen:
                raise AuditError(
                    f"a patient stands in {seen[patient]} and in {name}",
                    expected="parts that are disjoint by patient",
                    private=[str(patient)],
                )
            seen[patient] = name


def loss_figures(
    forget: PartSignals, test: PartSignals, rng: np.random.Generator, *, n_resamples: int, level: float
) -> dict[str, Figure]:
    """Forget and test loss, which stand beside every attack figure; none where no loss is known (labels only)."""
    figures: dict[str, Figure] = {}
    if "loss" not in forget.signals or "loss" not in test.signals:
        return figures
    for part, signals in (("forget", forget), ("test", test)):
        bootstrap = PatientBootstrap(signals.patients, rng, n_resamples=n_resamples, level=level)
        figures[f"{part}_loss"] = measure(
            f"{part}_loss",
            mean_statistic(signals.get("loss")),
            bootstrap,
            direction="remembers_below" if part == "forget" else "useful_below",
            sentence=f"The mean loss on {part} records is {{value:.3f}} nats.",
        )
    return figures


def record_figures(
    scores: Floats,
    called: Bools | None,
    member: Bools,
    patients: ArrayLike,
    rng: np.random.Generator,
    *,
    fprs: Sequence[float],
    n_resamples: int,
    level: float,
    no_calls: str = "",
    unit: str = "record",
) -> dict[str, Figure]:
    """AUC, balanced accuracy, share of forget records called member, and TPR at each FPR.

    Args:
        scores: [n], higher = member; forget records first.
        called: decisions [n] of rules that never saw the record, or ``None`` with the reason ``no_calls``.
        member: truth [n].
        patients: [n].
        rng, n_resamples, level: of the intervals, in which folds and decisions stay as they are.
        fprs: false positive rates.
        no_calls: why there are no decisions.
        unit: what a score is of, for the sentences.
    """
    scores, member = check_scores(scores, member)
    bootstrap = PatientBootstrap(patients, rng, strata=member, n_resamples=n_resamples, level=level)
    own = PatientBootstrap(np.asarray(patients)[member], rng, n_resamples=n_resamples, level=level)
    counts = {"n_members": int(member.sum()), "n_nonmembers": int((~member).sum())}
    figures = {
        "auc": measure(
            "auc",
            auc_statistic(scores, member),
            bootstrap,
            direction="remembers_above",
            sentence=f"The attack ranks a forget {unit} above a test {unit} in {{value:.1%}} of pairs "
            "(guessing: 50 %).",
            bounds=(0.0, 1.0),
            counts=counts,
        )
    }
    if called is None:
        figures["balanced_accuracy"] = absent(
            "balanced_accuracy", no_calls, bootstrap, direction="remembers_above", counts=counts
        )
        figures["share_called_member"] = absent("share_called_member", no_calls, own, direction="remembers_above")
    else:
        hits = {"tp": int((called & member).sum()), "fp": int((called & ~member).sum()), **counts}
        figures["balanced_accuracy"] = measure(
            "balanced_accuracy",
            balanced_accuracy_statistic(called, member),
            bootstrap,
            direction="remembers_above",
            sentence=f"With forget and test {unit}s weighing the same, {{value:.1%}} are told apart (guessing: 50 %).",
            bounds=(0.0, 1.0),
            counts=hits,
        )
        figures["share_called_member"] = measure(
            "share_called_member",
            mean_statistic(called[member]),
            own,
            direction="remembers_above",
            sentence=f"{{value:.1%}} of the forget {unit}s are called members.",
            bounds=(0.0, 1.0),
            counts={"tp": hits["tp"], "n_members": counts["n_members"]},
        )
    for fpr in fprs:
        name = f"tpr_at_fpr_{fpr:g}"
        point = tpr_at_fpr(scores, member, fpr)
        with_point = {"tp": point.tp, "fp": point.fp, **counts}
        if point.reason is not None:
            figures[name] = absent(name, point.reason, bootstrap, direction="remembers_above", counts=with_point)
            continue
        figures[name] = measure(
            name,
            tpr_at_fpr_statistic(scores, member, fpr),
            bootstrap,
            direction="remembers_above",
            sentence=f"{point.tp} of {point.n_members} forget {unit}s ({{value:.1%}}) are found while {point.fp} of "
            f"{point.n_nonmembers} test {unit}s are accused.",
            bounds=(0.0, 1.0),
            counts=with_point,
        )
    return figures
