"""A classifier over several modalities, any of which may be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, ModelError
from forgetmi.modalities.base import Inputs
from forgetmi.models.encoders import build_encoder
from forgetmi.models.fusion import build_fusion, masked
from forgetmi.models.output import ModelOutput

Heads = Literal["fused", "per_modality", "both"]


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of a :class:`MultimodalClassifier`.

    Attributes:
        encoders: modality name to ``{"name": encoder, **options}``; their order is the order of the modalities.
        n_outputs: number of classes or labels C.
        fusion: a fusion's name, or ``{"name": ..., **options}``; ``None`` means ``gate`` where there is a fused head
            and nothing where there is none.
        heads: ``"fused"``, ``"per_modality"`` or ``"both"``.
        dim: the common width D of the embeddings.
        dropout: before each head, in [0, 1).
        freeze_encoders: the encoders keep the weights that they come with (pretrained ones); what follows is trained.
    """

    encoders: dict[str, dict[str, Any]]
    n_outputs: int
    fusion: str | dict[str, Any] | None = None
    heads: Heads = "fused"
    dim: int = 64
    dropout: float = 0.0
    freeze_encoders: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not self.encoders:
            problems.append("encoders must name at least one modality")
        problems += [
            f"encoders: modality name {name!r} must be a word of letters, digits and _, not a word of Python's dict"
            for name in self.encoders
            if not name.isidentifier() or hasattr(nn.ModuleDict, name)
        ]
        for name in ("n_outputs", "dim"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be in [0, 1), got {self.dropout}")
        if self.heads == "per_modality" and self.fusion is not None:
            problems.append("fusion: heads 'per_modality' fuse nothing; leave fusion out, or choose heads 'both'")
        if problems:
            raise ConfigError(problems)


def on_present(
    branch: Callable[[Any], tuple[Tensor, ...]], inputs: Inputs, present: Tensor, widths: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """What a branch gives for the records that are present, [B, width] each, zero in the other rows.

    Blanks never reach the branch: they cost nothing and cannot touch its batch statistics.

    Args:
        branch: maps inputs of n records to tensors [n, width].
        inputs: of B records.
        present: Bool [B].
        widths: of the branch's outputs.
    """
    if bool(present.all()):
        return branch(inputs)
    if not bool(present.any()):
        return tuple(torch.zeros(len(present), width, device=present.device) for width in widths)
    rows = present.nonzero()[:, 0]
    kept = {key: tensor[rows] for key, tensor in inputs.items()} if isinstance(inputs, dict) else inputs[rows]
    return tuple(out.new_zeros(len(present), out.shape[1]).index_copy(0, rows, out) for out in branch(kept))


def mean_of_present(values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """Mean [B, C] over the modalities that a record has; zero where it has none. Missing rows must be zero."""
    count = torch.stack([present[name] for name in values]).sum(dim=0).clamp(min=1)
    return torch.stack(list(values.values())).sum(dim=0) / count[:, None]


class MultimodalClassifier(nn.Module):
    """Encoders, a projection of each to a common width D, a fusion, and heads.

    Output (:class:`ModelOutput`): ``unimodal`` holds the projected embeddings [B, D], ``joint`` the fused one, before
    dropout. ``logits`` [B, C] come from the fused head; with ``heads="per_modality"`` they are the mean of the
    present modalities' logits (late fusion), zero for a record that has none. ``unimodal_logits`` are there where
    heads are per modality or both. Rows of missing modalities are zero in ``unimodal`` and ``unimodal_logits``.

    Args:
        encoders: modality name to a module with attribute ``dim`` (see :func:`forgetmi.models.encoders.build_encoder`).
        n_outputs: C.
        fusion: see :func:`forgetmi.models.fusion.build_fusion`; ``None`` with ``heads="per_modality"`` only.
        heads: which heads there are.
        dim: D.
        dropout: before each head.
        freeze_encoders: their weights require no gradient.
    """

    kind = "classifier"

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module | None,
        n_outputs: int,
        *,
        heads: Heads = "fused",
        dim: int = 64,
        dropout: float = 0.0,
        freeze_encoders: bool = False,
    ) -> None:
        super().__init__()
        if (fusion is None) != (heads == "per_modality"):
            raise ModelError(
                f"heads {heads!r} and fusion {'None' if fusion is None else type(fusion).__name__} do not fit",
                expected="a fusion with heads 'fused' or 'both', and none with 'per_modality'",
            )
        self.names = tuple(encoders)
        self.heads, self.dim, self.n_outputs = heads, dim, n_outputs
        self.encoders = nn.ModuleDict(dict(encoders))
        self.projections = nn.ModuleDict({name: nn.Linear(cast(int, e.dim), dim) for name, e in encoders.items()})
        self.fusion = fusion
        self.head = None if fusion is None else nn.Linear(dim, n_outputs)
        self.unimodal_heads = nn.ModuleDict(
            {} if heads == "fused" else {name: nn.Linear(dim, n_outputs) for name in encoders}
        )
        self.dropout = nn.Dropout(dropout)
        self.freeze_encoders = freeze_encoders
        if freeze_encoders:
            self.encoders.requires_grad_(False)

    def forward(self, batch: Batch) -> ModelOutput:
        """The model's output for a batch.

        Raises:
            ModelError: the batch lacks one of the model's modalities.
        """
        if absent := [name for name in self.names if name not in batch.inputs]:
            raise ModelError(
                f"the batch has no input for {', '.join(absent)}",
                expected=f"inputs for {', '.join(self.names)}; a modality that a record lacks is a blank with a mask",
                fix="give the loader every modality of the model",
            )
        present = {name: batch.present[name] for name in self.names}
        return self.fuse({name: self._embed(name, batch.inputs[name], present[name]) for name in self.names}, present)

    def fuse(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> ModelOutput:
        """What the model says of projected embeddings: what comes after the encoders.

        Args:
            unimodal: modality name to [B, D]; zero where the modality is missing.
            present: modality name to Bool [B].
        """
        unimodal_logits = {
            name: masked(head(self.dropout(unimodal[name])), present[name])
            for name, head in self.unimodal_heads.items()
        }
        if self.fusion is None:
            return ModelOutput(mean_of_present(unimodal_logits, present), unimodal, None, unimodal_logits, present)
        joint = self.fusion(unimodal, present)
        return ModelOutput(self.read(joint), unimodal, joint, unimodal_logits, present)

    def read(self, joint: Tensor) -> Tensor:
        """Logits [B, C] of fused embeddings [B, D].

        Raises:
            ModelError: the model has no fused head.
        """
        if self.head is None:
            raise ModelError("this model fuses nothing, so there is no head that could read a fused embedding")
        return self.head(self.dropout(joint))

    def _embed(self, name: str, inputs: Inputs, present: Tensor) -> Tensor:
        encoder, projection = self.encoders[name], self.projections[name]
        (embedding,) = on_present(lambda rows: (projection(encoder(rows)),), inputs, present, (self.dim,))
        return embedding

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings that rebuild the architecture with no outside file."""
        return {
            "encoders": {name: encoder.to_config() for name, encoder in self.encoders.items()},  # type: ignore[operator]
            "fusion": None if self.fusion is None else self.fusion.to_config(),  # type: ignore[operator]
            "heads": self.heads,
            "n_outputs": self.n_outputs,
            "dim": self.dim,
            "dropout": self.dropout.p,
            "freeze_encoders": self.freeze_encoders,
        }


def build_model(config: Mapping[str, Any], seed: int) -> MultimodalClassifier:
    """A classifier from a mapping of :class:`ClassifierConfig`'s settings, its weights drawn from the seed.

    Torch's global RNG is as it was afterwards.

    Raises:
        ConfigError: every setting that is wrong, those of the encoders and the fusion too.
        ModelError: pretrained weights cannot be read.
    """
    # `training` stands above `models`; this module of it imports nothing but torch and numpy.
    from forgetmi.options import build_options
    from forgetmi.training.seeds import scoped_seed

    settings = build_options(ClassifierConfig, config, where="model")
    fusion_config = settings.fusion
    if fusion_config is None and settings.heads != "per_modality":
        fusion_config = "gate"
    if isinstance(fusion_config, str):
        fusion_config = {"name": fusion_config}

    problems: list[str] = []
    encoders: dict[str, nn.Module] = {}
    fusion: nn.Module | None = None
    with scoped_seed(seed):
        for name, options in settings.encoders.items():
            try:
                encoders[name] = build_encoder(options, where=f"model.encoders.{name}")
            except ConfigError as error:
                problems += error.problems
        if fusion_config is not None:
            try:
                fusion = build_fusion(fusion_config, tuple(settings.encoders), settings.dim, where="model.fusion")
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return MultimodalClassifier(
            encoders,
            fusion,
            settings.n_outputs,
            heads=settings.heads,
            dim=settings.dim,
            dropout=settings.dropout,
            freeze_encoders=settings.freeze_encoders,
        )
