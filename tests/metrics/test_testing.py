"""p-values: pins, textbook corrections, permutation against enumeration, and their rate when nothing leaks."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics import testing
from forgetmi.metrics.intervals import null_auc_sd
from forgetmi.metrics.roc import auc
from forgetmi.metrics.testing import (
    adjusted_p_values,
    auc_p_value,
    chance_of_standing_out,
    permutation_null,
    standing_out,
)


def test_null_variance_pins():
    assert auc_p_value(0.55, 100, 100) == pytest.approx(0.1109116, abs=5e-8)
    assert auc_p_value(0.55, 100, 100, alternative="less") == pytest.approx(1 - 0.1109116, abs=5e-8)
    assert auc_p_value(0.45, 100, 100, alternative="two-sided") == pytest.approx(2 * 0.1109116, abs=1e-7)
    assert auc_p_value(0.5, 3, 4) == 0.5
    # the normal approximation of scipy's Mann-Whitney test, without its continuity correction
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 1, 40), rng.normal(size=70)
    scores, member = np.append(a, b), np.arange(110) < 40
    expected = stats.mannwhitneyu(a, b, alternative="greater", use_continuity=False, method="asymptotic").pvalue
    assert auc_p_value(auc(scores, member), 40, 70) == pytest.approx(expected, rel=1e-9)


def test_corrections_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    # Holm: .005 * 4, .01 * 3, .03 * 2, .04 * 1 made monotone
    assert adjusted_p_values(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Benjamini-Hochberg: .005 * 4/1, .01 * 4/2, .03 * 4/3, .04 * 4/4 made monotone from above
    assert adjusted_p_values(p, "benjamini_hochberg") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert adjusted_p_values(p, "benjamini_yekutieli") == pytest.approx(
        np.array([0.02, 0.04, 0.04, 0.02]) * harmonic, abs=1e-12
    )
    assert adjusted_p_values([0.4, 0.9, 0.5]).max() == 1.0
    assert adjusted_p_values([0.03]) == pytest.approx([0.03])


@pytest.mark.parametrize("correction", ["holm", "benjamini_hochberg", "benjamini_yekutieli"])
def test_corrections_keep_order_and_only_raise(correction):
    p = np.random.default_rng(1).random(30) ** 2
    adjusted = adjusted_p_values(p, correction)
    assert (adjusted >= p - 1e-15).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= -1e-15).all()
    shuffle = np.random.default_rng(2).permutation(30)
    assert adjusted_p_values(p[shuffle], correction) == pytest.approx(adjusted[shuffle])


def test_holm_holds_the_chance_of_any_false_alarm():
    rng = np.random.default_rng(3)
    common = rng.normal(size=(4000, 1))
    p = stats.norm.sf(0.7 * common + np.sqrt(0.51) * rng.normal(size=(4000, 6)))
    uncorrected = (p.min(axis=1) < 0.05).mean()
    corrected = np.mean([adjusted_p_values(row).min() < 0.05 for row in p])
    assert uncorrected > 0.12
    assert corrected <= stats.binom.ppf(0.995, 4000, 0.05) / 4000


def test_permutation_null_is_that_of_all_choices_of_patients(monkeypatch):
    monkeypatch.setattr(testing, "_CELLS", 800)
    scores = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
    patients = np.array(["a", "a", "b", "c", "c", "c", "d", "e", "e", "f", "f", "g"])
    member = np.isin(patients, ["c", "e", "g"])
    enumerated = [auc(scores, np.isin(patients, chosen)) for chosen in itertools.combinations("abcdefg", 3)]
    found = permutation_null(scores, member, patients, np.random.default_rng(4), 20_000)
    assert set(np.round(found.nulls, 9)) == set(np.round(enumerated, 9))
    assert found.auc == pytest.approx(auc(scores, member))
    assert found.p_greater == pytest.approx((np.array(enumerated) >= found.auc - 1e-12).mean(), abs=0.01)
    assert found.p_less == pytest.approx((np.array(enumerated) <= found.auc + 1e-12).mean(), abs=0.01)
    assert found.nulls.mean() == pytest.approx(np.mean(enumerated), abs=0.005)
    again = permutation_null(scores, member, patients, np.random.default_rng(4), 20_000)
    assert (again.nulls == found.nulls).all()
    low, high = found.band()
    assert low < 0.5 < high
    json.dumps(found.to_dict(), allow_nan=False)


def test_permutation_agrees_with_the_null_variance_where_that_holds():
    rng = np.random.default_rng(5)
    scores, member = rng.normal(size=200), np.arange(200) < 100
    found = permutation_null(scores, member, np.arange(200), rng, 5000)
    assert found.nulls.std() == pytest.approx(null_auc_sd(100, 100), rel=0.04)
    assert found.p_greater == pytest.approx(auc_p_value(found.auc, 100, 100), abs=0.03)


def test_by_patient_the_test_keeps_its_level_where_records_alone_do_not():
    rng = np.random.default_rng(6)
    reps, patients = 300, np.repeat(np.arange(40), 5)
    member, alarms = patients < 15, {"patient": 0, "record": 0, "formula": 0}
    for _ in range(reps):
        scores = rng.normal(size=40)[patients] + 0.3 * rng.normal(size=200)
        alarms["patient"] += permutation_null(scores, member, patients, rng, 199).p_greater <= 0.05
        alarms["record"] += permutation_null(scores, member, np.arange(200), rng, 199).p_greater <= 0.05
        alarms["formula"] += auc_p_value(auc(scores, member), 15, 25) <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], reps, 0.05)
    assert low <= alarms["patient"] <= high
    assert alarms["record"] > 0.15 * reps
    assert alarms["formula"] <= high  # counting patients is safe


def test_planted_leakage_is_found_and_p_is_never_zero():
    rng = np.random.default_rng(7)
    member = np.arange(120) < 40
    found = permutation_null(rng.normal(size=120) + 3.0 * member, member, np.arange(120), rng, 500)
    assert found.p_greater == 1 / 501
    assert found.p_two_sided == 2 / 501
    assert found.p_less == 1.0
    constant = permutation_null(np.ones(120), member, np.arange(120), rng, 500)
    assert (constant.p_greater, constant.p_less, constant.auc) == (1.0, 1.0, 0.5)
    assert (constant.nulls == 0.5).all()


def test_refuses():
    rng = np.random.default_rng(8)
    with pytest.raises(AuditError, match="members and non-members") as error:
        permutation_null([1.0, 2, 3], [1, 0, 0], ["p1", "p1", "p2"], rng)
    assert "p1" not in error.value.public
    with pytest.raises(AuditError, match="too few"):
        permutation_null([1.0, 2], [1, 0], [1, 2], rng, 10)
    with pytest.raises(AuditError, match="one length"):
        permutation_null([1.0, 2], [1, 0], [1], rng)
    with pytest.raises(AuditError, match="AUC lies"):
        auc_p_value(1.2, 10, 10)
    for wrong in ([], [0.5, 1.2], [np.nan], [[0.5]]):
        with pytest.raises(AuditError, match="p-values"):
            adjusted_p_values(wrong)


@pytest.mark.parametrize(("n_members", "n_others"), [(2, 3), (3, 2), (1, 4), (3, 4)])
def test_the_chance_of_standing_out_by_counting_orders(n_members, n_others):
    orders = list(itertools.permutations(range(n_members + n_others)))
    for k in range(n_members + 1):
        hits = sum(sum(rank > max(order[n_members:]) for rank in order[:n_members]) >= k for order in orders)
        assert chance_of_standing_out(k, n_members, n_others) == pytest.approx(hits / len(orders))


def test_standing_out_compares_patients_with_as_many_records():
    """Brute force: all dealings of membership among patients with the same number of records."""
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 3.0])
    records = np.array([2, 1, 2, 1, 2, 1, 1, 2])
    member = np.array([1, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    found = standing_out(scores, member, records)
    assert (found.count, found.n_members, found.n_nonmembers) == (3, 4, 4)
    hits = total = 0
    for chosen in itertools.combinations(range(8), 4):
        other = np.isin(np.arange(8), chosen)
        if (records[other] == 2).sum() == (records[member] == 2).sum():
            total += 1
            hits += (other & (scores > scores[~other].max())).sum() >= 3
    assert found.chance == pytest.approx(hits / total)


def test_one_number_of_records_is_the_plain_formula_and_an_unmatched_one_proves_nothing():
    scores, member = np.arange(10.0), np.arange(10) > 6
    assert standing_out(scores, member, np.ones(10)).chance == chance_of_standing_out(3, 3, 7)
    assert standing_out(scores, member, np.where(member, 5, 1)).chance == 1.0
    assert standing_out(np.zeros(10), member, np.ones(10)).count == 0  # a tie does not stand out
