"""Causal language models: the minimal task that proves that methods know nothing of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import DataError, MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.divergence import categorical_kl, excluded

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
        return self.loss_of(self.output(model, batch), batch)

    def loss_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The same, from an output that is there already."""
        losses, mask = self.token_nll_of(output, batch)
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

    def errors_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """[B]: the share of answer tokens that are not the most likely one."""
        labels = self._tokens(batch)["labels"][:, 1:]
        mask = labels != IGNORED
        wrong = (output.logits[:, :-1].argmax(dim=-1) != labels) & mask
        return wrong.sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def divergence(self, output: ModelOutput, target: ModelOutput, batch: Batch, temperature: float = 1.0) -> Tensor:
        """[B]: the mean over the answer tokens of the divergence of their distributions."""
        mask = self._tokens(batch)["labels"][:, 1:] != IGNORED
        rows = categorical_kl(output.logits[:, :-1], target.logits[:, :-1], temperature)
        return (rows * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def outcomes(self, output: ModelOutput) -> Tensor:
        """Refused: there are too many sequences of tokens."""
        raise self._no_labels("the list of every possible target")

    def without_truth(self, output: ModelOutput, batch: Batch) -> ModelOutput:
        """At each place the token that truly comes next is impossible."""
        truth = self._tokens(batch)["labels"][:, 1:]
        changed = excluded(output.logits[:, :-1], truth.clamp(min=0))
        kept = torch.where((truth != IGNORED)[..., None], changed, output.logits[:, :-1].float())
        return ModelOutput(torch.cat([kept, output.logits[:, -1:].float()], dim=1))

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """Refused: the target is the text itself."""
        raise self._no_labels("another label")

    def random_labels(self, labels: Tensor, generator: torch.Generator, *, exclude_true: bool) -> Tensor:
        """Refused: the target is the text itself."""
        raise self._no_labels("a random label")

    def _no_labels(self, what: str) -> MethodError:
        return MethodError(
            f"the task {self.name!r} was asked for {what}; its targets are sequences of tokens, not labels",
            fix="choose a method that does not change labels: forgetmi ls methods",
        )

    def _tokens(self, batch: Batch) -> Mapping[str, Tensor]:
        tokens = batch.inputs.get(self.modality)
        if not isinstance(tokens, dict) or not isinstance(tokens.get("labels"), torch.Tensor):
            raise DataError(f"the batch has no {self.modality!r} input with input_ids, attention_mask and labels")
        return tokens
