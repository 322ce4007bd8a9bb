"""A multi-layer perceptron for tabular rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError


@dataclass(frozen=True)
class MlpOptions:
    """Options of :class:`Mlp`.

    Attributes:
        features: width of the rows, ``features`` of the tabular modality.
        widths: of the hidden layers; the last one is the width D of the embedding.
        dropout: after each hidden layer, in [0, 1).
    """

    features: int
    widths: tuple[int, ...] = (64, 64)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        problems = []
        if self.features < 1:
            problems.append(f"features must be at least 1, got {self.features}")
        if not self.widths or min(self.widths) < 1:
            problems.append(f"widths must name at least one positive width, got {list(self.widths)}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be in [0, 1), got {self.dropout}")
        if problems:
            raise ConfigError(problems)


class Mlp(nn.Module):
    """Linear layers with layer norm and GELU. Input: [B, features]. Output: [B, D].

    Layer norm, so that a record's embedding does not depend on the records beside it.
    """

    Options = MlpOptions

    def __init__(self, options: MlpOptions) -> None:
        super().__init__()
        self.options = options
        self.dim = options.widths[-1]
        layers: list[nn.Module] = []
        width = options.features
        for wider in options.widths:
            layers += [nn.Linear(width, wider), nn.LayerNorm(wider), nn.GELU(), nn.Dropout(options.dropout)]
            width = wider
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings [B, D].

        Raises:
            ModelError: the rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.options.features:
            raise ModelError(
                f"mlp was given rows of shape {list(rows.shape)}",
                expected=f"[B, {self.options.features}]",
                fix="set the encoder's features to those of the tabular modality",
            )
        return self.layers(rows)

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "mlp", **asdict(self.options), "widths": list(self.options.widths)}
