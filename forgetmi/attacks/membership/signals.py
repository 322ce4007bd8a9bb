"""Per-record signals that membership attacks read off a classifier's outputs.

All take **logits** [N, C] and labels [N], compute in float64 and return [N], row by row: no record's signal depends on
its batch-mates. Log-probabilities are valid logits; probabilities are not (``np.log`` them, at the price of infinite
values where they rounded to 0, which are refused).

Multilabel: logits [N, L], labels [N, L] of 0, 1 or NaN (unknown). A signal is the *sum over labels* of the signal of
each two-way choice; loss, modified entropy and scaled logit sum over known labels, entropy over all. Records with more
known labels thus have larger signals: compare like with like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, logsumexp, xlogy

from forgetmi.errors import AuditError

Floats = NDArray[np.float64]


def nll(logits: ArrayLike, labels: ArrayLike, *, multilabel: bool = False) -> Floats:
    """Negative log-likelihood of the label, -ln p_y, in nats."""
    if multilabel:
        z, sign, known = _signed(logits, labels)
        return _summed(np.where(known, np.logaddexp(0.0, -sign * z), 0.0))
    z, y = _rows(logits, labels)
    return _finite(-log_softmax(z, axis=1)[np.arange(len(z)), y])


def entropy(logits: ArrayLike, *, multilabel: bool = False) -> Floats:
    """Shannon entropy of the prediction, natural logarithm. It needs no label."""
    z = _matrix(logits)
    if multilabel:
        binary = np.stack([np.zeros_like(z), z], axis=2)
        return _summed(_entropy(log_softmax(binary, axis=2)))
    return _finite(_entropy(log_softmax(z, axis=1)))


def modified_entropy(logits: ArrayLike, labels: ArrayLike, *, multilabel: bool = False) -> Floats:
    """-(1 - p_y) ln p_y - sum over k != y of p_k ln(1 - p_k) (Song and Mittal 2021, equation 4).

    Zero for a certain right answer and large for a certain wrong one, unlike the entropy. For a two-way choice it is
    -2 (1 - p_y) ln p_y.
    """
    if multilabel:
        z, sign, known = _signed(logits, labels)
        return _summed(np.where(known, 2.0 * expit(-sign * z) * np.logaddexp(0.0, -sign * z), 0.0))
    z, y = _rows(logits, labels)
    rows = np.arange(len(z))
    log_p = log_softmax(z, axis=1)
    p = np.exp(log_p)
    top = z.argmax(axis=1)
    # ln(1 - p) loses its digits only where p is near 1, which can be the largest class alone: take it from the others
    complement = np.log1p(-np.minimum(p, 0.75))
    complement[rows, top] = _others(log_p, top)
    terms = -np.where(p > 0.0, p * complement, 0.0)
    one_minus_p_y = np.exp(complement[rows, y])
    terms[rows, y] = -one_minus_p_y * log_p[rows, y]
    return _finite(terms.sum(axis=1))


def scaled_logit(logits: ArrayLike, labels: ArrayLike, *, multilabel: bool = False) -> Floats:
    """ln(p_y / (1 - p_y)) = z_y - ln(sum over k != y of exp z_k) (Carlini et al. 2022, section VI-A).

    Exact from logits also where p_y rounds to 1. Shifting all logits changes nothing; uniform over C classes gives
    -ln(C - 1).
    """
    if multilabel:
        z, sign, known = _signed(logits, labels)
        return _summed(np.where(known, sign * z, 0.0))
    z, y = _rows(logits, labels)
    return _finite(z[np.arange(len(z)), y] - _others(z, y))


def scaled_logit_of_nll(nll: ArrayLike) -> Floats:
    """ln(p / (1 - p)) of p = exp(-nll), of any shape: -ln(exp(nll) - 1).

    Of a language model's ``nll`` a token, p is the geometric mean of its tokens' probabilities (our reading). A loss
    that rounded to 0 is taken for the smallest positive one: no signal is infinite.
    """
    loss = np.maximum(np.asarray(nll, dtype=np.float64), np.finfo(np.float64).tiny)
    return _finite(-(loss + np.log(-np.expm1(-loss))))


def _others(values: Floats, left_out: NDArray[np.int64]) -> Floats:
    """Logsumexp over every class of a row but one."""
    rest = values.copy()
    rest[np.arange(len(rest)), left_out] = -np.inf
    result: Floats = logsumexp(rest, axis=1)
    return result


def _entropy(log_p: Floats) -> Floats:
    result: Floats = -xlogy(np.exp(log_p), np.exp(log_p)).sum(axis=-1)
    return result


def _matrix(logits: ArrayLike) -> Floats:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 1 or np.isnan(z).any() or np.isposinf(z).any():
        raise AuditError(f"logits must be [records, classes] without NaN or +inf; the shape is {z.shape}")
    return z


def _rows(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    z, y = _matrix(logits), np.asarray(labels)
    n, n_classes = z.shape
    if n_classes < 2:
        raise AuditError("one logit a record is no choice between classes", fix="pass multilabel=True for one label")
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer) or (n and (y.min() < 0 or y.max() >= n_classes)):
        raise AuditError(f"labels must be {n} class indices in 0..{n_classes - 1}")
    return z, y


def _signed(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Logits, +1 / -1 for label 1 / 0, and which labels are known."""
    z, y = _matrix(logits), np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(y)
    if y.shape != z.shape or not np.isin(y[known], (0.0, 1.0)).all():
        raise AuditError(f"labels must be {z.shape} of 0, 1 or NaN (unknown)")
    return z, np.where(y == 1.0, 1.0, -1.0), known


def _summed(per_label: Floats) -> Floats:
    return _finite(per_label.sum(axis=1))


def _finite(values: Floats) -> Floats:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise AuditError(
            f"{wrong} of {values.size} records have a signal that is not finite",
            fix="pass logits, not the logarithm of probabilities that were rounded to 0",
        )
    return values
