"""Things that are nearly the same: texts by their shingles, images by a perceptual hash. Exact, without all pairs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR = 0.8
NEAR_BITS = 4
_ROWS, _COLUMNS = 8, 9
_BANDS = NEAR_BITS + 1
_FLAT = 1 / 255  # of the intensity range: a blank film has no gradient to compare

Shingles = frozenset[tuple[str, ...]]


def normalised_words(text: str) -> tuple[str, ...]:
    """The words in lower case, without digits, punctuation and removed words (``xxxx``)."""
    return tuple(re.sub(r"[^a-z]+", " ", re.sub(r"x{3,}", " ", text.lower())).split())


def shingles(text: str) -> Shingles:
    """The text's three-word sequences, after :func:`normalised_words`; a shorter text is one shingle."""
    words = normalised_words(text)
    return frozenset(words[i : i + 3] for i in range(max(1, len(words) - 2)))


def near_duplicates(texts: Iterable[str]) -> list[bool]:
    """Which texts nearly repeat an earlier one that is no near-duplicate itself.

    Two texts are near-duplicates where their :func:`shingles` have a Jaccard similarity of at least :data:`NEAR`; equal
    ones have 1. Of the texts kept no two are near-duplicates.
    """
    sets = [shingles(text) for text in texts]
    first = {found: i for i, found in reversed(list(enumerate(sets)))}
    unique = sorted(first.values())
    earlier: dict[int, list[int]] = defaultdict(list)
    for a, b in near_sets([sets[i] for i in unique]):
        earlier[unique[b]].append(unique[a])
    repeats: dict[int, bool] = {}
    for i in unique:
        repeats[i] = any(not repeats[j] for j in earlier[i])
    return [first[found] != i or repeats[i] for i, found in enumerate(sets)]


def near_sets(sets: Sequence[Shingles], threshold: float = NEAR) -> Iterator[tuple[int, int]]:
    """Pairs ``i < j`` whose Jaccard similarity is at least the threshold. The sets differ and are not empty.

    Exact, by prefix filtering (Chaudhuri, Ganti and Kaushik, ICDE 2006): with the elements of each set in one order,
    rarest first, two sets of n and m elements that share ``threshold * (n + m) / (1 + threshold)`` of them have a
    common one among the first ``n - ceil(threshold * n) + 1``.
    """
    frequency = Counter(element for found in sets for element in found)
    ordered = [sorted(found, key=lambda element: (frequency[element], element)) for found in sets]
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for j, elements in enumerate(ordered):
        n = len(elements)
        prefix = elements[: n - int(np.ceil(threshold * n - 1e-9)) + 1]
        for i in sorted({other for element in prefix for other in index[element]}):
            smaller, larger = sorted((n, len(sets[i])))
            if smaller >= threshold * larger - 1e-9:
                shared = len(sets[i] & sets[j])
                if shared >= threshold * (n + len(sets[i]) - shared) - 1e-9:
                    yield i, j
        for element in prefix:
            index[element].append(j)


def grid(image: NDArray[Any]) -> NDArray[np.float64] | None:
    """Mean intensities on an 8 x 9 grid, [8, 9]: what :func:`difference_hashes` takes. ``None`` for a flat image.

    Args:
        image: [H, W] or [H, W, C] (colours are averaged), in [0, 1]; any size from 1 x 1.
    """
    grey = np.asarray(image, dtype=np.float64)
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    for axis, cells in ((0, _ROWS), (1, _COLUMNS)):
        size = grey.shape[axis]
        if size < cells:  # too small to average: each cell takes the nearest pixel
            grey = np.take(grey, np.arange(cells) * size // cells, axis=axis)
            continue
        edges = np.arange(cells) * size // cells
        widths = np.diff([*edges, size])
        grey = np.add.reduceat(grey, edges, axis=axis) / (widths[:, None] if axis == 0 else widths)
    return grey if np.ptp(grey) >= _FLAT else None


def difference_hashes(grids: NDArray[np.float64]) -> NDArray[np.uint64]:
    """64-bit dHash of each image: whether a cell is brighter than its left neighbour.

    Args:
        grids: [N, 8, 9] from :func:`grid`.

    Returns:
        [N] hashes. They do not change with brightness, contrast or size.
    """
    bits = grids[:, :, 1:] > grids[:, :, :-1]
    packed = np.packbits(bits.reshape(len(grids), 64), axis=1)
    return np.ascontiguousarray(packed).view(np.uint64).reshape(-1)


def near_hashes(hashes: NDArray[np.uint64], most: int = NEAR_BITS) -> NDArray[np.int64]:
    """Pairs ``i < j`` of different hashes that differ in at most ``most`` bits, [P, 2], each once.

    Exact, by banding: hashes that differ in at most k bits agree in at least one of k + 1 bands.

    Args:
        hashes: [N], each once.
        most: at most :data:`NEAR_BITS`.
    """
    found: list[NDArray[np.int64]] = []
    width = -(-64 // _BANDS)
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * width)) & np.uint64((1 << min(width, 64 - band * width)) - 1)
        order = np.argsort(keys, kind="stable")
        bounds = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, bounds):
            for position, one in enumerate(bucket[:-1]):  # a row of the bucket's pairs at a time keeps memory small
                others = bucket[position + 1 :]
                close = others[_bits(hashes[others] ^ hashes[one]) <= most]
                if len(close):
                    found.append(np.column_stack([np.full(len(close), one), close]))
    if not found:
        return np.empty((0, 2), dtype=np.int64)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits of each are set."""
    ones: NDArray[np.int64] = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)
    return ones
