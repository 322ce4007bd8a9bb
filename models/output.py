"""What a model says about a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class ModelOutput:
    """Logits and the embeddings that they come from.

    Attributes:
        logits: [B, C]; for a causal language model [B, T, V].
        unimodal: modality name to embedding [B, D]. Rows where the modality is missing are zero.
        joint: fused embedding [B, D], or ``None`` when the model fuses nothing before its head.
        unimodal_logits: modality name to logits [B, C], where the model has one head a modality.
        present: modality name to mask [B], true where the modality was there.
    """

    logits: Tensor
    unimodal: Mapping[str, Tensor] = field(default_factory=dict)
    joint: Tensor | None = None
    unimodal_logits: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
