"""leak@k: against every choice of k samples, and on average right whatever k of how many."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from forgetmi.errors import AuditError
from forgetmi.metrics.leakage import leak_at_k


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("graded", [False, True])
def test_it_is_the_mean_over_every_choice_of_k_samples(k: int, graded: bool) -> None:
    draws = np.random.default_rng(0).random((5, 7))
    leaks = draws if graded else (draws < [[0.0], [0.2], [0.5], [0.8], [1.0]]).astype(float)
    by_hand = [np.mean([max(chosen) for chosen in combinations(row, k)]) for row in leaks]
    assert leak_at_k(leaks, k).values == pytest.approx(by_hand, abs=1e-12)


def test_of_leaks_that_are_or_are_not_it_is_pass_at_k() -> None:
    # 1 - C(10 - 3, 4) / C(10, 4) = 1 - 35 / 210
    found = leak_at_k([[True] * 3 + [False] * 7, [False] * 10, [True] * 7 + [False] * 3], 4, leak="name of a patient")
    assert found.values == pytest.approx([5 / 6, 0.0, 1.0])
    assert found.direction == "remembers_above" and found.counts == {"n_samples": 10}
    figure = found.figure(np.arange(3), np.random.default_rng(0))
    assert figure.sentence == "With 4 samples, at least one shows a name of a patient with probability 0.611."


def test_it_has_no_bias() -> None:
    p, k, n = 0.15, 3, 8
    leaks = np.random.default_rng(5).random((20000, n)) < p
    values = leak_at_k(leaks, k).values
    truth = 1 - (1 - p) ** k
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
    plugged = 1 - (1 - leaks.mean(axis=1)) ** k  # the obvious estimator, which has one
    assert abs(plugged.mean() - truth) > 4 * plugged.std() / np.sqrt(len(values))


def test_many_samples_do_not_overflow() -> None:
    leaks = np.zeros((1, 2000), dtype=bool)
    leaks[0, 0] = True
    assert leak_at_k(leaks, 1000).values == pytest.approx([0.5])


def test_what_has_no_value_is_left_out() -> None:
    found = leak_at_k([[0.5, np.nan], [0.5, 1.0]], 1)
    assert found.values == pytest.approx([np.nan, 0.75], nan_ok=True)
    assert found.figure(np.arange(2), np.random.default_rng(0)).counts["n_without_value"] == 1


@pytest.mark.parametrize(("leaks", "k"), [([0, 1], 1), ([[0, 1]], 3), ([[0, 1]], 0), ([[0, 2]], 1), ([[-0.1, 0]], 1)])
def test_what_makes_no_sense_is_refused(leaks, k) -> None:
    with pytest.raises(AuditError):
        leak_at_k(leaks, k)
