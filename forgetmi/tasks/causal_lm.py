"""Causal language models: the negative log-likelihood of answers, and all else that is said token by token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, DataError, MethodError
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.output import ModelOutput, SequenceOutput
from forgetmi.tasks.divergence import categorical_kl, excluded, wide
from forgetmi.tasks.tokens import IGNORED, MAX_LOGITS, TokenFunction, token_nll, token_values

JOINT_TOKENS = 1024
"""Batches of so many tokens in all go through the model in one pass."""


@dataclass(frozen=True)
class CausalLMTask:
    """Scores a causal language model.

    A :class:`~forgetmi.models.causal_lm.CausalLM` gives hidden states, and logits are made of answer tokens only,
    ``max_logits`` at a time. Any other module that takes ``input_ids`` and ``attention_mask`` and returns ``.logits``
    (a model of transformers, an ensemble) is served too, with all its logits held.

    Attributes:
        modality: the input that holds ``input_ids``, ``attention_mask`` and ``labels`` [B, T] (-100 where a token is
            not part of the answer), and whatever else the model takes.
        max_logits: how many logits are held at a time, see :func:`~forgetmi.tasks.tokens.token_values`.
    """

    modality: str = "tokens"
    max_logits: int = MAX_LOGITS

    name: ClassVar[str] = "causal_lm"
    embeddings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.max_logits < 1:
            raise ConfigError([f"max_logits must be at least 1, not {self.max_logits}"])

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """Logits [B, T, V], where the model allows it computed only when they are asked for."""
        inputs = {key: value for key, value in self._tokens(batch).items() if key != "labels"}
        hidden = model.hidden(**inputs) if isinstance(model, CausalLM) else None
        if isinstance(model, CausalLM) and hidden is not None:
            return SequenceOutput(hidden, model.read)
        return ModelOutput(model(**inputs).logits)

    def together(self, model: nn.Module, batches: Iterable[Batch]) -> AbstractContextManager[None] | None:
        """A block in which the outputs of these batches come from one pass over all of them, which is faster; ``None``
        where they are better seen one after the other, so that not everything is kept for the gradient at a time.

        They are joined if the model is set to packing and they have :data:`JOINT_TOKENS` tokens at most: what is kept
        of so few is less than weights, gradients and the optimiser's state of a model that it is worth while for.
        """
        if not isinstance(model, CausalLM) or not model.settings.packing:
            return None
        given = [self._tokens(batch) for batch in batches]
        if any(set(tokens) > {"input_ids", "attention_mask", "labels"} for tokens in given):
            return None
        if sum(int(tokens["attention_mask"].sum()) for tokens in given) > JOINT_TOKENS:
            return None
        return model.together([(tokens["input_ids"], tokens["attention_mask"]) for tokens in given])

    def over_tokens(self, function: TokenFunction, batch: Batch, *outputs: ModelOutput) -> tuple[Tensor, Tensor]:
        """([B, T-1] values, [B, T-1] mask): a function of each answer token's logits, one [N, V] of each output.

        Args:
            function: (logits [N, V] of each output, labels [N]) to [N], e.g.
                ``lambda z, z0, y: undial_tokens(z, z0, y, beta)``.
            batch: what the outputs are of.
            outputs: of the model; and of a reference, which has no gradient.
        """
        return token_values(function, outputs, self._tokens(batch)["labels"], self.max_logits)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """[B]: the sum over answer tokens of -log p(token | what stands before it)."""
        return self.nll_of(self.output(model, batch), batch)

    def nll_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """[B], from an output that is there already."""
        return self.token_nll_of(output, batch)[0].sum(dim=1)

    def mean_nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """[B]: the mean over each record's answer tokens."""
        losses, mask = self.token_nll(model, batch)
        return losses.sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def token_nll(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """([B, T-1] losses, zero outside the answer; [B, T-1] mask of answer tokens)."""
        return self.token_nll_of(self.output(model, batch), batch)

    def token_nll_of(self, output: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, from an output that is there already: logits at t predict the token at t+1."""
        return self.over_tokens(token_nll, batch, output)

    def answer_mask(self, batch: Batch) -> Tensor:
        """[B, T]: true where a token is part of the answer, at the token's own place."""
        return self._tokens(batch)["labels"] != IGNORED

    def text_mask(self, batch: Batch) -> Tensor:
        """[B, T]: true where there is a token, false where the batch is padded."""
        return self._tokens(batch)["attention_mask"].bool()

    def retargeted(self, batch: Batch, tokens: Tensor) -> Batch:
        """The batch with other targets at its answers' places; what the model reads stays as it is.

        Args:
            tokens: [N], one for each answer token after a record's first token, record after record.
        """
        given = self._tokens(batch)
        labels = given["labels"].clone()
        labels[:, 1:] = labels[:, 1:].masked_scatter(labels[:, 1:] != IGNORED, tokens.to(labels))
        return replace(batch, inputs={**batch.inputs, self.modality: {**given, "labels": labels}})

    def token_mask(self, batch: Batch) -> Tensor:
        """[B, T-1]: true where a token of the answer is predicted."""
        return self.answer_mask(batch)[:, 1:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch's answer tokens."""
        return self.loss_of(self.output(model, batch), batch)

    def loss_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The same, from an output that is there already."""
        losses, mask = self.token_nll_of(output, batch)
        return losses.sum() / mask.sum().clamp(min=1)

    def signals(self, output: ModelOutput, batch: Batch) -> Mapping[str, Tensor]:
        """``nll`` [B] and ``n_tokens`` [B]."""
        losses, mask = self.token_nll_of(output, batch)
        return {"nll": losses.sum(dim=1), "n_tokens": mask.sum(dim=1)}

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
        wrong, mask = self.over_tokens(lambda logits, labels: (logits.argmax(dim=-1) != labels).float(), batch, output)
        return wrong.sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def divergence(self, output: ModelOutput, target: ModelOutput, batch: Batch, temperature: float = 1.0) -> Tensor:
        """[B]: the mean over the answer tokens of the divergence of their distributions."""
        rows, mask = self.over_tokens(lambda p, q, _: categorical_kl(p, q, temperature), batch, output, target)
        return rows.sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def outcomes(self, output: ModelOutput) -> Tensor:
        """Refused: there are too many sequences of tokens."""
        raise self._no_labels("the list of every possible target")

    def without_truth(self, output: ModelOutput, batch: Batch) -> ModelOutput:
        """At each place the token that truly comes next is impossible."""
        truth = self._tokens(batch)["labels"][:, 1:]
        changed = excluded(output.logits[:, :-1], truth.clamp(min=0))
        kept = torch.where((truth != IGNORED)[..., None], changed, wide(output.logits[:, :-1]))
        return ModelOutput(torch.cat([kept, wide(output.logits[:, -1:])], dim=1))

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
