"""MONAI's 3D backbones for volumes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn

from forgetmi.errors import MissingDependencyError, ModelError


@dataclass(frozen=True)
class MonaiOptions:
    """Options of :class:`MonaiEncoder`.

    Attributes:
        model: a 3D ResNet (Chen et al. 2019, Med3D, as MONAI builds it) or DenseNet, with random weights.
        channels: of the volumes.
    """

    model: Literal["resnet10", "resnet18", "resnet34", "resnet50", "densenet121"] = "resnet10"
    channels: int = 1


class MonaiEncoder(nn.Module):
    """A MONAI backbone with its pooling and without its classifier.

    Input: volumes [B, channels, D, H, W] in [0, 1]. Output: [B, D]. The extra ``volumes`` installs MONAI.
    """

    Options = MonaiOptions

    def __init__(self, options: MonaiOptions) -> None:
        super().__init__()
        try:
            from monai.networks import nets
        except ImportError as error:
            raise MissingDependencyError("The encoder 'monai'", "volumes") from error
        self.options = options
        self.backbone: nn.Module
        if options.model == "densenet121":
            dense: Any = nets.DenseNet121(spatial_dims=3, in_channels=options.channels, out_channels=1)
            self.dim: int = dense.class_layers.out.in_features
            dense.class_layers.out = nn.Identity()
            self.backbone = dense
        else:
            build = getattr(nets, options.model)
            # feed_forward=False leaves the classifier out.
            self.backbone = build(spatial_dims=3, n_input_channels=options.channels, feed_forward=False)
            self.dim = 2048 if options.model == "resnet50" else 512

    def forward(self, volumes: Tensor) -> Tensor:
        """Embeddings [B, D].

        Raises:
            ModelError: the volumes do not have the encoder's number of channels.
        """
        if volumes.ndim != 5 or volumes.shape[1] != self.options.channels:
            raise ModelError(
                f"monai encoder {self.options.model!r} was given volumes of shape {list(volumes.shape)}",
                expected=f"[B, {self.options.channels}, D, H, W]",
            )
        return self.backbone(volumes)

    def to_config(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "monai", **asdict(self.options)}
