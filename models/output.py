"""What a model says about a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

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

    @property
    def is_sequence(self) -> bool:
        """Whether it speaks of each token: logits [B, T, V]."""
        return self.logits.ndim > 2

    def rows(self, mask: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Of a sequence: [N, ...] of the N positions where ``mask`` [B, T] is true, and what makes logits of them.

        A caller that makes logits of some rows at a time never holds those of all.
        """
        return self.logits[mask], _same


class SequenceOutput(ModelOutput):
    """A language model's output before its head: the logits [B, T, V] are computed when somebody asks for them.

    Args:
        hidden: last hidden states [B, T, D].
        read: [..., D] to logits [..., V]; the model's output embedding and what follows it.
    """

    def __init__(self, hidden: Tensor, read: Callable[[Tensor], Tensor]) -> None:
        for name, value in (("hidden", hidden), ("read", read), ("joint", None)):
            object.__setattr__(self, name, value)
        for name in ("unimodal", "unimodal_logits", "present"):
            object.__setattr__(self, name, {})

    hidden: Tensor
    read: Callable[[Tensor], Tensor]

    @cached_property
    def logits(self) -> Tensor:
        """[B, T, V]."""
        return self.read(self.hidden)

    @property
    def is_sequence(self) -> bool:
        """Always."""
        return True

    def rows(self, mask: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Hidden states [N, D], and the head."""
        return self.hidden[mask], self.read


def _same(rows: Tensor) -> Tensor:
    return rows
