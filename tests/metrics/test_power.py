"""Detection limits: pins, the fewest patients, and the rate at which planted leakage is found."""

import numpy as np
import pytest
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.delong import delong_interval
from forgetmi.metrics.intervals import null_auc_sd
from forgetmi.metrics.power import (
    detectable_auc,
    effective_size,
    patients_needed,
)


def test_pins():
    # 2.8015852 = z(.975) + z(.8)
    assert detectable_auc(100, 100) == pytest.approx(0.5 + 2.8015852 * 0.0409268, abs=3e-7)
    assert detectable_auc(100, 100, reference=0.55) == pytest.approx(0.55 + 2.8015852 * 0.0409268, abs=3e-7)
    assert detectable_auc(2, 100) is None


@pytest.mark.parametrize("auc", [0.52, 0.6, 0.75, 0.99])
@pytest.mark.parametrize("n_nonmembers", [None, 20, 600])
def test_patients_needed_is_the_smallest_number(auc, n_nonmembers):
    needed = patients_needed(auc, n_nonmembers=n_nonmembers)
    enough = [p for p in range(1, 4000) if null_auc_sd(p, n_nonmembers or p) * 2.8015852 <= auc - 0.5]
    assert needed == (enough[0] if enough else None)


def test_effective_size():
    assert effective_size([1, 1, 1], 0.7) == 3
    assert effective_size([4, 4, 4], 0.0) == 12
    assert effective_size([4, 4, 4], 1.0) == pytest.approx(3)
    assert effective_size([4, 4, 4], 0.5) == pytest.approx(12 / 2.5)
    # one patient with 9 of 10 records: a random record's patient has 8.2 of them
    assert effective_size([9, 1], 1.0) == pytest.approx(10 / 8.2)


def test_simulated_power_is_the_predicted_one():
    rng = np.random.default_rng(0)
    p, n, reps = 40, 80, 1500
    limit = detectable_auc(p, n)
    shift = np.sqrt(2) * stats.norm.ppf(limit)
    # many audits at once: sign of all pairs, by ranks
    scores = rng.normal(size=(reps, p + n)) + shift * (np.arange(p + n) < p)
    ranks = stats.rankdata(scores, axis=1)[:, :p].sum(axis=1)
    aucs = (ranks - p * (p + 1) / 2) / (p * n)
    alarms = aucs - stats.norm.ppf(0.975) * null_auc_sd(p, n) > 0.5
    low, high = stats.binom.ppf([0.005, 0.995], reps, 0.8)
    assert low <= alarms.sum() <= high
    # and with the interval that is printed
    member = np.arange(p + n) < p
    printed = np.mean([delong_interval(row, member).low > 0.5 for row in scores[:500]])
    assert printed == pytest.approx(0.8, abs=0.06)
    nothing = rng.normal(size=(500, p + n))
    false = np.mean([delong_interval(row, member).low > 0.5 for row in nothing])
    assert false <= stats.binom.ppf(0.995, 500, 0.025) / 500


def test_effective_size_predicts_the_spread_of_clustered_aucs():
    rng = np.random.default_rng(1)
    rho, reps = 0.5, 3000
    records = np.repeat([1, 2, 5], 20)
    patients = np.repeat(np.arange(120), np.tile(records, 2))
    member = patients < 60
    noise = np.sqrt(rho) * rng.normal(size=(reps, 120))[:, patients]
    noise += np.sqrt(1 - rho) * rng.normal(size=(reps, patients.size))
    p, n = int(member.sum()), int((~member).sum())
    aucs = (stats.rankdata(noise, axis=1)[:, member].sum(axis=1) - p * (p + 1) / 2) / (p * n)
    of_ranks = 6 / np.pi * np.arcsin(rho / 2)  # correlation of the ranks of a normal pair
    size = effective_size(records, of_ranks)
    assert aucs.std() == pytest.approx(null_auc_sd(size, size), rel=0.04)
    # a few patients with many records can weigh more than all others: then counting patients is not safe either
    assert effective_size([30, 1, 1, 1, 1, 1], 0.9) < 2


def test_refuses():
    for wrong in (
        lambda: detectable_auc(0, 10),
        lambda: detectable_auc(10, 10, level=95),
        lambda: detectable_auc(10, 10, power=1.0),
        lambda: detectable_auc(10, 10, reference=1.5),
        lambda: patients_needed(0.5),
        lambda: effective_size([0, 1], 0.5),
        lambda: effective_size([1, 1], 1.5),
    ):
        with pytest.raises(AuditError):
            wrong()
