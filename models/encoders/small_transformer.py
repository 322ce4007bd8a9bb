"""A small transformer for text, trained from scratch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of states [B, T, D] over the positions where mask [B, T] is true; zero where there is none."""
    kept = torch.where(mask[..., None], states, 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class SmallTransformerOptions:
    """Options of :class:`SmallTransformer`.

    Attributes:
        vocab_size: number of tokens of the tokenizer.
        dim: width D of the states and of the embedding.
        layers, heads: of the encoder.
        max_length: longest text, in tokens.
        dropout: in [0, 1).
    """

    vocab_size: int
    dim: int = 64
    layers: int = 2
    heads: int = 4
    max_length: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("vocab_size", "dim", "layers", "heads", "max_length")
            if getattr(self, name) < 1
        ]
        if not problems and self.dim % self.heads:
            problems.append(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be in [0, 1), got {self.dropout}")
        if problems:
            raise ConfigError(problems)


class SmallTransformer(nn.Module):
    """Token and learned position embeddings, pre-norm transformer layers, mean over the tokens that are there.

    Input: ``{"input_ids": [B, T] int, "attention_mask": [B, T]}`` (1 where there is a token; any integer or bool
    type), padded on the right. Output: [B, D]. How far a batch is padded changes nothing.
    """

    Options = SmallTransformerOptions

    def __init__(self, options: SmallTransformerOptions) -> None:
        super().__init__()
        self.options = options
        self.dim = options.dim
        self.tokens = nn.Embedding(options.vocab_size, options.dim)
        self.positions = nn.Embedding(options.max_length, options.dim)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(options.dropout)
        layer = nn.TransformerEncoderLayer(
            options.dim,
            options.heads,
            dim_feedforward=4 * options.dim,
            dropout=options.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        # The nested-tensor fast path rounds differently and needs post-norm: off, so that train and eval agree.
        self.layers = nn.TransformerEncoder(
            layer, options.layers, norm=nn.LayerNorm(options.dim), enable_nested_tensor=False
        )
        # TransformerEncoder copies one layer, weights and all; give each its own draw.
        for module in self.layers.modules():
            if isinstance(module, nn.MultiheadAttention):
                module._reset_parameters()
            elif isinstance(module, nn.Linear) and not isinstance(
                module, nn.modules.linear.NonDynamicallyQuantizableLinear
            ):
                module.reset_parameters()

    def forward(self, text: dict[str, Tensor]) -> Tensor:
        """Embeddings [B, D].

        Raises:
            ModelError: the text is longer than ``max_length``.
        """
        ids, mask = text["input_ids"], text["attention_mask"].bool()
        if ids.shape[1] > self.options.max_length:
            raise ModelError(
                f"small_transformer was given texts of {ids.shape[1]} tokens",
                expected=f"at most max_length = {self.options.max_length}",
                fix="raise the encoder's max_length, or lower the text modality's",
            )
        where = torch.arange(ids.shape[1], device=ids.device)
        states = self.dropout(self.tokens(ids) + self.positions(where))
        # A row without any token would make attention divide by zero; it looks at its first (padding) position
        # instead, and the mean below leaves that out.
        empty = ~mask.any(dim=1, keepdim=True)
        blocked = ~(mask | (empty & (where == 0)))
        return masked_mean(self.layers(states, src_key_padding_mask=blocked), mask)

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "small_transformer", **asdict(self.options)}
