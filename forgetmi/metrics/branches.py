"""What a language model writes greedily from every token of a text at which it would leave the text.

One pass over the true text has the keys and values of every prefix. Continuations branch off from it, many at a time,
each at its own place; the shorter ones end first, and the rows that are left go on without them. Where a model keeps
something else than keys and values (or forgets some of them), every prefix is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from forgetmi.batch import Batch
from forgetmi.errors import DataError
from forgetmi.metrics.generation import Decoding, continue_tokens
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.output import ModelOutput, SequenceOutput
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.tokens import IGNORED


def continuations(
    model: CausalLM, task: CausalLMTask, batch: Batch, batch_size: int
) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Of each record (written [A, A], wrong [A], true [A]), A its answer's length.

    Row a of ``written`` holds, at columns a on, what is written in place of the answer's tokens a on; it is filled
    where ``wrong``: where the likeliest token is not the true one.
    """
    tokens, start, stop = _aligned(batch.inputs[task.modality])  # type: ignore[arg-type]
    ids = tokens["input_ids"]
    output, cache = _prefill(model, ids, tokens["attention_mask"])
    aligned = replace(batch, inputs={task.modality: tokens})
    likeliest = F.pad(task.over_tokens(_likeliest, aligned, output)[0], (1, 0))  # [B, T], own places
    wrong = (likeliest != ids) & (tokens["labels"] != IGNORED)
    record, offset = wrong.nonzero(as_tuple=True)
    order = (stop[record] - offset).argsort(descending=True, stable=True)
    record, offset = record[order], offset[order]
    branches = _Branches(model, cache, ids) if _can_branch(model, cache, output, tokens, batch_size) else None
    written = torch.zeros((*ids.shape, ids.shape[1]), dtype=torch.int32, device=ids.device)  # [record, offset, place]
    for first in range(0, len(record), batch_size):
        rows, at = record[first : first + batch_size], offset[first : first + batch_size]
        lengths = stop[rows] - at
        remaining = lengths.tolist()
        if branches is None:
            found = _generated(model, ids, rows, at, remaining)
        else:
            found = branches.decode(rows, at, likeliest[rows, at], remaining)
        k, step = (torch.arange(found.shape[1], device=ids.device) < lengths[:, None]).nonzero(as_tuple=True)
        written[rows[k], at[k], at[k] + step] = found[k, step].int()
    spans = zip(start.tolist(), stop.tolist(), strict=True)
    arrays = written.cpu().numpy(), wrong.cpu().numpy(), ids.cpu().numpy()
    return [(arrays[0][n, s:e, s:e], arrays[1][n, s:e], arrays[2][n, s:e]) for n, (s, e) in enumerate(spans)]


def _likeliest(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(dim=-1)


def _aligned(tokens: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The same tokens with padding on the right; and where each answer starts (not at 0) and stops, [B] each."""
    there = tokens["attention_mask"].bool()
    width = there.shape[1]
    source = (torch.arange(width, device=there.device) + there.long().argmax(dim=1, keepdim=True)) % width
    names = ("input_ids", "attention_mask", "labels")
    moved = {name: tokens[name].gather(1, source) for name in names}
    moved["labels"][:, 0] = IGNORED
    answer = (moved["labels"] != IGNORED).long()
    start, stop = answer.argmax(dim=1), width - answer.flip(1).argmax(dim=1)
    if bool((answer.sum(dim=1) != stop - start).any()):
        raise DataError(
            "an answer is in several pieces, and there is no saying what continues what",
            expected="answers without tokens of others between theirs",
        )
    return moved, start, stop


def _prefill(model: CausalLM, ids: Tensor, mask: Tensor) -> tuple[ModelOutput, Any]:
    """What the model says of the true texts, and its keys and values."""
    body = model.lm.base_model if model.splits else model.lm
    found = body(input_ids=ids, attention_mask=mask, use_cache=True)
    cache = getattr(found, "past_key_values", None)
    if model.splits:
        return SequenceOutput(found.last_hidden_state, model.read), cache
    return ModelOutput(found.logits), cache


class _BranchLayer(DynamicLayer):
    """A layer's keys and values [R, H, T, D] of rows that stand at places of their own.

    What lies behind a row's place is the true text's, and hidden from it until it is written over.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def stand(self, at: Tensor, width: int) -> None:
        """Where the first rows write next [n], and how far the furthest of them then sees."""
        self.at, self.width, self.rows = at, width, torch.arange(len(at), device=at.device)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values [n, H, 1, D] of the first n rows, and give back all those before."""
        self.keys[self.rows, :, self.at] = key_states[:, :, 0]
        self.values[self.rows, :, self.at] = value_states[:, :, 0]
        return self.keys[: len(self.at), :, : self.width], self.values[: len(self.at), :, : self.width]

    def get_seq_length(self) -> int:
        """Tokens before the one that is read."""
        return self.width - 1


class _Branches:
    """Continuations that branch off from texts whose keys and values are there."""

    def __init__(self, model: CausalLM, cache: Any, ids: Tensor) -> None:
        self.model, self.ids = model, ids
        self.layers = [(layer.keys, layer.values) for layer in cache.layers]

    def fork(self, rows: Tensor) -> DynamicCache:
        """Keys and values of some texts, to be written on [R]."""
        made = DynamicCache()
        made.layers = [_BranchLayer(*(part.index_select(0, rows) for part in layer)) for layer in self.layers]
        return made

    def step(self, cache: DynamicCache, tokens: Tensor, at: Tensor, width: int) -> Tensor:
        """Logits [n, V] after the first n rows have read a token [n] each, at their places [n] below ``width``."""
        for layer in cache.layers:
            cast(_BranchLayer, layer).stand(at, width)
        seen = torch.arange(width, device=at.device) <= at[:, None]
        found = self.model.lm(
            input_ids=tokens[:, None],
            attention_mask=seen.long(),
            position_ids=at[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits: Tensor = found.logits[:, -1]
        return logits

    def decode(self, rows: Tensor, at: Tensor, first: Tensor, remaining: Sequence[int]) -> Tensor:
        """Greedy continuations [R, L], L the longest; what lies behind a shorter one means nothing.

        Args:
            rows, at: [R] which text each branches off from, and the place of its first own token.
            first: [R] that token.
            remaining: how many tokens each is to have, the most first.
        """
        cache, furthest = self.fork(rows), list(accumulate(at.tolist(), max))
        written = first[:, None].repeat(1, remaining[0])
        n = len(rows)
        for step in range(1, remaining[0]):
            while remaining[n - 1] <= step:
                n -= 1
            logits = self.step(cache, written[:n, step - 1], at[:n] + step - 1, furthest[n - 1] + step)
            written[:n, step] = logits.argmax(dim=-1)
        return written


def _can_branch(model: CausalLM, cache: Any, output: ModelOutput, tokens: dict[str, Tensor], batch_size: int) -> bool:
    """Whether branching off gives this model's own logits: tried on true tokens at places all over the texts.

    It does not for models that keep more than keys and values, forget some of them, or number places in their own way.
    """
    ids, counted = tokens["input_ids"], tokens["labels"] != IGNORED
    if not counted.any():
        return False
    layers = getattr(cache, "layers", None) or []
    if not layers or any(
        getattr(layer, "keys", None) is None or layer.keys.shape[-2] != ids.shape[1] for layer in layers
    ):
        return False
    rows, at = counted.nonzero(as_tuple=True)
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), batch_size), device=ids.device).long()
    rows, at = rows[chosen], at[chosen]
    branches = _Branches(model, cache, ids)
    try:
        found = branches.step(branches.fork(rows), ids[rows, at], at, int(at.max()) + 1)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    places = torch.zeros_like(counted)
    places[rows, at] = True
    hidden, read = output.rows(places)  # in the order of records and places, as rows and at are
    expected = read(hidden)
    exact = expected.dtype in (torch.float32, torch.float64)
    return bool((found - expected).abs().max() <= (1e-3 if exact else 5e-2) * expected.abs().max())


def _generated(model: CausalLM, ids: Tensor, rows: Tensor, at: Tensor, remaining: Sequence[int]) -> Tensor:
    """The same continuations by reading every prefix again."""
    written = ids.new_zeros((len(rows), remaining[0]))
    for place in at.unique().tolist():
        chosen = (at == place).nonzero().flatten().tolist()
        length = max(remaining[row] for row in chosen)
        prompts = [ids[rows[row], :place].tolist() for row in chosen]
        found = continue_tokens(model, prompts, Decoding(length), eos_id=None, seed=0, batch_size=len(chosen))
        written[chosen, :length] = torch.tensor([samples[0] for samples in found], device=ids.device)
    return written
