"""Options of methods that were chosen on validation records (`benchmarks/methods_bench/presets.py` writes them), and
those of published recipes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from forgetmi.errors import ConfigError, did_you_mean

KEY = "tuned_for"
Presets = dict[str, dict[str, dict[str, Any]]]


@cache
def presets() -> Presets:
    """Data set, or recipe, to method to options. Data like these may do well with the same; a validation split says."""
    found: Presets = json.loads((files("forgetmi.methods") / "presets.json").read_text(encoding="utf-8"))
    return found


def with_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method, and beneath them those of the preset that ``tuned_for`` names.

    >>> with_preset({"method": "npo", "beta": 0.5})
    {'method': 'npo', 'beta': 0.5}

    Raises:
        ConfigError: there is no such preset, or none for this method.
    """
    given = dict(settings)
    name = given.pop(KEY, None)
    if name is None:
        return given
    if name not in presets():
        raise ConfigError([f"unlearning.{KEY}: unknown preset {name!r}. {did_you_mean(str(name), presets())}"])
    method = given.get("method")
    if method not in presets()[name]:
        raise ConfigError(
            [f"unlearning.{KEY}: {name} has no preset for {method!r}. It has: {', '.join(presets()[name])}."]
        )
    return _over(presets()[name][method], given)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _over(below[key], value) if both else value
    return merged
