"""Encoders: one modality's batch in, one embedding a record out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from forgetmi.errors import ConfigError
from forgetmi.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "conv1d": "forgetmi.models.encoders.small_conv:Conv1d",
        "conv3d": "forgetmi.models.encoders.small_conv:Conv3d",
        "mlp": "forgetmi.models.encoders.mlp:Mlp",
        "monai": "forgetmi.models.encoders.monai_encoder:MonaiEncoder",
        "small_resnet": "forgetmi.models.encoders.small_resnet:SmallResNet",
        "small_transformer": "forgetmi.models.encoders.small_transformer:SmallTransformer",
        "timm": "forgetmi.models.encoders.timm_encoder:TimmEncoder",
        "transformers": "forgetmi.models.encoders.transformers_encoder:TransformersEncoder",
    },
)


def build_encoder(config: Mapping[str, Any], *, where: str = "encoder") -> nn.Module:
    """An encoder from ``{"name": ..., **options}``; weights are drawn from torch's global RNG.

    Every encoder has ``dim`` (the width D of its embeddings), ``to_config()`` (settings that rebuild the architecture
    with no outside file: weights are stored apart) and a forward that maps what its modality's batch holds, images
    [B, channels, H, W] or ``{"input_ids": [B, T], "attention_mask": [B, T]}``, to [B, D]; signals are [B, leads,
    samples], volumes [B, 1, D, H, W], tabular rows [B, features].

    Args:
        config: the encoder's name and options.
        where: the config key, for messages.

    Raises:
        ConfigError: unknown name or option, or an option out of range.
        ModelError: weights cannot be read.
    """
    from forgetmi.options import build_options

    options = dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError([f"{where}: option 'name' is required. Available: {', '.join(ENCODERS)}."])
    try:
        kind = ENCODERS[name]
    except ConfigError as error:
        raise ConfigError([f"{where}.name: {problem}" for problem in error.problems]) from None
    return cast(nn.Module, kind(build_options(kind.Options, options, where=where)))


__all__ = ["ENCODERS", "build_encoder"]
