"""How well a classifier serves: accuracy, AUC, F1, cross-entropy and calibration, from probabilities and labels.

Each figure has a patient-clustered interval. Averages over classes are over the classes that the labels hold; those
that they do not hold are named in the result. A resample without one of the former leaves its average undefined and is
counted, not scored.

Binned calibration error (ECE, Guo et al. 2017: equal-width bins of the confidence, sum of |accuracy - confidence|
weighted by share) is biased upwards in resamples, so it has no interval; the Brier score, a mean, has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Direction, Figure, absent, measure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, Interval, PatientBootstrap
from forgetmi.metrics.roc import Floats, Statistic, auc_statistic, evaluate, mean_statistic

Ints = NDArray[np.int64]
ECE_BINS = 15
_NO_ECE_INTERVAL = "binned calibration error is biased upwards in resamples: no interval is given"


@dataclass(frozen=True)
class Utility:
    """Figures of one model on one part.

    Attributes:
        figures: key to figure: ``accuracy``, ``auc``, ``macro_f1``, ``cross_entropy``, ``brier``, ``ece``; ordinal
            labels add ``quadratic_kappa`` and ``mean_absolute_error``.
        class_counts: records of each class (multilabel: positives of each label).
        absent_classes: classes without a record (multilabel: labels without both values): in no average.
        ece_bins: number of equal-width bins behind ``ece``.
    """

    figures: Mapping[str, Figure]
    class_counts: tuple[int, ...]
    absent_classes: tuple[int, ...]
    ece_bins: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "class_counts": list(self.class_counts),
            "absent_classes": list(self.absent_classes),
            "ece_bins": self.ece_bins,
        }


@dataclass(frozen=True)
class _Measurer:
    """Turns statistics into figures whose direction fits the part: on the forget set, accuracy is memory."""

    bootstrap: PatientBootstrap
    forgotten: bool

    def direction(self, better: Literal["above", "below"]) -> Direction:
        if self.forgotten:
            return "remembers_above" if better == "above" else "remembers_below"
        return "useful_above" if better == "above" else "useful_below"

    def __call__(
        self,
        name: str,
        statistic: Statistic,
        sentence: str,
        *,
        better: Literal["above", "below"] = "above",
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> Figure:
        direction = self.direction(better)
        return measure(name, statistic, self.bootstrap, direction=direction, sentence=sentence, bounds=bounds)

    def absent(self, name: str, reason: str) -> Figure:
        return absent(name, reason, self.bootstrap, direction=self.direction("above"))

    def ece(self, name: str, value: float, bins: int) -> Figure:
        return Figure(
            name=name,
            value=value,
            interval=Interval.none(_NO_ECE_INTERVAL, n_patients=self.bootstrap.n_patients, level=self.bootstrap.level),
            n_patients=self.bootstrap.n_patients,
            n_samples=self.bootstrap.n_records,
            direction="useful_below",
            sentence=f"Stated confidence and accuracy differ by {value:.3f} on average ({bins} bins).",
        )


def multiclass_utility(
    probabilities: ArrayLike,
    labels: ArrayLike,
    patients: ArrayLike,
    rng: np.random.Generator,
    *,
    forgotten: bool,
    nll: ArrayLike | None = None,
    ordinal: bool = False,
    bins: int = ECE_BINS,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Utility:
    """Utility of a multiclass (or ordinal) classifier.

    Args:
        probabilities: [N, C], rows sum to 1.
        labels: class index of each record [N].
        patients: patient of each record [N].
        rng: for the intervals.
        forgotten: whether the records are the forget set, where good scores mean memory and not usefulness.
        nll: negative log-likelihood [N], nats, computed from logits. Needed when a label's probability rounded to 0.
        ordinal: classes are ordered: adds quadratic-weighted kappa and mean absolute error of the predicted class.
        bins: equal-width confidence bins of the calibration error.
        n_resamples, level: of the intervals.

    Raises:
        AuditError: shapes, probabilities or labels are not as above, or a log-likelihood is infinite.
    """
    p = _probabilities(probabilities, rows_sum_to_one=True)
    n, n_classes = p.shape
    y = np.asarray(labels)
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= n_classes:
        raise AuditError(f"labels must be {n} class indices in 0..{n_classes - 1}")
    predicted = p.argmax(axis=1)
    counts = np.bincount(y, minlength=n_classes)
    present = np.flatnonzero(counts)
    figure = _Measurer(PatientBootstrap(patients, rng, n_resamples=n_resamples, level=level), forgotten)
    _same_length(figure.bootstrap, n)
    correct = predicted == y
    brier = ((p - np.eye(n_classes)[y]) ** 2).sum(axis=1)
    # one class in the labels: there is nobody to rank it against
    ranked = present if present.size > 1 else present[:0]
    figures = [
        figure("accuracy", mean_statistic(correct), "{value:.1%} of the records are classified correctly."),
        _macro_auc(figure, [(p[:, c], y == c) for c in ranked]),
        figure("macro_f1", _macro_f1(y[:, None] == present, predicted[:, None] == present), "Macro-F1 is {value:.3f}."),
        figure(
            "cross_entropy",
            mean_statistic(_log_loss(p[np.arange(n), y], nll)),
            "The mean negative log-likelihood is {value:.3f} nats.",
            better="below",
            bounds=None,
        ),
        figure("brier", mean_statistic(brier), "The Brier score is {value:.3f}.", better="below", bounds=(0.0, 2.0)),
        figure.ece("ece", expected_calibration_error(p.max(axis=1), correct, bins), bins),
    ]
    if ordinal:
        distance = np.abs(predicted - y)
        kappa = _quadratic_kappa(y, predicted, n_classes)
        text = "Quadratic-weighted kappa is {value:.3f}."
        off = "The predicted class is off by {value:.3f} steps on average."
        figures += [
            figure("quadratic_kappa", kappa, text, bounds=(-1.0, 1.0))
            if np.isfinite(evaluate(kappa, n))
            else figure.absent("quadratic_kappa", "labels and predictions hold one class: kappa is undefined"),
            figure("mean_absolute_error", mean_statistic(distance), off, better="below", bounds=(0.0, n_classes - 1.0)),
        ]
    missing = np.setdiff1d(np.arange(n_classes), present)
    return Utility({f.name: f for f in figures}, tuple(counts.tolist()), tuple(missing.tolist()), bins)


def multilabel_utility(
    probabilities: ArrayLike,
    labels: ArrayLike,
    patients: ArrayLike,
    rng: np.random.Generator,
    *,
    forgotten: bool,
    nll: ArrayLike | None = None,
    bins: int = ECE_BINS,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Utility:
    """Utility of a multilabel classifier; unknown labels (NaN) count nowhere.

    Accuracy, Brier and calibration are over known (record, label) pairs, a label being predicted at probability 1/2 or
    more; AUC and F1 are averages over labels; cross-entropy is the sum over a record's known labels, averaged over
    records.

    Args:
        probabilities: [N, L], each in [0, 1].
        labels: [N, L] of 0, 1 or NaN (unknown).
        patients: patient of each record [N].
        rng: for the intervals.
        forgotten, nll, bins, n_resamples, level: as in :func:`multiclass_utility`.

    Raises:
        AuditError: shapes, probabilities or labels are not as above, or a log-likelihood is infinite.
    """
    p = _probabilities(probabilities, rows_sum_to_one=False)
    y = np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(y)
    if y.shape != p.shape or not np.isin(y[known], (0.0, 1.0)).all() or not known.any():
        raise AuditError(f"labels must be {p.shape} of 0, 1 or NaN (unknown), some of them known")
    figure = _Measurer(PatientBootstrap(patients, rng, n_resamples=n_resamples, level=level), forgotten)
    _same_length(figure.bootstrap, p.shape[0])
    true, predicted = y == 1.0, p >= 0.5
    correct = (predicted == true) & known
    positives, negatives = true.sum(axis=0), (known & ~true).sum(axis=0)
    both = np.flatnonzero((positives > 0) & (negatives > 0))
    of_label = np.where(true, p, 1.0 - p)
    sure = np.maximum(p, 1.0 - p)
    figures = [
        figure("accuracy", _pairs_mean(correct, known), "{value:.1%} of the known labels are predicted correctly."),
        _macro_auc(figure, [(p[:, c], np.where(known[:, c], true[:, c], False), known[:, c]) for c in both]),
        figure("macro_f1", _macro_f1(true[:, both], (predicted & known)[:, both]), "Macro-F1 is {value:.3f}.")
        if both.size
        else figure.absent("macro_f1", "no label has both values"),
        figure(
            "cross_entropy",
            mean_statistic(_log_loss(np.where(known, of_label, 1.0), nll, axis=1)),
            "The negative log-likelihood, summed over a record's labels, is {value:.3f} nats on average.",
            better="below",
            bounds=None,
        ),
        figure(
            "brier",
            _pairs_mean(np.where(known, (1.0 - of_label) ** 2, 0.0), known),
            "The Brier score is {value:.3f}.",
            better="below",
        ),
        figure.ece("ece", expected_calibration_error(sure[known], correct[known], bins), bins),
    ]
    missing = np.setdiff1d(np.arange(p.shape[1]), both)
    return Utility({f.name: f for f in figures}, tuple(positives.tolist()), tuple(missing.tolist()), bins)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = ECE_BINS) -> float:
    """Sum over equal-width bins of share * |accuracy - mean confidence|; a bin is (low, high], 0 falls in the first."""
    if bins < 1:
        raise AuditError(f"calibration needs at least one bin, not {bins}")
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    # the edges, not ceil(confidence * bins): both sides of the comparison then round alike
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    gap = np.bincount(np.searchsorted(edges, sure, side="left"), weights=right - sure, minlength=bins)
    return float(np.abs(gap).sum() / sure.size)


def _macro_auc(figure: _Measurer, rankings: list[tuple[NDArray[Any], ...]]) -> Figure:
    """Mean of one-vs-rest AUCs; a ranking is (scores, positive[, known])."""
    if not rankings:
        return figure.absent("auc", "no class can be ranked against another: the labels hold one value")
    statistics = []
    for scores, positive, *known in rankings:
        rows = np.flatnonzero(known[0]) if known else np.arange(len(scores))
        statistics.append((rows, auc_statistic(scores[rows], positive[rows])))

    def macro(weights: Floats) -> Floats:
        return np.mean([statistic(weights[:, rows]) for rows, statistic in statistics], axis=0)

    count = len(statistics)
    return figure("auc", macro, f"One-vs-rest AUC, averaged over {count} classes, is {{value:.3f}}.")


def _macro_f1(true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Statistic:
    """Mean over columns of 2 tp / (2 tp + fp + fn), from [N, K] decisions; undefined without a true one in a column."""
    truth = true.astype(np.float64)
    doubled_hits, mass = 2.0 * (true & predicted), truth + predicted

    def statistic(weights: Floats) -> Floats:
        hits, total = weights @ doubled_hits, weights @ mass
        scores = np.divide(hits, total, out=np.full_like(hits, np.nan), where=(weights @ truth) > 0)
        return scores.mean(axis=1)

    return statistic


def _quadratic_kappa(y: Ints, predicted: Ints, n_classes: int) -> Statistic:
    """1 - sum(w O) / sum(w E) over (label i, prediction j), w = (i - j) ** 2 (Cohen 1968)."""
    grades = np.arange(n_classes)
    penalty = (grades[:, None] - grades) ** 2
    one_hot = np.eye(n_classes)
    distance = penalty[y, predicted].astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        labels, calls = weights @ one_hot[y], weights @ one_hot[predicted]
        expected = np.einsum("ri,ij,rj->r", labels, penalty, calls) / weights.sum(axis=1)
        ratio = np.divide(weights @ distance, expected, out=np.full_like(expected, np.nan), where=expected > 0)
        return 1.0 - ratio

    return statistic


def _pairs_mean(values: NDArray[Any], known: NDArray[np.bool_]) -> Statistic:
    """Mean over known (record, label) pairs."""
    totals, sizes = values.sum(axis=1).astype(np.float64), known.sum(axis=1).astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        size = weights @ sizes
        return np.divide(weights @ totals, size, out=np.full_like(size, np.nan), where=size > 0)

    return statistic


def _probabilities(probabilities: ArrayLike, *, rows_sum_to_one: bool) -> Floats:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.size == 0:
        raise AuditError(f"probabilities must be [records, classes], not {p.shape}")
    # 1e-3: single and half precision softmax do not sum to 1 exactly
    wrong = ~np.isfinite(p).all(axis=1) | (p < 0).any(axis=1) | (p > 1 + 1e-3).any(axis=1)
    if rows_sum_to_one:
        wrong |= np.abs(p.sum(axis=1) - 1.0) > 1e-3
    if wrong.any():
        raise AuditError(f"{int(wrong.sum())} of {len(p)} rows are not probabilities", fix="apply softmax or sigmoid")
    return p


def _log_loss(of_label: Floats, nll: ArrayLike | None, axis: int | None = None) -> Floats:
    if nll is None:
        with np.errstate(divide="ignore"):
            loss = -np.log(of_label)
        values: Floats = loss if axis is None else loss.sum(axis=axis)
    else:
        values = np.asarray(nll, dtype=np.float64)
        if values.shape != of_label.shape[:1]:
            raise AuditError(f"nll must be one value a record, {of_label.shape[:1]}, not {values.shape}")
    infinite = int((~np.isfinite(values)).sum())
    if infinite:
        raise AuditError(
            f"{infinite} of {len(values)} records have an infinite log-likelihood",
            fix="pass `nll`, computed from logits: a probability rounded to 0",
        )
    return values


def _same_length(bootstrap: PatientBootstrap, n: int) -> None:
    if bootstrap.n_records != n:
        raise AuditError(f"{bootstrap.n_records} patients for {n} records: one a record is needed")
