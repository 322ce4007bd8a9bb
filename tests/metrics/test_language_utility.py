"""Usefulness of a language model, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forgetmi.metrics.language_utility import language_utility

SIGNALS = {"nll": np.array([1.0, 3.0]), "correct": np.array([0.5, 0.25]), "n_tokens": np.array([30, 10])}


@pytest.mark.parametrize(("forgotten", "word"), [(True, "remembers"), (False, "useful")])
def test_figures_by_hand(forgotten, word):
    made = language_utility(SIGNALS, np.arange(2), np.random.default_rng(0), forgotten=forgotten, n_resamples=200)
    figures = made.figures
    assert figures["accuracy"].value == pytest.approx(0.375)
    assert figures["cross_entropy"].value == pytest.approx(2.0)  # the mean over records
    assert figures["perplexity"].value == pytest.approx(math.exp((30 * 1.0 + 10 * 3.0) / 40))  # over tokens
    assert figures["accuracy"].direction == f"{word}_above" and figures["perplexity"].direction == f"{word}_below"
    assert made.class_counts == ()


def test_a_destroyed_models_perplexity_is_still_a_number():
    signals = {**SIGNALS, "nll": np.array([5000.0, 9000.0])}
    figures = language_utility(
        signals, np.arange(2), np.random.default_rng(0), forgotten=False, n_resamples=200
    ).figures
    assert math.isfinite(figures["perplexity"].value)
