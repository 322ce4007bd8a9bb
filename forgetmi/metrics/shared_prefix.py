"""The true tokens of many answers to few questions, scored in one pass in which common beginnings are shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.tokens import IGNORED, TokenExample, TokenModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.output import ModelOutput, SequenceOutput
from forgetmi.models.prefix_tree import prefix_trees
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.tokens import TokenFunction, token_values
from forgetmi.training.modes import scoring

WORTH_SHARING = 0.2
"""From this part of common tokens on, texts are scored as trees: attention to trees is a little slower."""


@dataclass(frozen=True)
class SharedPrefixTask(CausalLMTask):
    """Scores a batch whose texts begin alike: what several of them share is computed once, its logits too.

    What is computed is what :class:`CausalLMTask` computes, up to rounding. For models that :func:`can_share` accepts,
    and batches padded on the right.
    """

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """As :meth:`CausalLMTask.output`; hidden states of padding, and of a text's last token, mean nothing."""
        inputs = self._tokens(batch)
        if not isinstance(model, CausalLM) or "position_ids" in inputs:
            return super().output(model, batch)
        return _shared(model, inputs["input_ids"], inputs["attention_mask"])

    def over_tokens(self, function: TokenFunction, batch: Batch, *outputs: ModelOutput) -> tuple[Tensor, Tensor]:
        """As :meth:`CausalLMTask.over_tokens`: once for each token of a tree and each token that follows it."""
        output = outputs[0] if len(outputs) == 1 else None
        if not isinstance(output, _TreeOutput):
            return super().over_tokens(function, batch, *outputs)
        labels = self._tokens(batch)["labels"]
        mask = labels[:, 1:] != IGNORED
        places = F.pad(output.places, (0, mask.shape[1]))[:, : mask.shape[1]][mask]
        pairs, each = torch.stack([places, labels[:, 1:][mask]]).unique(dim=1, return_inverse=True)
        rows = SequenceOutput(F.pad(output.states[pairs[0]], (0, 0, 0, 1))[None], output.read)
        values, _ = token_values(function, [rows], F.pad(pairs[1], (1, 0), value=IGNORED)[None], self.max_logits)
        found = values[0][each]
        shape = mask.shape + found.shape[1:]
        chosen = mask.view(*mask.shape, *(1 for _ in found.shape[1:]))
        return found.new_zeros(shape).masked_scatter(chosen, found), mask


class _TreeOutput(SequenceOutput):
    """The output of a batch whose texts share their beginnings.

    Args:
        states: [M, D] hidden states of the trees' tokens.
        places: [B, T'] of each text's tokens among them.
        width: T of the batch.
        read: see :class:`SequenceOutput`.
    """

    def __init__(self, states: Tensor, places: Tensor, width: int, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__(F.pad(states[places], (0, 0, 0, width - places.shape[1])), read)
        for name, value in (("states", states), ("places", places)):
            object.__setattr__(self, name, value)

    states: Tensor
    places: Tensor


def can_share(model: CausalLM) -> bool:
    """Whether a model takes a mask of trees and gives what it gives for each text on its own: tried on a few tokens."""
    config = model.lm.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    # A window is counted in places of a row, and a tree's are not those of its texts: a few tokens would not show it.
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size")]
    if kinds != {"full_attention"} or any(windows) or not model.splits:
        return False
    ids = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 3, 2, 1], [0, 1, 3, 4, 0]], device=model.lm.device) % model.n_tokens
    with scoring(model):
        try:
            shared = _shared(model, ids, torch.ones_like(ids)).hidden[:, :-1]
            alone = model.hidden(ids, torch.ones_like(ids))
        except Exception:  # whatever a model makes of a mask that it does not know
            return False
        if alone is None:
            return False
        alone = alone[:, :-1]
        tolerance = 1e-4 if alone.dtype in (torch.float32, torch.float64) else 3e-2
        return bool((shared - alone).abs().max() <= tolerance * alone.abs().max())


def score_examples(
    model: CausalLM,
    modality: TokenModality,
    examples: Sequence[TokenExample],
    *,
    batch_size: int = 32,
) -> TokenSignals:
    """Token signals of prepared texts, in their order: one pass in which common beginnings go through the model once.

    Batch size, padding and order change nothing but speed and memory.

    Args:
        model: left in the mode it came in.
        modality: which made the examples.
        examples: N of them.
        batch_size: texts scored at a time.

    Raises:
        DataError, ModelError: as :func:`~forgetmi.metrics.token_signals.token_signals`.
    """
    ids = [example.ids.tolist() for example in examples]
    order = sorted(range(len(ids)), key=ids.__getitem__)  # what begins alike stands together
    task: CausalLMTask = CausalLMTask(modality="tokens")
    if _shared_part([ids[i] for i in order]) >= WORTH_SHARING and can_share(model):
        task = SharedPrefixTask(modality="tokens")
    else:
        order.sort(key=lambda i: -len(ids[i]))

    def batches() -> Iterator[Batch]:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            there = torch.ones(len(part), dtype=torch.bool)
            tokens = modality.collate([examples[i] for i in part])
            yield Batch({"tokens": tokens}, {"tokens": there}, None, torch.tensor(part))

    return token_signals(model, task, batches(), model.lm.device).take(np.argsort(order))


def _shared_part(texts: Sequence[Sequence[int]]) -> float:
    """Of the tokens of texts in their order, the part that begins a text as the text before it begins."""
    common = 0
    for text, after in pairwise(texts):
        common += next(
            (n for n, (a, b) in enumerate(zip(text, after, strict=False)) if a != b), min(map(len, (text, after)))
        )
    return common / max(1, sum(map(len, texts)))


def _shared(model: CausalLM, ids: Tensor, mask: Tensor) -> _TreeOutput:
    """The output of texts [B, T] padded on the right."""
    lengths = mask.sum(dim=1).tolist()
    # The last token predicts nothing.
    texts = [row[: max(1, length - 1)] for row, length in zip(ids.tolist(), lengths, strict=True)]
    trees = prefix_trees(texts).to(ids.device)
    dtype = model.lm.get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled(ids.device.type):
        dtype = torch.get_autocast_dtype(ids.device.type)
    blocked = torch.zeros(trees.attention.shape, dtype=dtype, device=ids.device)
    blocked.masked_fill_(~trees.attention, torch.finfo(dtype).min)
    states = model.hidden(trees.tokens, blocked, position_ids=trees.positions)
    assert states is not None  # `can_share` checks that the model has two halves
    return _TreeOutput(states.flatten(0, 1), trees.places, ids.shape[1], model.read)
