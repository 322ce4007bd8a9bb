"""Dataclasses of options from mappings, strictly: every problem at once, unknown names with a suggestion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from forgetmi.errors import ConfigError, did_you_mean

OptionsT = TypeVar("OptionsT")


def build_options(kind: type[OptionsT], values: Mapping[str, Any], *, where: str) -> OptionsT:
    """An options dataclass from a mapping, types checked and coerced as pydantic does (``"3"`` is no integer).

    Args:
        kind: a dataclass; its ``__post_init__`` checks ranges and raises :class:`ConfigError`.
        values: option names to values.
        where: the config key or the file, for the message.

    Raises:
        ConfigError: unknown options, missing options, wrong types, values out of range.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    problems = [
        f"{where}: unknown option {name!r}. {did_you_mean(str(name), names)}" for name in values if name not in names
    ]
    known = {name: value for name, value in values.items() if name in names}
    try:
        checked = TypeAdapter(kind).validate_python(known)
    except ConfigError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
    except ValidationError as error:
        problems += [
            f"{where}.{'.'.join(map(str, item['loc']))}: {item['msg']}, got {item['input']!r}"
            if item["type"] != "missing"
            else f"{where}: option {item['loc'][-1]!r} is required"
            for item in error.errors()
        ]
    if problems:
        raise ConfigError(problems)
    return checked
