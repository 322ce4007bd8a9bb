"""Presets: shipped ones can be built, and a user's own options stand over them."""

from __future__ import annotations

import pytest

from forgetmi.errors import ConfigError
from forgetmi.methods import METHODS, build_method
from forgetmi.methods import presets as module
from forgetmi.methods.presets import presets, with_preset
from forgetmi.options import build_options


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(module, "presets", lambda: {"films": {"npo": {"beta": 0.5, "fit": {"lr": 1e-3, "epochs": 3}}}})


def test_every_shipped_preset_is_a_method_with_its_options():
    for methods in presets().values():
        for name, options in methods.items():
            assert build_method(name, options) == build_options(METHODS[name], options, where=name)


def test_what_is_given_stands_over_the_preset(one):
    given = {"method": "npo", "tuned_for": "films", "fit": {"epochs": 9}}
    assert with_preset(given) == {"method": "npo", "beta": 0.5, "fit": {"lr": 1e-3, "epochs": 9}}
    assert given["tuned_for"] == "films"
    assert with_preset({"method": "npo", "beta": 1.0}) == {"method": "npo", "beta": 1.0}


def test_an_unknown_preset_and_one_of_other_methods_are_refused(one):
    with pytest.raises(ConfigError, match="Did you mean 'films'"):
        with_preset({"method": "npo", "tuned_for": "film"})
    with pytest.raises(ConfigError, match="no preset for 'ssd'"):
        with_preset({"method": "ssd", "tuned_for": "films"})


def test_the_recipes_of_published_tasks():
    """SemEval-2025 task 4: four methods that may move every weight, with one budget."""
    recipes = presets()["semeval2025_task4"]
    assert set(recipes) == {"gradient_ascent", "grad_diff", "kl_min", "npo"}
    built = {name: build_method(name, options) for name, options in recipes.items()}
    assert {(m.fit.epochs, m.fit.batch_size, m.fit.lr) for m in built.values()} == {(10, 32, 1e-5)}
    assert [getattr(built[name], "retain", None) for name in recipes] == ["nll", None, "kl", "nll"]
