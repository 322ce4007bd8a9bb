"""How well a record, and a patient, can be told apart by an attacker with many reference models; and the null of that.

An average over records hides patients: attacks near chance on average can be near certain on a few people. Here every
record has an AUC of its own, over reference models that saw it against reference models that did not, and a patient has
the highest or the mean of theirs. An AUC over 16 + 16 models moves a lot by chance, and the highest of several more so,
so none of these numbers means anything beside its null: how many records and patients would lie above a threshold if
*nothing* leaked. Nothing is clipped at one half, for that would turn chance into exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from forgetmi.errors import AuditError
from forgetmi.metrics.roc import Bools, Floats, Ints

_NODES = 64  # of the quadrature; the integrand is smooth, and 64 leave an error below 1e-12


@dataclass(frozen=True)
class RecordAuc:
    """AUC of each record over reference models.

    Attributes:
        auc: [n], the chance that a model that saw the record has a higher signal on it than one that did not.
        se: [n], its Hanley-McNeil standard error.
        n_in, n_out: [n], models that saw it and that did not.
    """

    auc: Floats
    se: Floats
    n_in: Ints
    n_out: Ints


def record_auc(phi: ArrayLike, seen: ArrayLike, *, kind: Literal["binormal", "empirical"] = "binormal") -> RecordAuc:
    """How well models that saw a record are told from models that did not, record by record.

    ``binormal``: Phi((mu_in - mu_out) / sqrt(s_in^2 + s_out^2)), moments over the reference models, s^2 with divisor n
    (as in likelihood-ratio attacks). Without any spread it is the limit: 1, 0, or 1/2 where the means are equal.
    ``empirical``: pairs of models won, ties half; no law is assumed.

    Args:
        phi: [K, n]: a signal (scaled logit) of n records under K reference models, higher on members.
        seen: [K, n]: whether model k was trained on the record.
        kind: which estimate.

    Raises:
        AuditError: shapes differ, a value is not finite, or a record has fewer than two models on a side.
    """
    values, inside = _models(phi, seen)
    n_in, n_out = inside.sum(axis=0), (~inside).sum(axis=0)
    if kind == "empirical":
        ranks = np.where(inside, stats.rankdata(values, axis=0), 0.0).sum(axis=0)
        area = (ranks - n_in * (n_in + 1) / 2.0) / (n_in * n_out)
    else:
        mean_in, var_in = _moments(values, inside, n_in)
        mean_out, var_out = _moments(values, ~inside, n_out)
        distance, spread = mean_in - mean_out, np.sqrt(var_in + var_out)
        limit = np.where(distance == 0.0, 0.0, np.copysign(np.inf, distance))
        ratio = np.divide(distance, spread, out=limit, where=spread > 0.0)
        area = special.ndtr(ratio)
    return RecordAuc(area, hanley_mcneil_se(area, n_in, n_out), n_in, n_out)


def hanley_mcneil_se(auc: ArrayLike, n_in: ArrayLike, n_out: ArrayLike) -> Floats:
    """Standard error of an AUC A of n_in against n_out values (Hanley and McNeil 1982, equation 1).

    SE^2 = (A (1 - A) + (n_in - 1)(Q1 - A^2) + (n_out - 1)(Q2 - A^2)) / (n_in n_out), Q1 = A / (2 - A),
    Q2 = 2 A^2 / (1 + A).

    Args:
        auc: A, any shape.
        n_in, n_out: independent values of each kind.
    """
    a, p, n = (np.asarray(value, dtype=np.float64) for value in (auc, n_in, n_out))
    if ((a < 0.0) | (a > 1.0)).any() or (p < 1).any() or (n < 1).any():
        raise AuditError("an AUC lies in [0, 1] and needs one value of each kind at least")
    square = a * a
    variance = a * (1.0 - a) + (p - 1.0) * (a / (2.0 - a) - square) + (n - 1.0) * (2.0 * square / (1.0 + a) - square)
    result: Floats = np.sqrt(np.maximum(variance, 0.0) / (p * n))
    return result


def survival_curve(values: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of ``values`` [n] strictly above each of the ``thresholds`` [t]: [t]."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.ndim != 1 or ordered.size == 0 or np.isnan(ordered).any():
        raise AuditError(f"a survival curve needs a vector of numbers, not {ordered.shape}")
    return 1.0 - np.searchsorted(ordered, np.asarray(thresholds, dtype=np.float64), side="right") / ordered.size


def null_share_above(thresholds: ArrayLike, n_in: int, n_out: int) -> Floats:
    """Share of *unexposed* records whose binormal :func:`record_auc` lies above each threshold [t]: exact, [t].

    Unexposed: the signal follows one normal law under all models. Then with nu = n_in + n_out - 2 the studentised
    distance follows Student's t, and given the share b ~ Beta((n_in - 1)/2, (n_out - 1)/2) that the models that saw the
    record have in the sum of squares,

        P(AUC > a) = E_b P(t_nu > Phi^-1(a) sqrt(nu (b / n_in + (1 - b) / n_out) / (1 / n_in + 1 / n_out))),

    for n_in = n_out = m simply P(t_(2m-2) > Phi^-1(a) sqrt(m - 1)). (Derived here. With 16 models a side, 17 % of
    unexposed records exceed 0.6.)

    Raises:
        AuditError: fewer than two models a side, or a threshold outside (0, 1).
    """
    a = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if n_in < 2 or n_out < 2:
        raise AuditError(f"{n_in} and {n_out} models: a spread needs two on each side")
    if not ((a > 0.0) & (a < 1.0)).all():
        raise AuditError("thresholds of an AUC lie in (0, 1)")
    freedom = n_in + n_out - 2
    # Beta((n_in-1)/2, (n_out-1)/2) on [0, 1] is Jacobi's weight (1-x)^alpha (1+x)^beta on [-1, 1]
    nodes, weights = special.roots_jacobi(_NODES, (n_out - 3) / 2.0, (n_in - 3) / 2.0)
    share = (nodes + 1.0) / 2.0
    scale = np.sqrt(freedom * (share / n_in + (1.0 - share) / n_out) / (1.0 / n_in + 1.0 / n_out))
    tails = stats.t.sf(special.ndtri(a)[:, None] * scale, freedom)
    result: Floats = tails @ (weights / weights.sum())
    return result


def null_patient_max_share(thresholds: ArrayLike, n_records: ArrayLike, n_in: int, n_out: int) -> Floats:
    """Share of unexposed *patients* whose highest record AUC lies above each threshold [t]: [t].

    With p from :func:`null_share_above`, the mean over patients of 1 - (1 - p) ** n_records: the more records, the
    higher the highest by chance. Our reading: a patient's records are independent of each other when nothing leaks;
    records that resemble each other have less chances, so that this is an upper end.

    Args:
        thresholds: [t].
        n_records: [p], records of each patient.
        n_in, n_out: models a side.
    """
    counts = np.asarray(n_records)
    if counts.ndim != 1 or counts.size == 0 or (counts < 1).any():
        raise AuditError("every patient has one record at least")
    survives = 1.0 - null_share_above(thresholds, n_in, n_out)
    result: Floats = 1.0 - (survives[:, None] ** counts).mean(axis=1)
    return result


def _models(phi: ArrayLike, seen: ArrayLike) -> tuple[Floats, Bools]:
    values, inside = np.asarray(phi, dtype=np.float64), np.asarray(seen, dtype=np.bool_)
    if values.ndim != 2 or values.shape != inside.shape or values.size == 0:
        raise AuditError(f"phi {values.shape} and seen {inside.shape} must both be [models, records]")
    if not np.isfinite(values).all():
        raise AuditError(f"{int((~np.isfinite(values)).sum())} of {values.size} signals are not finite")
    few = int((np.minimum(inside.sum(axis=0), (~inside).sum(axis=0)) < 2).sum())
    if few:
        raise AuditError(
            f"{few} of {values.shape[1]} records have fewer than two reference models that saw them, or that did not",
            fix="train more shadow models, with a design that is balanced for each patient",
        )
    return values, inside


def _moments(values: Floats, mask: Bools, count: Ints) -> tuple[Floats, Floats]:
    """Mean and variance (divisor n) over the models of a mask, record by record: [n] each."""
    mean = np.where(mask, values, 0.0).sum(axis=0) / count
    variance = np.where(mask, (values - mean) ** 2, 0.0).sum(axis=0) / count
    return mean, variance
