"""Any image backbone of timm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError, did_you_mean
from forgetmi.models.encoders.small_resnet import check_channels


@dataclass(frozen=True)
class TimmOptions:
    """Options of :class:`TimmEncoder`.

    Attributes:
        model: a timm model name.
        weights: a local file of pretrained weights, safetensors or a pickle of tensors (``.pth``, ``.bin``, ``.pt``);
            random weights where ``None``. Nothing is ever downloaded.
        in_chans: channels of the images. Where it is not what the weights were made for, timm adapts the first layer.
        mean, std: a channel; those of the pretrained model where ``None`` (averaged, for other than its channels).
        options: further arguments of ``timm.create_model``, for instance ``{"img_size": 64, "drop_rate": 0.1}``.
    """

    model: str
    weights: Path | None = None
    in_chans: Literal[1, 3] = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must have {self.in_chans} values, one a channel, got {len(values)}"
            for name, values in (("mean", self.mean), ("std", self.std))
            if values is not None and len(values) != self.in_chans
        ]
        if self.std is not None and min(self.std, default=1) <= 0:
            problems.append(f"std must be positive, got {list(self.std)}")
        if self.weights is not None and not self.weights.is_file():
            problems.append(f"weights: there is no file {self.weights}")
        if problems:
            raise ConfigError(problems)


class TimmEncoder(nn.Module):
    """A timm backbone with its pooling and without its classifier.

    Input: images [B, in_chans, H, W] in [0, 1]; they are standardised in here, so that noise on the pixels of
    un-normalised images means the same for every encoder. Output: [B, D].
    """

    Options = TimmOptions
    mean: Tensor
    std: Tensor

    def __init__(self, options: TimmOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone = _create(options)
        pretrained = getattr(self.backbone, "pretrained_cfg", None) or {}
        self.dim: int = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        for name, given, default in (("mean", options.mean, 0.0), ("std", options.std, 1.0)):
            values = given or tuple(pretrained.get(name) or (default,))
            if len(values) != options.in_chans:
                values = (sum(values) / len(values),) * options.in_chans
            # Not persistent: they are settings, kept with the config.
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, D].

        Raises:
            ModelError: the images do not have ``in_chans`` channels.
        """
        check_channels(images, self.options.in_chans, f"timm encoder {self.options.model!r}")
        return self.backbone((images - self.mean) / self.std)

    def to_config(self) -> dict[str, Any]:
        """Name and options without the weights' path: their values are stored with the model."""
        return {
            "name": "timm",
            "model": self.options.model,
            "in_chans": self.options.in_chans,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "options": self.options.options,
        }


def _create(options: TimmOptions) -> Any:
    import timm

    if not timm.is_model(options.model):
        hint = did_you_mean(options.model, timm.list_models()).split("Available:")[0]
        raise ConfigError([f"model: timm has no {options.model!r}. {hint}timm.list_models() lists all."])
    overlay = None if options.weights is None else {"file": str(options.weights)}
    try:
        return timm.create_model(
            options.model,
            pretrained=overlay is not None,
            pretrained_cfg_overlay=overlay,
            in_chans=options.in_chans,
            num_classes=0,
            **(options.options or {}),
        )
    except TypeError as error:
        raise ConfigError([f"options: timm model {options.model!r} does not take them: {error}"]) from error
    except Exception as error:  # timm, torch and safetensors each raise their own kinds for a bad file
        if options.weights is None:
            raise ModelError(f"timm cannot build {options.model!r}: {error}") from error
        raise ModelError(
            f"the weights of timm model {options.model!r} cannot be read: {type(error).__name__}: {error}",
            where=str(options.weights),
            expected=f"a safetensors file or a pickle of tensors with the keys of timm's {options.model!r}",
            fix="check that the file is complete and of this model; save pickled models again as a state dict",
        ) from error
