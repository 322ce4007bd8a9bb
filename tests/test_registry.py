"""Names to objects, imported only when asked for."""

from __future__ import annotations

import math
import sys

import pytest

from forgetmi.errors import ConfigError
from forgetmi.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return Registry("function", {"floor": "math:floor", "ceil": "math:ceil", "broken": "no_such_module:thing"})


def test_objects_by_name_sorted(registry):
    assert registry["floor"] is math.floor
    assert list(registry) == ["broken", "ceil", "floor"] and len(registry) == 3
    assert "floor" in registry and "flour" not in registry


def test_nothing_is_imported_before_it_is_asked_for(registry):
    assert "broken" in registry and "no_such_module" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        registry["broken"]


def test_an_unknown_name_lists_the_known_ones(registry):
    with pytest.raises(ConfigError, match=r"unknown function 'flor'\. Did you mean 'floor'\? Available: broken, ceil"):
        registry["flor"]


def test_registering(registry):
    registry.register("sqrt", "math:sqrt")
    assert registry["sqrt"] is math.sqrt
    for name, target, message in (
        ("floor", "math:ceil", "registered already, as math:floor"),
        ("Sqrt", "math:sqrt", "lower snake case"),
        ("two words", "math:sqrt", "lower snake case"),
        ("sine", "math.sin", "module:attribute"),
        ("sine", "math:sin:cos", "module:attribute"),
    ):
        with pytest.raises(ConfigError, match=message):
            registry.register(name, target)
    assert registry["floor"] is math.floor and len(registry) == 4


def test_one_registry_does_not_write_into_the_other():
    entries = {"floor": "math:floor"}
    Registry("function", entries).register("ceil", "math:ceil")
    assert entries == {"floor": "math:floor"}
