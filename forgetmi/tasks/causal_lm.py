"""Causal language models: the minimal task that proves that methods know nothing of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import DataError
from forgetmi.models.output import ModelOutput

IGNORED = -100


@dataclass(frozen=True)
class CausalLMTask:
    """Scores a causal language model of the transformers interface.

    Attributes:
        modality: the input that holds ``input_ids``, ``attention_mask`` and ``labels`` [B, T] (-100 where a token is
            not part of the answer).
    """

    modality: str = "tokens"

    name: ClassVar[str] = "causal_lm"
    embeddings: ClassVar[bool] = False

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """Logits [B, T, V]."""
        tokens = self._tokens(batch)
        logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        return ModelOutput(logits)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """[B]: the sum over answer tokens of -log p(token | what stands before it)."""
        return self.nll_of(self.output(model, batch), batch)

    def nll_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """[B], from logits [B, T, V]."""
        losses, mask = self.token_nll_of(output, batch)
        return (losses * mask).sum(dim=1)

    def token_nll_of(self, output: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """([B, T-1] losses, [B, T-1] mask of answer tokens): logits at t predict the token at t+1."""
        labels = self._tokens(batch)["labels"][:, 1:]
        losses = F.cross_entropy(
            output.logits[:, :-1].float().transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
        )
        return losses, labels != IGNORED

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch's answer tokens."""
        losses, mask = self.token_nll_of(self.output(model, batch), batch)
        return (losses * mask).sum() / mask.sum().clamp(min=1)

    def signals(self, output: ModelOutput, batch: Batch) -> Mapping[str, Tensor]:
        """``nll`` [B] and ``n_tokens`` [B]."""
        losses, mask = self.token_nll_of(output, batch)
        return {"nll": (losses * mask).sum(dim=1), "n_tokens": mask.sum(dim=1)}

    def check_labels(self, batch: Batch) -> None:
        """Raise :class:`DataError` where a record has no answer token after its first token."""
        empty = ((self._tokens(batch)["labels"][:, 1:] != IGNORED).sum(dim=1) == 0).nonzero().flatten()
        if len(empty):
            raise DataError(
                f"{len(empty)} records have no answer token",
                where=f"record at position {int(batch.indices[empty[0]])}",
                fix="raise max_length, or give the record an answer",
            )

    def _tokens(self, batch: Batch) -> Mapping[str, Tensor]:
        tokens = batch.inputs.get(self.modality)
        if not isinstance(tokens, dict) or not isinstance(tokens.get("labels"), torch.Tensor):
            raise DataError(f"the batch has no {self.modality!r} input with input_ids, attention_mask and labels")
        return tokens
