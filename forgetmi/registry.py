"""Names to objects, imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from forgetmi.errors import ConfigError, did_you_mean


class Registry(Mapping[str, Any]):
    """Lazily imported objects by name.

    Args:
        kind: what the objects are, for messages ("method", "adapter").
        entries: name to ``"module:attribute"``.

    >>> registry = Registry("function", {"floor": "math:floor"})
    >>> registry["floor"](1.5)
    1
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._targets: dict[str, str] = dict(entries)

    def register(self, name: str, target: str) -> None:
        """Add ``"module:attribute"`` under a name; a name that is taken is an error, not an overwrite.

        Raises:
            ConfigError: the name is taken, is not lower snake case, or the target has no colon.
        """
        if not name.isidentifier() or name != name.lower():
            raise ConfigError([f"{self.kind} name {name!r} must be lower snake case"])
        if name in self._targets:
            raise ConfigError([f"{self.kind} {name!r} is registered already, as {self._targets[name]}"])
        if target.count(":") != 1:
            raise ConfigError([f"{self.kind} {name!r}: target {target!r} must read 'module:attribute'"])
        self._targets[name] = target

    def __getitem__(self, name: str) -> Any:
        """The object of that name.

        Raises:
            ConfigError: there is none of that name; the message lists those that there are.
        """
        if name not in self._targets:
            raise ConfigError([f"unknown {self.kind} {name!r}. {did_you_mean(name, self._targets)}"])
        module, attribute = self._targets[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets))

    def __len__(self) -> int:
        return len(self._targets)
