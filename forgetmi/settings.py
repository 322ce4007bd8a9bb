"""Settings as people write them: YAML with line numbers, and ``key=value`` overrides, before anything is checked."""

from __future__ import annotations

import logging
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from forgetmi.errors import ConfigError
from forgetmi.options import nested_options

logger = logging.getLogger("forgetmi")

_PATH = re.compile(r"^([A-Za-z_][\w.]*)")
_UNKNOWN = re.compile(r"^([A-Za-z_][\w.]*): (?:unknown|option) .*?'([^']+)'")


class _Loader(yaml.SafeLoader):
    """YAML's plain scalars as people mean them (YAML 1.2): ``no`` is a word, ``1e-3`` a number, 2020-01-01 a text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - what the base class declares


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value)


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


@dataclass(frozen=True)
class Settings:
    """A mapping and where each key of it was written.

    Attributes:
        values: the settings, overrides included.
        lines: dotted key to line.
        overridden: dotted keys that were given as overrides.
        source: the file; ``None`` for settings from Python.
    """

    values: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    overridden: frozenset[str] = frozenset()
    source: Path | None = None

    def path(self, key: str, value: str | Path) -> Path:
        """A path in the settings, made absolute: relative to the file, or to the shell's folder in an override."""
        given = Path(value).expanduser()
        overridden = any(key == other or key.startswith(f"{other}.") for other in self.overridden)
        base = Path.cwd() if overridden or self.source is None else self.source.parent
        return (base / given).resolve()

    def located(self, problem: str) -> str:
        """A problem (``"training.lr: ..."``) with the place of the key that it is about."""
        found = _PATH.match(problem)
        if found is None:
            return problem
        key = found.group(1)
        if unknown := _UNKNOWN.match(problem):
            key = f"{unknown.group(1)}.{unknown.group(2)}"
        while key:
            if key in self.overridden:
                return f"{problem} (given as an override)"
            if key in self.lines:
                return f"line {self.lines[key]}: {problem}"
            key = key.rpartition(".")[0]
        return problem


def read_settings(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, selectors: Sequence[str] = ()
) -> Settings:
    """Settings from a YAML file or a mapping, with overrides on top.

    Args:
        source: the file, or the settings themselves.
        overrides: ``"training.lr=1e-4"``: the value is read as YAML.
        selectors: dotted keys that say what the rest of their section means (``unlearning.method``). An override that
            chooses something else takes the section's other settings away: they belong to what was chosen before.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping or repeats a key; an override is not ``key=value`` or
            reaches into a value that is no mapping. All of these at once.
    """
    problems: list[str] = []
    lines: dict[str, int] = {}
    path: Path | None = None
    if isinstance(source, Mapping):
        values: Any = _copy(source)
    else:
        path = Path(source).expanduser().resolve()
        values = _read_file(path, lines, problems)
    # Selectors come first, so that the other overrides of their section stay.
    ordered = sorted(overrides, key=lambda text: text.partition("=")[0].strip() not in selectors)
    overridden = [_override(values, text, problems, selectors) for text in ordered]
    if problems:
        raise ConfigError(problems, where=None if path is None else str(path))
    return Settings(values, lines, frozenset(key for key in overridden if key), path)


def absolute_paths(kind: type[Any], values: Mapping[str, Any], where: str, settings: Settings) -> dict[str, Any]:
    """Options with those absolute whose type is a path."""
    hints = typing.get_type_hints(kind)
    nested = nested_options(kind)
    found = dict(values)
    for name, value in values.items():
        if isinstance(value, str) and (hints.get(name) is Path or Path in typing.get_args(hints.get(name))):
            found[name] = settings.path(f"{where}.{name}", value)
        elif isinstance(value, Mapping) and name in nested:
            found[name] = absolute_paths(nested[name], value, f"{where}.{name}", settings)
    if hasattr(kind, "inner_options"):  # options of others, whose kind is known only from the values (a join's sources)
        made: dict[str, Any] = kind.inner_options(
            found, lambda inner, options, key: absolute_paths(inner, options, f"{where}.{key}", settings)
        )
        return made
    return found


def _read_file(path: Path, lines: dict[str, int], problems: list[str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            [f"the config cannot be read: {error.strerror or error}"],
            where=str(path),
            fix="`forgetmi init DIR` writes one to start from",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(["the config is not UTF-8 text"], where=str(path)) from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(["the config holds no mapping of `key: value` lines"], where=str(path))
        for key, line, repeated in _keys(node, ""):
            if repeated:
                problems.append(f"line {line}: {key} stands here for the second time, first on line {lines[key]}")
            lines.setdefault(key, line)
        values: dict[str, Any] = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise ConfigError([f"{place}no YAML: {getattr(error, 'problem', None) or error}"], where=str(path)) from error
    finally:
        loader.dispose()
    return values


def _keys(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int, bool]]:
    """Dotted key, line, and whether the key was there already, depth first."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = f"{prefix}{key_node.value}"
        yield key, key_node.start_mark.line + 1, key in seen
        seen.add(key)
        yield from _keys(value_node, f"{key}.")


def _override(values: dict[str, Any], text: str, problems: list[str], selectors: Sequence[str]) -> str:
    """Put one override into the values; its dotted key, or ``""`` where it was refused."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        problems.append(f"override {text!r}: expected key=value, for instance training.lr=1e-4")
        return ""
    try:
        parsed = yaml.load(value, Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer implicit types
    except yaml.YAMLError:
        problems.append(f"override {key}: its value is no YAML; quote it")
        return ""
    place = values
    for depth, name in enumerate(names[:-1], start=1):
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            problems.append(f"override {key}: {'.'.join(names[:depth])} is a value, not a section")
            return ""
    if key.strip() in selectors and place.get(names[-1], parsed) != parsed and len(place) > 1:
        logger.info("%s is %s now: the other settings of this section do not apply", key.strip(), parsed)
        place.clear()
    place[names[-1]] = parsed
    return key.strip()


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value
