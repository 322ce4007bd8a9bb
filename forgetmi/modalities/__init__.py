"""Kinds of modalities: what turns a raw value into tensors, and how its noise looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetmi.modalities.base import Inputs, Modality
from forgetmi.registry import Registry

MODALITIES = Registry(
    "modality kind",
    {
        "dialogue": "forgetmi.modalities.dialogue:DialogueModality",
        "image": "forgetmi.modalities.image:ImageModality",
        "signal": "forgetmi.modalities.signal:SignalModality",
        "tabular": "forgetmi.modalities.tabular:TabularModality",
        "text": "forgetmi.modalities.text:TextModality",
        "tokens": "forgetmi.modalities.tokens:TokenModality",
        "volume": "forgetmi.modalities.volume:VolumeModality",
    },
)


def build_modality(config: Mapping[str, Any]) -> Modality:
    """A modality from what its ``to_config`` returned: ``{"kind": ..., **settings}``.

    Raises:
        ConfigError: the kind is unknown.
    """
    settings = dict(config)
    built: Modality = MODALITIES[settings.pop("kind")].from_config(settings)
    return built


__all__ = ["Inputs", "MODALITIES", "Modality", "build_modality"]
