"""Attention among texts that stand one behind the other in a single row, without padding anywhere else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RAGGED = "forgetmi_ragged"
"""The name under which transformers knows it."""

_SHAPE = torch.int8  # the type of a mask that is the shape of a batch; those of transformers are bool or floating


def shape_of(mask: Tensor) -> Tensor:
    """What a model is given as its mask [1, 1, B, T], when a row [1, N] holds the N tokens where ``mask`` [B, T] is
    true, one text behind the other. A mask of four dimensions goes through a model of transformers as it is.
    """
    return mask.to(_SHAPE)[None, None]


def spread(row: Tensor, there: Tensor) -> Tensor:
    """[B, T, D]: the row's [N, D] where ``there`` [B, T] is true, in order, else zero."""
    grid = row.new_zeros(there.numel(), row.shape[-1]).index_copy(0, there.flatten().nonzero().flatten(), row)
    return grid.unflatten(0, there.shape)


def use_ragged(lm: Any) -> None:
    """Let a model of transformers take masks of :func:`shape_of`, in place; it takes all others as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(RAGGED, _attention)
    AttentionMaskInterface.register(RAGGED, sdpa_mask)
    lm.set_attn_implementation(RAGGED)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Causal attention [1, N, H, D] within each text, from query, key and value [1, H, N, D]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.dtype != _SHAPE:
        said, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return said, None
    if unknown := {
        name for name in ("softcap", "sliding_window", "position_bias", "s_aux") if more.get(name) is not None
    }:
        raise ValueError(f"attention with {', '.join(sorted(unknown))}")
    n_texts, width = attention_mask.shape[-2:]
    places = attention_mask.flatten().nonzero().flatten()

    def padded(tokens: Tensor) -> Tensor:
        """[B, H, T, D]: padding stands behind each text, where nothing sees it."""
        rows = tokens[0].transpose(0, 1)
        grid = rows.new_zeros(n_texts * width, *rows.shape[1:]).index_copy(0, places, rows)
        return grid.unflatten(0, (n_texts, width)).transpose(1, 2)

    said = F.scaled_dot_product_attention(
        padded(query), padded(key), padded(value), is_causal=True, scale=more.get("scaling"),
        dropout_p=more.get("dropout", 0.0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return said.transpose(1, 2).flatten(0, 1).index_select(0, places)[None], None
