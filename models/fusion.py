"""Fusion: the embeddings of several modalities, some of them missing, as one joint embedding.

Every fusion maps ``unimodal`` (name to [B, D]) and ``present`` (name to Bool [B]) to ``joint`` [B, D]. What stands in
the row of a missing modality has no influence; a record without any modality gets a finite, learned embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetmi.errors import ConfigError, ModelError
from forgetmi.registry import Registry

FUSIONS = Registry(
    "fusion",
    {
        "late": "forgetmi.models.fusion:LateFusion",
        "gate": "forgetmi.models.fusion:GateFusion",
        "cross_attention": "forgetmi.models.fusion:CrossAttentionFusion",
        "outer": "forgetmi.models.fusion:OuterFusion",
    },
)


def build_fusion(config: Mapping[str, Any], names: Sequence[str], dim: int, *, where: str = "fusion") -> nn.Module:
    """A fusion from ``{"name": ..., **options}`` for modalities ``names`` with embeddings of width ``dim``.

    Raises:
        ConfigError: unknown name or option, or an option out of range.
    """
    from forgetmi.options import build_options

    options = dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError([f"{where}: option 'name' is required. Available: {', '.join(FUSIONS)}."])
    try:
        kind = FUSIONS[name]
    except ConfigError as error:
        raise ConfigError([f"{where}.name: {problem}" for problem in error.problems]) from None
    return cast(nn.Module, kind(tuple(names), dim, build_options(kind.Options, options, where=where)))


def masked(embedding: Tensor, present: Tensor) -> Tensor:
    """The embedding [B, D] with zeros in the rows that are not present: selected, so that a NaN there is gone too."""
    return torch.where(present[:, None], embedding, torch.zeros((), dtype=embedding.dtype, device=embedding.device))


def _check_dropout(value: float) -> list[str]:
    return [] if 0 <= value < 1 else [f"dropout must be in [0, 1), got {value}"]


@dataclass(frozen=True)
class LateOptions:
    """Options of :class:`LateFusion`: dropout in [0, 1)."""

    dropout: float = 0.0

    def __post_init__(self) -> None:
        if problems := _check_dropout(self.dropout):
            raise ConfigError(problems)


class LateFusion(nn.Module):
    """Concatenation and a two-layer perceptron: the modalities meet only after their encoders.

    A missing modality is replaced by a learned vector of its own. The other thing called late fusion, the mean of
    per-modality logits, is what a classifier with ``heads="per_modality"`` does.
    """

    Options = LateOptions

    def __init__(self, names: tuple[str, ...], dim: int, options: LateOptions) -> None:
        super().__init__()
        self.names, self.options = names, options
        self.absent = nn.Parameter(0.02 * torch.randn(len(names), dim))
        self.mlp = nn.Sequential(
            nn.Linear(len(names) * dim, dim), nn.GELU(), nn.Dropout(options.dropout), nn.Linear(dim, dim)
        )

    def forward(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``joint`` [B, D]."""
        parts = [
            torch.where(present[name][:, None], unimodal[name], self.absent[i]) for i, name in enumerate(self.names)
        ]
        return self.mlp(torch.cat(parts, dim=1))

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "late", **asdict(self.options)}


@dataclass(frozen=True)
class GateOptions:
    """Options of :class:`GateFusion`.

    Attributes:
        main: the modality that is adapted; the first one where ``None``.
        beta: starting value of the shift's bound, positive.
        dropout: of the joint embedding, in [0, 1).
    """

    main: str | None = None
    beta: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        problems = _check_dropout(self.dropout)
        if not (math.isfinite(self.beta) and self.beta > 0):
            problems.append(f"beta must be a positive number, got {self.beta}")
        if problems:
            raise ConfigError(problems)


class GateFusion(nn.Module):
    """Multimodal adaptation gate on one embedding a record.

    Rahman et al. 2020, "Integrating Multimodal Information in Large Pretrained Transformers", section 3.2.
    With x the main modality's embedding (Z in the paper) and y_m the others' (A, V)::

        g_m   = relu(W_gm [x ; y_m] + b_gm)                 a gate, elementwise
        h     = sum over present m of g_m * (W_m y_m) + b   the shift (H)
        alpha = min(beta ||x|| / ||h||, 1)                  per record
        joint = Dropout(LayerNorm(x + alpha h))

    Our reading where the paper is silent: norms are per record and beta is softplus of a learned number, so it stays
    positive; a record without its main modality gets a learned x; one with nothing but it gets h = 0.
    """

    Options = GateOptions

    def __init__(self, names: tuple[str, ...], dim: int, options: GateOptions) -> None:
        super().__init__()
        main = names[0] if options.main is None else options.main
        if main not in names:
            raise ConfigError([f"fusion.main: {main!r} is not a modality of this model; it has {', '.join(names)}"])
        self.main, self.options = main, options
        self.others = tuple(name for name in names if name != main)
        self.absent = nn.Parameter(torch.randn(dim))
        self.gates = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in self.others)
        self.shifts = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in self.others)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.raw_beta = nn.Parameter(torch.tensor(math.log(math.expm1(options.beta))))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(options.dropout)

    @property
    def beta(self) -> Tensor:
        """The bound of the shift, relative to the main embedding; positive, scalar."""
        return F.softplus(self.raw_beta)

    def forward(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``joint`` [B, D]."""
        x = torch.where(present[self.main][:, None], unimodal[self.main], self.absent)
        shift = torch.zeros_like(x)
        anything = torch.zeros_like(present[self.main])
        for name, gate, project in zip(self.others, self.gates, self.shifts, strict=True):
            y = masked(unimodal[name], present[name])
            shift = shift + masked(torch.relu(gate(torch.cat([x, y], dim=1))) * project(y), present[name])
            anything = anything | present[name]
        shift = masked(shift + self.bias, anything)
        length = torch.linalg.vector_norm(shift, dim=1, keepdim=True)
        # The floor only keeps 0/0 away: where the shift is zero, alpha is of no consequence.
        bound = self.beta * torch.linalg.vector_norm(x, dim=1, keepdim=True) / length.clamp(min=1e-6)
        return self.dropout(self.norm(x + bound.clamp(max=1.0) * shift))

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "gate", **asdict(self.options)}


@dataclass(frozen=True)
class CrossAttentionOptions:
    """Options of :class:`CrossAttentionFusion`: number of attention heads, dropout in [0, 1)."""

    heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        problems = _check_dropout(self.dropout)
        if self.heads < 1:
            problems.append(f"heads must be at least 1, got {self.heads}")
        if problems:
            raise ConfigError(problems)


class CrossAttentionFusion(nn.Module):
    """A learned query attends to one token a modality (plus itself, so that there is always something to attend to).

    Missing modalities are masked out of the keys.
    """

    Options = CrossAttentionOptions

    def __init__(self, names: tuple[str, ...], dim: int, options: CrossAttentionOptions) -> None:
        super().__init__()
        if dim % options.heads:
            raise ConfigError([f"fusion.heads: the common dim ({dim}) must be a multiple of heads ({options.heads})"])
        self.names, self.options = names, options
        self.query = nn.Parameter(0.02 * torch.randn(dim))
        self.kinds = nn.Parameter(0.02 * torch.randn(len(names), dim))
        self.attention = nn.MultiheadAttention(dim, options.heads, dropout=options.dropout, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(options.dropout), nn.Linear(2 * dim, dim)
        )
        self.last_norm = nn.LayerNorm(dim)

    def forward(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``joint`` [B, D]."""
        tokens = torch.stack([masked(unimodal[name], present[name]) for name in self.names], dim=1) + self.kinds
        query = self.query.expand(tokens.shape[0], 1, -1)
        missing = torch.stack([~present[name] for name in self.names], dim=1)
        missing = torch.cat([torch.zeros_like(missing[:, :1]), missing], dim=1)
        keys = torch.cat([query, tokens], dim=1)
        seen, _ = self.attention(query, keys, keys, key_padding_mask=missing, need_weights=False)
        state = self.norm(query + seen)[:, 0]
        return self.last_norm(state + self.mlp(state))

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "cross_attention", **asdict(self.options)}


@dataclass(frozen=True)
class OuterOptions:
    """Options of :class:`OuterFusion`: width to which each embedding is reduced before the outer product, dropout."""

    rank: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        problems = _check_dropout(self.dropout)
        if self.rank < 1:
            problems.append(f"rank must be at least 1, got {self.rank}")
        if problems:
            raise ConfigError(problems)


class OuterFusion(nn.Module):
    """Tensor fusion (Zadeh et al. 2017, "Tensor Fusion Network", eq. 2): the outer product of [1 ; z_m] over all m.

    z_m is the embedding, linearly reduced to ``rank``; a linear layer maps the flattened product to [B, D]. The ones
    keep every lower-order product, so a missing modality (z_m = 0) leaves the products of the others.
    """

    Options = OuterOptions
    largest = 2**16

    def __init__(self, names: tuple[str, ...], dim: int, options: OuterOptions) -> None:
        super().__init__()
        size = (options.rank + 1) ** len(names)
        if size > self.largest:
            raise ConfigError(
                [
                    f"fusion.rank: the product of {len(names)} modalities of rank {options.rank} has {size} entries, "
                    f"more than {self.largest}; lower the rank"
                ]
            )
        self.names, self.options = names, options
        self.reduce = nn.ModuleList(nn.Linear(dim, options.rank) for _ in names)
        self.dropout = nn.Dropout(options.dropout)
        self.project = nn.Linear(size, dim)

    def forward(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``joint`` [B, D]."""
        product: Tensor | None = None
        for name, reduce in zip(self.names, self.reduce, strict=True):
            there = present[name]
            z = masked(reduce(masked(unimodal[name], there)), there)
            factor = torch.cat([z.new_ones(len(z), 1), z], dim=1)
            product = factor if product is None else (product[:, :, None] * factor[:, None, :]).flatten(1)
        if product is None:
            raise ModelError("a fusion needs at least one modality")
        return self.project(self.dropout(product))

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "outer", **asdict(self.options)}
