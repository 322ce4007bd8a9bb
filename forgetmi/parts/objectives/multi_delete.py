"""Distances of MultiDelete."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def embedding_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over records and dimensions of (a - b)^2: [B, D], [B, D] to a scalar."""
    return (student - teacher).square().mean()


def unimodal_mse(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """The same for each modality over the records that have it, averaged over modalities.

    Args:
        student, teacher: modality name to [B, D].
        present: modality name to mask [B]. A modality that none of the records has counts 0.
    """
    found = []
    for name, embedding in student.items():
        there = present[name].to(embedding.dtype)
        squares = (embedding - teacher[name]).square().mean(dim=1)
        found.append((squares * there).sum() / there.sum().clamp(min=1))
    return torch.stack(found).mean()
