"""DeLong's variance: by hand, by brute force over all pairs, against the bootstrap and by simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.delong import auc_variance, delong_interval, placements
from forgetmi.metrics.intervals import PatientBootstrap, clopper_pearson
from forgetmi.metrics.roc import auc_statistic


def brute_force(scores, member, patients):
    """Obuchowski's formula, term by term, from the matrix of all pairs."""
    won = (np.sign(scores[member][:, None] - scores[~member][None, :]) + 1) / 2
    theta, (p, n) = won.mean(), won.shape
    own, other = won.mean(axis=1), won.mean(axis=0)
    s10 = s01 = s11 = 0.0
    names, with_own, with_other = np.unique(patients), 0, 0
    for name in names:
        a, b = own[patients[member] == name], other[patients[~member] == name]
        with_own, with_other = with_own + (a.size > 0), with_other + (b.size > 0)
        x, y = a.sum() - a.size * theta, b.sum() - b.size * theta
        s10, s01, s11 = s10 + x * x, s01 + y * y, s11 + x * y
    s10 *= with_own / ((with_own - 1) * p)
    s01 *= with_other / ((with_other - 1) * n)
    s11 *= len(names) / (len(names) - 1)
    return theta, s10 / p + s01 / n + 2 * s11 / (p * n)


def test_three_by_three_by_hand():
    # members 1, 3, 5 and non-members 0, 2, 3
    scores, member = np.array([1.0, 3, 5, 0, 2, 3]), np.arange(6) < 3
    below, above = placements(scores, member)
    assert below == pytest.approx([1 / 3, 2.5 / 3, 1])
    assert above == pytest.approx([1, 2 / 3, 1.5 / 3])
    # variances of placements with divisor 2, over 3 each: 0.1203703.. / 3 + 0.0648148.. / 3
    assert auc_variance(scores, member) == pytest.approx((6.5 / 9, (13 / 108 + 7 / 108) / 3, 400 / 109))
    interval = delong_interval(scores, member)
    # logit(13/18) -+ t * sd / (13/18 * 5/18), Welch's degrees of freedom (13 + 7)^2 / (13^2 / 2 + 7^2 / 2)
    reach = stats.t.ppf(0.975, 400 / 109) * np.sqrt(20 / 324) / (65 / 324)
    ends = 1 / (1 + np.exp(-(np.log(13 / 5) + np.array([-reach, reach]))))
    assert (interval.low, interval.high) == pytest.approx(tuple(ends), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("overlap", [False, True])
def test_equals_brute_force(seed, overlap):
    rng = np.random.default_rng(seed)
    n = 80
    patients = rng.integers(0, 25, n)
    member = rng.random(n) < 0.5 if overlap else patients < 10
    scores = rng.integers(0, 9, n).astype(float) if seed % 2 else rng.normal(size=n)
    scores += 0.7 * member
    for groups in (patients, np.arange(n)):
        theta, variance = brute_force(scores, member, groups)
        value, found, _ = auc_variance(scores, member, groups)
        assert value == pytest.approx(theta, abs=1e-12)
        assert found == pytest.approx(variance, rel=1e-10)
    unclustered = auc_variance(scores, member)
    assert unclustered == pytest.approx(auc_variance(scores, member, np.arange(n)), rel=1e-12)
    # DeLong's own formula
    below, above = placements(scores, member)
    assert unclustered[1] == pytest.approx(below.var(ddof=1) / below.size + above.var(ddof=1) / above.size)


def test_copies_of_records_add_nothing_by_patient():
    rng = np.random.default_rng(1)
    scores, member = rng.normal(size=60), np.arange(60) < 25
    once = auc_variance(scores, member)[1]
    four_times = auc_variance(np.repeat(scores, 4), np.repeat(member, 4), np.repeat(np.arange(60), 4))[1]
    assert four_times == pytest.approx(once, rel=1e-12)
    assert auc_variance(np.repeat(scores, 4), np.repeat(member, 4))[1] < 0.27 * once


def test_agrees_with_the_patient_bootstrap():
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(120), rng.integers(1, 6, 120))
    member = patients < 50
    scores = np.round(rng.normal(size=120)[patients] + rng.normal(size=patients.size) + 0.8 * member, 1)
    drawn = PatientBootstrap(patients, rng, strata=member, n_resamples=4000).replicates(auc_statistic(scores, member))
    assert np.sqrt(auc_variance(scores, member, patients)[1]) == pytest.approx(drawn.std(), rel=0.05)


def test_order_names_and_monotone_maps_change_nothing():
    rng = np.random.default_rng(3)
    patients = np.sort(rng.integers(0, 30, 90))
    member, scores = patients < 12, np.round(rng.normal(size=90), 1)
    shuffle = rng.permutation(90)
    named = np.array([f"patient {p}" for p in patients])
    expected = delong_interval(scores, member, patients)
    for other in (
        delong_interval(scores[shuffle], member[shuffle], patients[shuffle]),
        delong_interval(np.exp(scores), member, named),
    ):
        assert (other.low, other.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    turned = delong_interval(-scores, member, patients)
    assert (1 - turned.high, 1 - turned.low) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert expected.n_patients == np.unique(patients).size


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_perfect_attack_has_the_exact_interval(value):
    member = np.arange(70) < 20
    scores = np.where(member, 1.0, 0.0) if value else np.where(member, 0.0, 1.0)
    interval = delong_interval(scores, member)
    low = clopper_pearson(20, 20).low
    assert (interval.low, interval.high) == pytest.approx((low, 1.0) if value else (0.0, 1 - low))
    assert interval.method == "exact binomial by patient"
    constant = delong_interval(np.ones(70), member)
    assert constant.low < 0.5 < constant.high


def test_refuses():
    with pytest.raises(AuditError, match="two patients of each class"):
        auc_variance([1.0, 2.0, 3.0], [1, 0, 0])
    assert "1 patient" in delong_interval([1.0, 2.0, 3.0], [1, 0, 0]).reason
    with pytest.raises(AuditError, match="one length"):
        delong_interval([1.0, 2.0], [1, 0], ["a"])
    with pytest.raises(AuditError, match="not finite"):
        auc_variance([1.0, np.nan, 2.0, 3.0], [1, 1, 0, 0])
    with pytest.raises(AuditError, match="level"):
        delong_interval([1.0, 2.0], [1, 0], level=95)
