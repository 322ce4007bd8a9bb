"""What a sample of this size can show: "with 30 patients this audit can detect an AUC above 0.62".

An AUC is taken as normal with the Mann-Whitney null variance, which is the widest near 1/2 (Hanley and McNeil 1982),
and an audit as a two-sided interval at ``level`` that must exclude the reference from above; the chance that it
excludes it from the other side is left out.

Units are patients, which is cautious where all have about as many records. :func:`effective_size` says how many
independent records the records of some patients are worth.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.intervals import LEVEL, null_auc_sd

POWER = 0.8


def detectable_auc(
    n_members: float, n_nonmembers: float, *, level: float = LEVEL, power: float = POWER, reference: float = 0.5
) -> float | None:
    """The smallest AUC that is told from ``reference`` with probability ``power``; ``None`` where it would exceed 1.

    reference + (z(1 - alpha/2) + z(power)) sqrt((P + N + 1) / (12 P N)), alpha = 1 - level, P and N the sizes.

    Args:
        n_members, n_nonmembers: patients, or :func:`effective_size` of their records.
        level: of the interval.
        power: probability of detection.
        reference: what the AUC is compared with: 1/2, or the highest of the retrained models.

    Raises:
        AuditError: a size below 1, or a level, power or reference out of range.
    """
    found = reference + _reach(level, power, reference) * null_auc_sd(n_members, n_nonmembers)
    return found if found < 1.0 else None


def patients_needed(
    auc: float,
    *,
    n_nonmembers: float | None = None,
    level: float = LEVEL,
    power: float = POWER,
    reference: float = 0.5,
) -> int | None:
    """The fewest member patients with which an AUC is detected.

    Args:
        auc: to be detected; above ``reference``.
        n_nonmembers: patients of the test set; ``None``: as many as members.
        level, power, reference: as in :func:`detectable_auc`.

    Returns:
        The number, or ``None`` where no number of members would do with so few non-members.

    Raises:
        AuditError: the AUC is not in (reference, 1], or as :func:`detectable_auc`.
    """
    reach = _reach(level, power, reference)
    if not reference < auc <= 1.0:
        raise AuditError(f"the AUC to be detected lies in ({reference:g}, 1], not {auc}")
    precision = 12.0 * ((auc - reference) / reach) ** 2  # (P + N + 1) / (P N) must not exceed it
    if n_nonmembers is None:  # precision P^2 - 2 P - 1 >= 0
        least = (1.0 + math.sqrt(1.0 + precision)) / precision
    elif n_nonmembers * precision <= 1.0:
        return None
    else:
        least = (n_nonmembers + 1.0) / (n_nonmembers * precision - 1.0)
    return max(1, math.ceil(least - 1e-9))


def effective_size(records: ArrayLike, correlation: float) -> float:
    """How many independent records the records of some patients are worth.

    n / (1 + (m - 1) rho) with n records, rho the correlation of two records of one patient, and m = sum(m_i^2) /
    sum(m_i) the number of records of the patient of a random record (Kish 1965). rho = 0: records are counted. rho = 1:
    patients are, if all have equally many records; else fewer, since a patient with many records weighs more.

    Args:
        records: number of records of each patient [patients].
        correlation: rho, in [0, 1]; for an AUC that of the records' ranks.

    Raises:
        AuditError: no patient, a patient without records, or a correlation out of range.
    """
    held = np.asarray(records, dtype=np.float64)
    if held.ndim != 1 or held.size == 0 or (held < 1).any() or not 0.0 <= correlation <= 1.0:
        raise AuditError(f"each patient needs a record, and the correlation lies in [0, 1], not {correlation}")
    size = float((held**2).sum() / held.sum())
    return float(held.sum() / (1.0 + (size - 1.0) * correlation))


def _reach(level: float, power: float, reference: float) -> float:
    """Standard deviations between the reference and what is detected."""
    if not 0.0 < level < 1.0 or not 0.0 < power < 1.0 or not 0.0 <= reference <= 1.0:
        raise AuditError(f"level and power lie in (0, 1), the reference in [0, 1], not {level}, {power}, {reference}")
    return float(stats.norm.ppf(0.5 + level / 2.0) + stats.norm.ppf(power))
