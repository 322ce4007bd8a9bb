"""Does it come out if one asks often enough? What k samples give away, estimated from more of them.

Greedy decoding may hide what sampling lets out, so leak@k (arXiv 2511.04934) asks for the worst of k samples. With n
samples of a prompt, s_1 <= ... <= s_n their leaks in order, the estimator without bias of E[max of k] is

    sum over i = k..n of  s_i C(i-1, k-1) / C(n, k)

which is the mean of the maximum over all subsets of k samples. Where a sample leaks or does not, and c of them do, this
is 1 - C(n-c, k) / C(n, k), pass@k's formula (Chen et al. 2021, arXiv 2107.03374). The graded form is our reading.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.errors import AuditError
from forgetmi.metrics.per_example import PerExample


def leak_at_k(leaks: ArrayLike, k: int, *, leak: str = "leak") -> PerExample:
    """The expected largest leak among k samples; where leaks are 0 or 1, the probability that at least one leaks.

    Args:
        leaks: [N, n], of n samples of each record's prompt: whether they leak, or how much, in [0, 1] (say, ROUGE). A
            record one of whose samples is NaN has no value.
        k: of so many samples; at most n. The closer to n, the less sure the estimate of a single record.
        leak: what a leak is, in words.

    Raises:
        AuditError: not [N, n], k out of range, or a leak outside [0, 1].
    """
    values = np.asarray(leaks, dtype=np.float64)
    if values.ndim != 2:
        raise AuditError(f"leaks have shape {values.shape}", expected="[N, n]: n samples of each of N records")
    n = values.shape[1]
    if not 1 <= k <= n:
        raise AuditError(
            f"leak@{k} of {n} samples a record", expected=f"k from 1 to {n}", fix="write more samples, or lower k"
        )
    known = values[~np.isnan(values)]
    if ((known < 0) | (known > 1)).any():
        raise AuditError("a leak lies outside [0, 1]", expected="0 or 1, or a share")
    weights = np.array([comb(i, k - 1) / comb(n, k) for i in range(n)])  # of the (i + 1)-th in order
    largest = np.sort(values, axis=1) @ weights
    graded = bool(((known > 0) & (known < 1)).any())
    return PerExample(
        name=f"leak_at_{k}",
        values=np.clip(largest, 0.0, 1.0),
        direction="remembers_above",
        sentence=f"The largest {leak} among {k} samples is expected to be {{value:.3f}}."
        if graded
        else f"With {k} samples, at least one shows a {leak} with probability {{value:.3f}}.",
        definition=f"the mean, over all choices of {k} among {n} samples, of the largest {leak} (unbiased)",
        missing="one of its samples has no value",
        counts={"n_samples": n},
    )
