"""Several short texts in one row, so that an encoder spends its time on tokens and not on padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_CAPACITY = 256
"""Rows are at least this long where there are enough texts: attention costs the square of it, everything else less."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens of B texts stand in R rows of length L.

    Attributes:
        source: [R, L] position of each token in the flattened [B * T] batch; 0 where a row is padded.
        positions: [R, L] each token's place within its own text; 0 where a row is padded.
        attention: Bool [R, 1, L, L], true where both tokens are of the same text. Padding sees padding only.
        first: [B] place of each text's first token in the flattened [R * L] rows.
    """

    source: Tensor
    positions: Tensor
    attention: Tensor
    first: Tensor

    def take(self, tokens: Tensor) -> Tensor:
        """[R, L] of what belongs to tokens [B, T]."""
        return tokens.flatten()[self.source]


def pack_texts(mask: Tensor, least_capacity: int = LEAST_CAPACITY) -> Packing | None:
    """How to pack texts that are padded on the right; ``None`` where that saves nothing or cannot be done.

    The longest texts are placed first, each in the first row with room for it. A token sees its own text only and
    keeps its place in it, so an encoder of texts gives what it gives for the padded batch, up to rounding.

    Args:
        mask: [B, T], 1 where there is a token. A text without tokens, or with padding before its end, is not packed.
        least_capacity: rows hold at least so many tokens, or the longest text if that is longer.
    """
    there = mask.bool().cpu()
    lengths = there.sum(dim=1)
    n_texts, width = there.shape
    if n_texts == 0 or int(lengths.min()) < 1 or not torch.equal(there, torch.arange(width) < lengths[:, None]):
        return None
    capacity = max(least_capacity, int(lengths.max()))
    rows: list[list[int]] = []
    fill: list[int] = []
    sizes = lengths.tolist()
    for text in sorted(range(n_texts), key=lambda i: -sizes[i]):
        row = next((r for r, used in enumerate(fill) if used + sizes[text] <= capacity), len(rows))
        if row == len(rows):
            rows.append([])
            fill.append(0)
        rows[row].append(text)
        fill[row] += sizes[text]
    length = max(fill)
    if len(rows) * length >= n_texts * width:
        return None
    source = torch.zeros(len(rows), length, dtype=torch.long)
    positions, owner = torch.zeros_like(source), torch.full_like(source, -1)
    first = torch.empty(n_texts, dtype=torch.long)
    for r, texts in enumerate(rows):
        start = 0
        for text in texts:
            end = start + sizes[text]
            places = torch.arange(sizes[text])
            source[r, start:end] = text * width + places
            positions[r, start:end] = places
            owner[r, start:end] = text
            first[text] = r * length + start
            start = end
    attention = (owner[:, None, :, None] == owner[:, None, None, :]).to(mask.device)
    return Packing(source.to(mask.device), positions.to(mask.device), attention, first.to(mask.device))
