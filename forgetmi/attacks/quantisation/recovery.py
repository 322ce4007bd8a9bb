"""How much of what unlearning had removed comes back: the recovery ratio, and what is left above retrained models.

With m a metric's mean over the forgotten records, q the quantiser, u, o and r the unlearned, original and retrained
models:

    R = (m_q(u) - m(u)) / (m_q(o) - m(u))                                 0: nothing comes back; 1: all of it

The yardstick is the *quantised* original, for rounding alone makes a model worse. R is blind to how much there was to
remove, and it calls any change a return; so the distance to retrained models under the same quantiser stands beside it:

    excess = m(u) - m(r),    excess_q = m_q(u) - m_q(r),    returned = excess_q - excess     (r: their mean)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, absent, measure
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, evaluate, mean_statistic


@dataclass(frozen=True)
class Measured:
    """One metric of one model in full precision and rounded, of the same records."""

    full: PerExample
    quantised: PerExample


def recovery(
    original: Measured,
    unlearned: Measured,
    patients: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Figure:
    """R, with its interval by patient; no value where there is nothing that could come back.

    Our reading of when that is: the quantised original must remember more than the unlearned model, by a difference
    whose interval by patient lies above 0. Otherwise R is a ratio of noise. Records to which the metric gives no value
    under one of the three models are left out of all.

    Args:
        original, unlearned: the metric; of the original only the rounded one is needed.
        patients: of each record [N].
        rng: of the resamples.
        n_resamples, level: of the intervals.

    Raises:
        AuditError: the records differ.
    """
    before, after, ceiling = unlearned.full, unlearned.quantised, original.quantised
    name = f"{before.name}_recovery"
    kept, bootstrap = _common([before, after, ceiling], patients, rng, n_resamples=n_resamples, level=level)
    counts = {"n_without_value": int((~kept).sum())}
    # higher = remembers more, whatever the metric's direction; the sign cancels in R
    sign = -1.0 if before.direction in ("remembers_below", "useful_below") else 1.0
    came, could = (sign * (metric.values - before.values)[kept] for metric in (after, ceiling))
    room = bootstrap.interval(mean_statistic(could))
    if room.low is None and float(np.ptp(could)) < 1e-12 < float(could.mean()):
        room_low = float(could.mean())  # the same for every record
    else:
        room_low = -np.inf if room.low is None else room.low
    if not room_low > 0.0:
        ends = room.reason if room.low is None else f"{room.level:.0%} interval {room.low:.3g} to {room.high:.3g}"
        reason = (
            "there is nothing that could come back: the quantised original does not surely remember more than the "
            f"unlearned model in full precision ({before.name}: difference {float(could.mean()):.3g}; {ends})"
        )
        return absent(name, reason, bootstrap, direction="remembers_above", counts=counts)

    def ratio(weights: Floats) -> Floats:
        numerator, denominator = weights @ came, weights @ could
        return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)

    return measure(
        name,
        ratio,
        bootstrap,
        direction="remembers_above",
        sentence="{value:.0%} of what unlearning had removed, as the quantised original still has it, came back",
        counts=counts,
    )


def excess(
    unlearned: PerExample,
    retrained: Sequence[PerExample],
    patients: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    name: str,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Figure:
    """m(u) - m(r) in the metric's own units, r the mean of the retrained models, with its interval by patient.

    Args:
        unlearned, retrained: all in full precision, or all rounded by the same quantiser.
        patients, rng, n_resamples, level: as :func:`recovery`.
        name: of the figure.
    """
    kept, bootstrap = _common([unlearned, *retrained], patients, rng, n_resamples=n_resamples, level=level)
    above = (unlearned.values - _mean(retrained))[kept]
    return _difference(above, name, unlearned, kept, bootstrap, "the unlearned model lies {value:+.3g} from retrained")


def returned(
    unlearned: Measured,
    retrained: Sequence[Measured],
    patients: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Figure:
    """excess_q - excess: how much further rounding moves the unlearned model than it moves retrained ones.

    Args:
        unlearned, retrained: the metric in full precision and rounded.
        patients, rng, n_resamples, level: as :func:`recovery`.
    """
    full, rounded = [model.full for model in retrained], [model.quantised for model in retrained]
    everything = [unlearned.full, unlearned.quantised, *full, *rounded]
    kept, bootstrap = _common(everything, patients, rng, n_resamples=n_resamples, level=level)
    moved = (unlearned.quantised.values - unlearned.full.values - _mean(rounded) + _mean(full))[kept]
    sentence = "rounding moves the unlearned model {value:+.3g} further than it moves retrained models"
    return _difference(moved, f"{unlearned.full.name}_returned", unlearned.full, kept, bootstrap, sentence)


def _mean(metrics: Sequence[PerExample]) -> Floats:
    return np.asarray(np.mean([metric.values for metric in metrics], axis=0))


def _difference(
    values: Floats, name: str, like: PerExample, kept: NDArray[np.bool_], bootstrap: PatientBootstrap, sentence: str
) -> Figure:
    counts = {"n_without_value": int((~kept).sum())}
    if not np.isfinite(evaluate(mean_statistic(values), len(values))):
        raise AuditError(f"{name} is not finite")
    return measure(name, mean_statistic(values), bootstrap, direction=like.direction, sentence=sentence, counts=counts)


def _common(
    metrics: Sequence[PerExample],
    patients: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    n_resamples: int,
    level: float,
) -> tuple[NDArray[np.bool_], PatientBootstrap]:
    """Which records have a value under all models, and the resamples of their patients."""
    codes = np.asarray(patients)
    sizes = {metric.values.shape for metric in metrics} | {codes.shape}
    names = {(metric.name, metric.direction) for metric in metrics}
    if len(sizes) > 1 or len(names) > 1:
        raise AuditError(
            f"values of shapes {sorted(sizes)} of {', '.join(sorted(name for name, _ in names))} are compared",
            expected="one metric, of the same records under every model, and one patient a record",
        )
    kept = np.logical_and.reduce([metric.known for metric in metrics])
    if not kept.any():
        raise AuditError(f"{metrics[0].name}: no record has a value under all models: {metrics[0].missing}")
    return kept, PatientBootstrap(codes[kept], rng, n_resamples=n_resamples, level=level)
