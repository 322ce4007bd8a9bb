"""How likely a model finds each of many texts that begin alike: the beginning is read once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetmi.errors import ModelError
from forgetmi.metrics.roc import Floats
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.divergence import wide
from forgetmi.tasks.tokens import MAX_LOGITS
from forgetmi.training.modes import scoring


def tail_nll(
    model: nn.Module,
    shared: Sequence[int],
    tails: Sequence[Sequence[int]],
    *,
    device: torch.device,
    batch_size: int = 256,
    max_logits: int = MAX_LOGITS,
) -> Floats:
    """The sum over each tail's tokens of -log p(token | ``shared``, the tail's tokens before it), in nats.

    A :class:`~forgetmi.models.causal_lm.CausalLM` reads ``shared`` once and keeps its keys and values, where its cache
    can be repeated; other modules that return ``.logits`` read every text whole. The two agree up to rounding.

    Args:
        model: left in the mode it came in.
        shared: ids that all texts begin with, one at least: it predicts the first token of a tail.
        tails: [n] ids of the rest of each, one at least each.
        device: where the model is.
        batch_size: texts at a time; fewer where a :class:`CausalLM`'s logits of them would be more than ``max_logits``.
        max_logits: how many are held at a time.

    Returns:
        [n].

    Raises:
        ModelError: something is not finite.
    """
    found: list[Floats] = []
    with scoring(model):
        cache = _read(model, shared[:-1], device) if len(shared) > 1 else None
        # Read from a cache the last shared token stands before the tail; else all of them do.
        before = list(shared[-1:]) if cache is not None else list(shared)
        width = len(before) + max(map(len, tails))
        held = width * (model.n_tokens if isinstance(model, CausalLM) else 1)
        rows = max(1, min(batch_size, max_logits // held))
        for first in range(0, len(tails), rows):
            part = [[*before, *tail] for tail in tails[first : first + rows]]
            ids, there = _right_padded(part, width, device)
            logits = _logits(model, cache, len(shared) - 1, ids[:, :-1])[:, len(before) - 1 :]
            targets = ids[:, len(before) :]
            nll = F.cross_entropy(wide(logits).flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
            found.append((nll.double() * there[:, len(before) :]).sum(dim=1).cpu().numpy())
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        raise ModelError(
            "the likelihoods of some texts are not finite",
            expected="finite scores",
            fix="the model is broken (diverged training, damaged weights): do not use it or its audit",
        )
    return values


def _read(model: nn.Module, ids: Sequence[int], device: torch.device) -> Any:
    """Keys and values of a text, or ``None`` where the model's cache cannot be repeated for many rows."""
    if not isinstance(model, CausalLM):
        return None
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = model.lm(input_ids=torch.tensor([list(ids)], device=device), use_cache=True).get("past_key_values")
    plain = isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return cache if plain else None


def _logits(model: nn.Module, cache: Any, n_read: int, ids: Tensor) -> Any:
    """[B, T, V]; texts are filled on the right, where no token that counts sees it."""
    if cache is None:
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert isinstance(model, CausalLM)  # only its texts are kept
    repeated = copy.deepcopy(cache)  # reading on writes into it
    repeated.batch_repeat_interleave(len(ids))
    mask = torch.ones(len(ids), n_read + ids.shape[1], dtype=torch.long, device=ids.device)
    return model.lm(input_ids=ids, attention_mask=mask, past_key_values=repeated, use_cache=True).logits


def _right_padded(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]
