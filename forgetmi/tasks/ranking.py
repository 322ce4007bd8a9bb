"""The ranking loss of the published training recipe."""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_loss(first: Tensor, second: Tensor, labels: Tensor, groups: Tensor, usable: Tensor | None = None) -> Tensor:
    """Pull a record's two embeddings together, relative to an impostor's, by a margin that grows with severity.

    Chauhan et al. 2020 (MICCAI), as used to train the model of Forget-MI: with similarity s = dot product and the
    impostor j of record i being the next one in the batch,

        L = mean_i  max(0, m_ij + s(x_i, y_j) - s(x_i, y_i))  +  max(0, m_ij + s(x_j, y_i) - s(x_i, y_i)),
        m_ij = max(0.5, |label_i - label_j|),  and 0 when i and j come from the same report.

    Vectorised: the impostor is a roll by one. A batch of one record has no impostor and costs 0. Our reading: the two
    directions (wrong text, wrong image) are summed, and a pair with a missing modality on either side is left out.

    Args:
        first, second: x and y, embeddings [B, D].
        labels: ordered class indices [B].
        groups: which report a record comes from [B].
        usable: mask [B] of records that have both modalities.

    Returns:
        A scalar.
    """
    if len(first) < 2:
        return first.sum() * 0.0
    margin = (labels - labels.roll(-1)).abs().to(first.dtype).clamp(min=0.5)
    margin = torch.where(groups == groups.roll(-1), torch.zeros_like(margin), margin)
    true = (first * second).sum(dim=1)
    wrong_second = (first * second.roll(-1, dims=0)).sum(dim=1)
    wrong_first = (first.roll(-1, dims=0) * second).sum(dim=1)
    losses = (margin + wrong_second - true).clamp(min=0) + (margin + wrong_first - true).clamp(min=0)
    if usable is None:
        return losses.mean()
    pairs = (usable & usable.roll(-1)).to(losses.dtype)
    return (losses * pairs).sum() / pairs.sum().clamp(min=1)
