"""How close an unlearned model is to the retrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, Position, measure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, Interval, PatientBootstrap
from forgetmi.metrics.roc import mean_statistic


@dataclass(frozen=True)
class Gap:
    """Where a value stands among those of R retrained models.

    Attributes:
        value: the value.
        mean_gap: value minus the mean of the retrained values, signed.
        low, high: range of the retrained values.
        n_retrained: R.
        position: of the value against ``[low, high]``.
        position_widened: of the value's *interval* against that range: ``inside`` when they overlap. ``None`` without
            an interval.
        z: mean_gap over the standard deviation (R - 1) of the retrained values; ``None`` with ``z_reason``.
    """

    value: float
    mean_gap: float
    low: float
    high: float
    n_retrained: int
    position: Position
    position_widened: Position | None
    z: float | None
    z_reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self)


def gap_to_retrained(value: float, retrained_values: Sequence[float], interval: Interval | None = None) -> Gap:
    """Compare with the distribution of retrained models, not with one number.

    Args:
        value: the unlearned (or original) model's.
        retrained_values: one a retrained model.
        interval: the value's own interval, for ``position_widened``.

    Raises:
        AuditError: no retrained values, or a value that is not finite.
    """
    reference = np.asarray(retrained_values, dtype=np.float64)
    if reference.ndim != 1 or reference.size == 0:
        raise AuditError("a gap to retrained needs at least one retrained model")
    if not np.isfinite(reference).all() or not np.isfinite(value):
        raise AuditError("a gap to retrained needs finite values")
    low, high = float(reference.min()), float(reference.max())
    mean_gap = float(value - reference.mean())
    spread = float(reference.std(ddof=1)) if reference.size > 1 else 0.0
    z_reason = None
    if reference.size < 2:
        z_reason = "one retrained model has no spread"
    elif high - low <= 1e-12:
        z_reason = "the retrained models do not differ"
    widened: Position | None = None
    if interval is not None and interval.low is not None and interval.high is not None:
        widened = _position(interval.low, interval.high, low, high)
    return Gap(
        value=float(value),
        mean_gap=mean_gap,
        low=low,
        high=high,
        n_retrained=int(reference.size),
        position=_position(value, value, low, high),
        position_widened=widened,
        z=None if z_reason else mean_gap / spread,
        z_reason=z_reason,
    )


def _position(own_low: float, own_high: float, low: float, high: float) -> Position:
    if own_high < low:
        return "below"
    return "above" if own_low > high else "inside"


def cosine_similarity(
    outputs: ArrayLike,
    reference_outputs: ArrayLike,
    patients: ArrayLike,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Figure:
    """Mean cosine of two models' outputs over the same records (Forget-MI compares with the retrained model's logits).

    Args:
        outputs, reference_outputs: [N, D], rows of the same records.
        patients: patient of each record [N].
        rng: for the interval.
        n_resamples, level: of the interval.

    Raises:
        AuditError: shapes differ, or a row is zero or not finite: it has no direction.
    """
    first, second = np.asarray(outputs, dtype=np.float64), np.asarray(reference_outputs, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise AuditError(f"outputs {first.shape} and {second.shape} must be of the same records and width")
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    wrong = int((~np.isfinite(norms) | (norms == 0.0)).sum())
    if wrong:
        raise AuditError(f"{wrong} of {len(norms)} records have an output of zero or not finite: no direction")
    cosine = np.clip((first * second).sum(axis=1) / norms, -1.0, 1.0)
    return measure(
        "cosine_similarity",
        mean_statistic(cosine),
        PatientBootstrap(patients, rng, n_resamples=n_resamples, level=level),
        direction="closest_at_one",
        sentence="The two models' outputs point the same way to {value:.3f} (1 is the same direction).",
        bounds=(-1.0, 1.0),
    )


def tug_of_war(
    forget: float,
    retain: float,
    test: float,
    *,
    retrained_forget: float,
    retrained_retain: float,
    retrained_test: float,
) -> float:
    """ToW = (1 - |a_f - a_f^R|) (1 - |a_r - a_r^R|) (1 - |a_t - a_t^R|), RUM (arXiv 2406.01257).

    a_f, a_r, a_t are ``forget``, ``retain``, ``test``: accuracies as shares in [0, 1]; ^R is the retrained model's.
    1 if and only if all three equal the retrained model's.

    Raises:
        AuditError: a value outside [0, 1], such as a percentage.
    """
    pairs = ((forget, retrained_forget), (retain, retrained_retain), (test, retrained_test))
    outside = [value for pair in pairs for value in pair if not 0.0 <= value <= 1.0]
    if outside:
        raise AuditError(f"ToW takes shares in [0, 1], not {outside}", fix="divide percentages by 100")
    return float(np.prod([1.0 - abs(own - retrained) for own, retrained in pairs]))


def tug_of_war_mia(
    mia: float, retain: float, test: float, *, retrained_mia: float, retrained_retain: float, retrained_test: float
) -> float:
    """ToW-MIA: as :func:`tug_of_war`, with 1 - |MIA - MIA^R| as its first factor (an attack's figure in [0, 1])."""
    return tug_of_war(
        mia,
        retain,
        test,
        retrained_forget=retrained_mia,
        retrained_retain=retrained_retain,
        retrained_test=retrained_test,
    )
