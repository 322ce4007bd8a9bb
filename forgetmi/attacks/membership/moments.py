"""Where a record's signal lies under the reference models that saw it, or under those that did not.

Everywhere: K reference models, n records, q queries (augmented views) a record; ``references`` [K, n, q]; ``seen``
[K, n] is true where reference k saw the record. A *group* is all references with ``seen == group``: True for IN, False
for OUT. Work goes over blocks of records, so that beside the arrays that were given little memory is needed, and every
step takes the references in their order, so that a record's figures do not depend on its place among the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.errors import AuditError
from forgetmi.metrics.roc import Bools, Floats, Ints

_BLOCK = 32_768  # values that a block holds: 256 KiB, which the processor keeps near


@dataclass(frozen=True)
class Moments:
    """Of each record, over one group of references.

    Attributes:
        count: references in the group [n].
        mean: [n, q].
        squares: sum of squared differences from the mean [n, q].
    """

    count: Ints
    mean: Floats
    squares: Floats


def blocks(n_references: int, n: int, values: int = _BLOCK) -> Iterator[slice]:
    """Slices of records, of about one size and ``values`` of the references each.

    Never one record among many, which numpy would sum in another order.
    """
    parts = max(1, round(n * n_references / values))
    edges = np.linspace(0, n, min(parts, max(1, n // 2)) + 1).astype(np.int64)
    for low, high in pairwise(edges.tolist()):
        yield slice(low, high)


def as_queries(target: ArrayLike, references: ArrayLike, seen: ArrayLike) -> tuple[Floats, Floats, Bools]:
    """Target [n] or [n, q], references [K, n] or [K, n, q] and seen [K, n], with the axis of queries everywhere.

    Nothing is copied that has the right type.

    Raises:
        AuditError: shapes do not fit, or there is no reference or no record.
    """
    aim, values = np.asarray(target, dtype=np.float64), np.asarray(references, dtype=np.float64)
    mask = np.asarray(seen)
    shapes = f"target {aim.shape}, references {values.shape}, seen {mask.shape}"
    if mask.dtype != np.bool_:
        raise AuditError(f"seen must be true or false for each reference and record; its type is {mask.dtype}")
    if aim.ndim not in (1, 2) or values.shape[1:] != aim.shape or values.shape[:2] != mask.shape or values.size == 0:
        raise AuditError(f"{shapes}: expected [n] or [n, q], [K, n] or [K, n, q], and [K, n], none of them 0")
    return aim.reshape(len(aim), -1), values.reshape(*mask.shape, -1), mask


def counts(seen: Bools, group: bool) -> Ints:
    """References of the group for each record [n]."""
    n_in = seen.sum(axis=0, dtype=np.int32)
    return (n_in if group else len(seen) - n_in).astype(np.int64)


def moments(references: Floats, seen: Bools, group: bool) -> Moments:
    """Mean and squares of each record over a group; NaN where the group is empty.

    In two passes: squares are of differences from the mean, never a difference of large sums.
    """
    n_references, n, q = references.shape
    count = counts(seen, group)
    mean, squares = np.empty((n, q)), np.empty((n, q))
    for block in blocks(n_references, n):
        inside = (seen[:, block] == group).astype(np.float64, order="C")
        with np.errstate(invalid="ignore"):
            for query in range(q):
                values = references[:, block, query]
                # in this layout numpy adds reference by reference, in whatever layout the values were given
                middle = np.multiply(values, inside, order="C").sum(axis=0) / count[block]
                apart = np.subtract(values, middle, order="C")
                apart *= inside
                mean[block, query] = middle
                squares[block, query] = np.square(apart, out=apart).sum(axis=0)
    return Moments(count, mean, squares)


def medians(references: Floats, seen: Bools, group: bool) -> Floats:
    """Median of each record over a group [n, q]: the mean of the middle two where they are even in number.

    The group of no record may be empty.
    """
    n_references, n, q = references.shape
    count = counts(seen, group)
    median = np.empty((n, q))
    for block in blocks(n_references, n):
        rows, inside = np.arange(block.stop - block.start), np.ascontiguousarray((seen[:, block] == group).T)
        low, high = (count[block] - 1) // 2, count[block] // 2
        balanced = bool((count[block] == count[block][0]).all())
        for query in range(q):
            values = np.ascontiguousarray(references[:, block, query].T)
            # as many for each record: the others need not be sorted along
            group_only = values[inside].reshape(len(values), -1) if balanced else np.where(inside, values, np.inf)
            ranked = np.sort(group_only, axis=1)
            median[block, query] = (ranked[rows, low] + ranked[rows, high]) / 2.0
    return median
