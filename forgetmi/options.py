"""Dataclasses of options from mappings, strictly: every problem at once, unknown names with a suggestion."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from forgetmi.errors import ConfigError, did_you_mean

OptionsT = TypeVar("OptionsT")


def build_options(kind: type[OptionsT], values: Mapping[str, Any], *, where: str) -> OptionsT:
    """An options dataclass from a mapping, types checked and coerced as pydantic does.

    An option that is itself a dataclass may be given as a mapping: what it does not name keeps the value that the
    outer class gives it (``fit: {lr: 1e-4}`` keeps a method's own epochs), and its unknown names are errors too.

    Args:
        kind: a dataclass; its ``__post_init__`` checks ranges and raises :class:`ConfigError`.
        values: option names to values.
        where: the config key or the file, for the message.

    Raises:
        ConfigError: unknown options, missing options, wrong types, values out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError([f"{where}: options are a mapping of names to values, not {type(values).__name__}"])
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    problems = [
        f"{where}: unknown option {name!r}. {did_you_mean(str(name), fields)}" for name in values if name not in fields
    ]
    known = {name: value for name, value in values.items() if name in fields}
    refused: set[str] = set()
    for name, nested in nested_options(kind).items():
        if isinstance(known.get(name), Mapping):
            try:
                known[name] = build_options(nested, {**_default(fields[name]), **known[name]}, where=f"{where}.{name}")
            except ConfigError as error:
                problems += error.problems
                del known[name]  # the rest is still checked
                refused.add(name)
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
            if item["type"] != "missing" or item["loc"][-1] not in refused
        ]
    if problems:
        raise ConfigError(problems)
    return checked


def first_paragraph(documented: object) -> str:
    """The first paragraph of a docstring as one line, without the marks of documentation tools; empty without one."""
    line = " ".join((documented.__doc__ or "").strip().partition("\n\n")[0].split())
    named = re.sub(r":\w+:`~[\w.]*?(\w+)`", r"\1", line)  # a tilde: the last part of the name only
    return re.sub(r":\w+:`([^`]*)`", r"\1", named).replace("``", "")


def nested_options(kind: type[Any]) -> dict[str, type[Any]]:
    """The fields of a dataclass that are dataclasses themselves (or ``None``), and their types."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        # Only unions are looked into: a mapping of dataclasses has keys that its user chooses.
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        choices = [choice for choice in (typing.get_args(hint) if is_union else (hint,)) if isinstance(choice, type)]
        if nested := [choice for choice in choices if dataclasses.is_dataclass(choice)]:
            found[name] = nested[0]
    return found


def _default(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """The values of a field's own default, where that is a dataclass."""
    value: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    return {part.name: getattr(value, part.name) for part in dataclasses.fields(value) if part.init}
