"""The published step of each method in our own words: every pass that the formula names, one after the other.

Each term is a forward pass of its own with logits of all positions, prompts and padding included, and cross-entropy
over all of them; a deep copy of the start model answers for the original, in each step anew. The optimiser is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels`` [B, T], -100 outside the answer."""

IGNORED = -100


class PublishedStep:
    """One method's loss on a model and a frozen copy of it.

    Args:
        method: a name of :data:`lm_bench.data.METHODS`.
        lm: a model of transformers; it is trained.
        beta: of NPO and DPO.
        layer, direction: RMU's block, and where it is steered to [D].
    """

    def __init__(self, method: str, lm: Any, *, beta: float, layer: int = 0, direction: Tensor | None = None) -> None:
        self.method, self.lm, self.beta, self.layer, self.direction = method, lm, beta, layer, direction
        keeps = method in ("npo", "npo_kl", "dpo", "rmu")
        self.original = copy.deepcopy(lm).eval().requires_grad_(False) if keeps else None

    def loss(self, batches: Mapping[str, Inputs]) -> Tensor:
        """The step's loss."""
        if self.method == "rmu":
            return self._steered(batches)
        if self.method == "flat":
            return self._flat(batches)
        forget = -self._mean(batches["forget"]) if self.method == "grad_diff" else self._preference(batches)
        if self.method == "npo_kl":
            return forget + self._divergence(batches["retain"])
        return forget + self._mean(batches["retain"])

    def _preference(self, batches: Mapping[str, Inputs]) -> Tensor:
        """2 / beta softplus( beta (log ratio of y_l - log ratio of y_w) ); without y_w it is NPO."""
        ratio = self._log_ratio(batches["forget"])
        if self.method == "dpo":
            ratio = ratio - self._log_ratio(batches["alternate"])
        return 2.0 / self.beta * F.softplus(self.beta * ratio).mean()

    def _log_ratio(self, inputs: Inputs) -> Tensor:
        """The log-ratio log pi / pi_0 of each answer [B]."""
        with torch.no_grad():
            before = _sums(self._logits(self._frozen(), inputs), inputs["labels"])
        return before - _sums(self._logits(self.lm, inputs), inputs["labels"])

    def _mean(self, inputs: Inputs) -> Tensor:
        """The mean over the batch's answer tokens."""
        logits, labels = self._logits(self.lm, inputs)[:, :-1], inputs["labels"][:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def _divergence(self, inputs: Inputs) -> Tensor:
        """KL( p_0 || p ), the mean over records of the mean over each one's answer tokens."""
        with torch.no_grad():
            target = F.log_softmax(self._logits(self._frozen(), inputs), dim=-1)
        found = F.log_softmax(self._logits(self.lm, inputs), dim=-1)
        rows = F.kl_div(found, target, reduction="none", log_target=True).sum(dim=-1)[:, :-1]
        mask = inputs["labels"][:, 1:] != IGNORED
        return ((rows * mask).sum(dim=1) / mask.sum(dim=1)).mean()

    def _flat(self, batches: Mapping[str, Inputs]) -> Tensor:
        """-( g*(P_e) - f*(g*(P_f)) ) of the total variation: both tanh(P) / 2."""
        template, answer = (self._probability(batches[name]) for name in ("alternate", "forget"))
        return (torch.tanh(answer) / 2 - torch.tanh(template) / 2).mean()

    def _probability(self, inputs: Inputs) -> Tensor:
        """The mean probability of each answer's tokens [B]."""
        p = _token_log_p(self._logits(self.lm, inputs), inputs["labels"]).exp()
        mask = inputs["labels"][:, 1:] != IGNORED
        return (p * mask).sum(dim=1) / mask.sum(dim=1)

    def _steered(self, batches: Mapping[str, Inputs]) -> Tensor:
        """The states of one block towards the direction, those of retain records held; the whole network is run."""
        assert self.direction is not None
        with torch.no_grad():
            held = self._states(self._frozen(), batches["retain"])
        away = _distance(self._states(self.lm, batches["forget"]), self.direction, batches["forget"])
        return away + _distance(self._states(self.lm, batches["retain"]), held, batches["retain"])

    def _states(self, lm: Any, inputs: Inputs) -> Tensor:
        said: list[Tensor] = []
        block: nn.Module = lm.model.layers[self.layer]
        handle = block.register_forward_hook(lambda module, given, output: said.append(output))
        self._logits(lm, inputs)
        handle.remove()
        return said[0][0] if isinstance(said[0], tuple) else said[0]

    def _frozen(self) -> Any:
        assert self.original is not None
        return self.original

    @staticmethod
    def _logits(lm: Any, inputs: Inputs) -> Tensor:
        found: Tensor = lm(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        return found


def _token_log_p(logits: Tensor, labels: Tensor) -> Tensor:
    found = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return -found


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    return _token_log_p(logits, labels).sum(dim=1).neg()


def _distance(states: Tensor, target: Tensor, inputs: Inputs) -> Tensor:
    mask = inputs["labels"] != IGNORED
    squares = (states - target).square().mean(dim=-1) * mask
    return (squares.sum(dim=1) / mask.sum(dim=1)).mean()
