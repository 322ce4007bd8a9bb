"""Sources of records, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetmi.data_adapters.base import Adapter
from forgetmi.options import build_options
from forgetmi.records import RecordDataset
from forgetmi.registry import Registry

ADAPTERS = Registry(
    "adapter",
    {
        "indiana_demo": "forgetmi.data_adapters.indiana_demo:IndianaDemo",
        "manifest": "forgetmi.data_adapters.manifest:Manifest",
        "mimic_cxr": "forgetmi.data_adapters.mimic_cxr:MimicCxr",
        "openi": "forgetmi.data_adapters.openi:OpenI",
    },
)


def load_dataset(name: str, options: Mapping[str, Any]) -> RecordDataset:
    """The records of a source.

    Args:
        name: an adapter's name, see ``forgetmi ls adapters``.
        options: its options, as in the YAML.

    Raises:
        ConfigError: the name or an option is unknown or wrong.
        DataError: the source is not what its format says.
    """
    adapter: Adapter = build_options(ADAPTERS[name], options, where=f"data (adapter {name})")
    return adapter.load()


__all__ = ["ADAPTERS", "Adapter", "load_dataset"]
