"""How a model is scored. A method asks the task and never looks at logits shapes, masks or modality names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.models.output import ModelOutput


class Task(Protocol):
    """How a model is scored.

    Attributes:
        name: ``"classification"`` or ``"causal_lm"``.
        embeddings: whether :meth:`output` gives unimodal embeddings; methods that need them are refused without.
    """

    name: str
    embeddings: bool

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """The model's output for a batch."""
        ...

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Negative log-likelihood of the target, per example: [B]. Language models: the sum over answer tokens."""
        ...

    def nll_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The same, from an output that is there already: [B]."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar loss that the model was trained with."""
        ...

    def signals(self, output: ModelOutput, batch: Batch) -> Mapping[str, Tensor]:
        """What an attacker can compute from one query, per example: name to [B]. Always has ``"nll"``."""
        ...

    def check_labels(self, batch: Batch) -> None:
        """Raise :class:`DataError` where a label is missing, of the wrong kind or out of range."""
        ...
