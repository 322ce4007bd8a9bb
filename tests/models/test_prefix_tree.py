"""Trees of texts, against what each text says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from forgetmi.models.prefix_tree import prefix_trees


def texts_of(trees):
    """Each text, read back along its own places."""
    flat, depth = trees.tokens.flatten().numpy(), trees.positions.flatten().numpy()
    return [[int(flat[p]) for n, p in enumerate(row) if n == 0 or depth[p] == n] for row in trees.places.numpy()]


def test_shared_beginnings_are_there_once_by_hand():
    trees = prefix_trees([[5, 6, 7], [5, 6, 8, 9], [4]])
    assert trees.tokens.tolist() == [[5, 6, 7, 8, 9, 4]]
    assert trees.positions.tolist() == [[0, 1, 2, 2, 3, 0]]
    assert trees.places.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [5, 0, 0, 0]]
    sees = trees.attention[0, 0].int().tolist()
    assert sees == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("capacity", [1, 7, 20, 1000])
def test_every_text_sees_itself_and_nothing_else(capacity):
    draw = np.random.default_rng(0)
    texts = sorted(draw.integers(3, size=draw.integers(1, 9)).tolist() for _ in range(60))
    trees = prefix_trees(texts, capacity)
    length = trees.tokens.shape[1]
    assert length <= max(capacity, 8)
    for text, row in zip(texts, trees.places.numpy(), strict=True):
        path = row[: len(text)]
        assert trees.tokens.flatten()[path].tolist() == text
        assert trees.positions.flatten()[path].tolist() == list(range(len(text)))
        for n, place in enumerate(path):
            seen = trees.attention[place // length, 0, place % length].nonzero().flatten() + place // length * length
            assert sorted(seen.tolist()) == sorted(path[: n + 1].tolist())


def test_no_beginning_stands_twice_in_a_row():
    texts = sorted([[1, 2, n % 3, n] for n in range(9)])
    trees = prefix_trees(texts, 1000)
    beginnings = {tuple(text[:n]) for text in texts for n in range(1, 5)}
    assert trees.tokens.shape == (1, len(beginnings))
    assert texts_of(trees) == texts
