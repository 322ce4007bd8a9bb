"""Texts that begin alike: what they share goes through the model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CAPACITY = 128
"""Tokens of a row, unless one text is longer: attention costs the square of it."""


@dataclass(frozen=True)
class PrefixTrees:
    """Where the tokens of B texts stand in R rows of L tokens, each row a tree whose branches are texts.

    Attributes:
        tokens: [R, L] ids; 0 where a row is filled up.
        positions: [R, L] each token's place within its texts; 0 where a row is filled up.
        attention: Bool [R, 1, L, L], true where a token sees another: itself, and what stands before it in its texts.
        places: [B, T] of each text's tokens in the flattened [R * L] rows, T the longest text; 0 behind a shorter one.
    """

    tokens: Tensor
    positions: Tensor
    attention: Tensor
    places: Tensor

    def to(self, device: torch.device) -> PrefixTrees:
        """The same on a device."""
        return PrefixTrees(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def prefix_trees(texts: Sequence[Sequence[int]], capacity: int = CAPACITY) -> PrefixTrees:
    """Trees of texts, in the order given: texts that begin alike should stand beside each other.

    A causal model gives each token what it gives in the text on its own, up to rounding, for it sees the same tokens at
    the same places.

    Args:
        texts: B lists of token ids, none of them empty.
        capacity: a text begins a new row where the row would grow longer, unless it is the first of its row.
    """
    rows: list[_Tree] = []
    where: list[tuple[int, list[int]]] = []
    for text in texts:
        if not rows or len(rows[-1].tokens) + rows[-1].added(text) > capacity:
            rows.append(_Tree())
        where.append((len(rows) - 1, rows[-1].add(text)))
    length = max(len(tree.tokens) for tree in rows)
    tokens, positions = (np.zeros((len(rows), length), dtype=np.int64) for _ in range(2))
    attention = np.zeros((len(rows), length, length), dtype=np.bool_)
    attention[:, np.arange(length), np.arange(length)] = True
    for r, tree in enumerate(rows):
        n = len(tree.tokens)
        tokens[r, :n], positions[r, :n] = tree.tokens, tree.depths
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                attention[r, node] |= attention[r, parent]
    places = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
    for b, (r, path) in enumerate(where):
        places[b, : len(path)] = r * length + np.array(path)
    made = (tokens, positions, attention[:, None], places)
    return PrefixTrees(*(torch.from_numpy(array) for array in made))


class _Tree:
    """Nodes are tokens; a node's path from the root is a text's beginning."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def added(self, text: Sequence[int]) -> int:
        """How many nodes a text would add."""
        node = -1
        for n, token in enumerate(text):
            child = self._children.get((node, token))
            if child is None:
                return len(text) - n
            node = child
        return 0

    def add(self, text: Sequence[int]) -> list[int]:
        """The nodes of a text, new ones where it differs from all before."""
        path: list[int] = []
        node = -1
        for depth, token in enumerate(text):
            child = self._children.setdefault((node, token), len(self.tokens))
            if child == len(self.tokens):
                self.tokens.append(token)
                self.depths.append(depth)
                self.parents.append(node)
            node = child
            path.append(node)
        return path
