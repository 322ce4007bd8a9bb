"""How a model is scored. A method asks the task and never looks at logits shapes, masks or modality names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.tokens import TokenFunction


class Task(Protocol):
    """How a model is scored.

    Attributes:
        name: ``"classification"`` or ``"causal_lm"``.
        embeddings: whether :meth:`output` gives unimodal embeddings; methods that need them are refused without.
    """

    name: ClassVar[str]
    embeddings: ClassVar[bool]

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """The model's output for a batch."""
        ...

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Negative log-likelihood of the target, per example: [B]. Language models: the sum over answer tokens."""
        ...

    def nll_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The same, from an output that is there already: [B]."""
        ...

    def token_nll(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """([B, T], [B, T]): the same for each token of the target, 0 outside; and :meth:`token_mask`.

        A classifier's record is a sequence of one token, or of one for each independent label.
        """
        ...

    def token_mask(self, batch: Batch) -> Tensor:
        """[B, T]: which places of a sequence are tokens of its target. A language model's T is one less than that of
        its input: the first token is predicted by nothing.
        """
        ...

    def over_tokens(self, function: TokenFunction, batch: Batch, *outputs: ModelOutput) -> tuple[Tensor, Tensor]:
        """([B, T], [B, T]): a function of the logits [N, V] of each output, and the true tokens [N]; and the mask.

        Raises:
            MethodError: the targets are not drawn from one vocabulary.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar loss that the model was trained with."""
        ...

    def loss_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The same, from an output that is there already."""
        ...

    def signals(self, output: ModelOutput, batch: Batch) -> Mapping[str, Tensor]:
        """What an attacker can compute from one query, per example: name to [B]. Always has ``"nll"``."""
        ...

    def check_labels(self, batch: Batch) -> None:
        """Raise :class:`DataError` where a label is missing, of the wrong kind or out of range."""
        ...

    def errors_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """[B] in [0, 1]: how wrong the most likely target is (1 or 0; the share of labels, or of answer tokens)."""
        ...

    def divergence(self, output: ModelOutput, target: ModelOutput, batch: Batch, temperature: float = 1.0) -> Tensor:
        """[B]: KL( softmax(target / T) || softmax(output / T) ), without a factor T^2.

        Sums over classes (over independent labels); a language model's is the mean over the record's answer tokens.
        """
        ...

    def outcomes(self, output: ModelOutput) -> Tensor:
        """[B, K]: the negative log-likelihood of each target that a record could have had.

        With g_k the gradient of the k-th, sum_k exp(-nll_k) g_k g_k^T is the record's Fisher matrix.

        Raises:
            MethodError: there are too many to list (sequences of tokens).
        """
        ...

    def without_truth(self, output: ModelOutput, batch: Batch) -> ModelOutput:
        """The output with the true target made impossible, so that softmax shares its probability among the others.

        Raises:
            MethodError: the task's targets have no other than the true one and its opposite.
        """
        ...

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """The batch with other labels, of the form of its own.

        Raises:
            MethodError: the task's targets are no labels.
        """
        ...

    def random_labels(self, labels: Tensor, generator: torch.Generator, *, exclude_true: bool) -> Tensor:
        """Labels drawn uniformly, of the form of ``labels`` and, if ``exclude_true``, each another than there.

        Raises:
            MethodError: the task's targets are no labels.
        """
        ...
