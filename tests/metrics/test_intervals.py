"""Patient-clustered intervals: against brute-force resampling, closed forms and simulated coverage."""

import json

import numpy as np
import pytest
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics import intervals
from forgetmi.metrics.intervals import (
    Interval,
    PatientBootstrap,
    auc_interval,
    clopper_pearson,
    mean_interval,
    null_auc_sd,
    paired_difference_interval,
    wilson,
)
from forgetmi.metrics.roc import auc, auc_statistic, mean_statistic


def clustered(rng, patients, records, between=1.0, within=0.5):
    groups = np.repeat([f"p{k}" for k in range(patients)], records)
    return groups, np.repeat(rng.normal(0, between, patients), records) + rng.normal(0, within, patients * records)


def test_weights_are_whole_patients_drawn_within_strata():
    rng = np.random.default_rng(0)
    groups = np.array(["a", "b", "b", "c", "d", "d", "d", "e"])
    strata = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    bootstrap = PatientBootstrap(groups, rng, strata=strata, n_resamples=500)
    weights = np.concatenate(list(bootstrap.weights()))
    assert weights.shape == (500, 8)
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 4] == weights[:, 6]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (weights[:, [4, 7]].sum(axis=1) == 2).all()
    # multinomial: mean 1, variance 1 - 1/n
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.15)
    assert weights[:, 0].var() == pytest.approx(2 / 3, abs=0.15)


def test_same_resamples_each_time_whatever_the_chunk(monkeypatch):
    groups = np.repeat(np.arange(12), 3)
    strata = np.arange(36) < 15
    whole = PatientBootstrap(groups, np.random.default_rng(5), strata=strata, n_resamples=200)
    first = np.concatenate(list(whole.weights()))
    assert (first == np.concatenate(list(whole.weights()))).all()
    monkeypatch.setattr(intervals, "_CELLS", 36 * 7)
    small = PatientBootstrap(groups, np.random.default_rng(5), strata=strata, n_resamples=200)
    chunks = list(small.weights())
    assert len(chunks) == 29
    assert (np.concatenate(chunks) == first).all()
    other = PatientBootstrap(groups, np.random.default_rng(6), strata=strata, n_resamples=200)
    assert (np.concatenate(list(other.weights())) != first).any()


def test_auc_interval_equals_copying_out_each_resample():
    rng = np.random.default_rng(2)
    groups, scores = clustered(rng, 20, 3)
    member = np.arange(60) < 24
    scores = np.round(scores + member, 1)
    bootstrap = PatientBootstrap(groups, np.random.default_rng(9), strata=member, n_resamples=300)
    weights = np.concatenate(list(bootstrap.weights())).astype(int)
    brute = [auc(np.repeat(scores, weight), np.repeat(member, weight)) for weight in weights]
    tail = bootstrap.expanded_tail()
    interval = auc_interval(scores, member, groups, np.random.default_rng(9), n_resamples=300)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(brute, (tail, 1 - tail))), abs=1e-12)
    assert interval.n_patients == 20
    assert interval.contains(auc(scores, member))


def test_percentiles_are_widened_as_students_t_is():
    rng = np.random.default_rng(0)
    # n = 10, one stratum: sqrt(10 / 9) * 2.262157 standard deviations instead of 1.959964
    one = PatientBootstrap(np.arange(10), rng)
    assert one.expanded_tail() == pytest.approx(stats.norm.sf(np.sqrt(10 / 9) * 2.2621571628), rel=1e-8)
    # two strata of 10: the same correction of the variance, twice the degrees of freedom
    two = PatientBootstrap(np.arange(20), rng, strata=np.arange(20) < 10)
    assert two.expanded_tail() == pytest.approx(stats.norm.sf(np.sqrt(10 / 9) * 2.1009220402), rel=1e-8)
    # one stratum so large that it adds nothing: the small one alone counts
    lopsided = PatientBootstrap(np.arange(200_010), rng, strata=np.arange(200_010) < 10)
    assert lopsided.expanded_tail() == pytest.approx(one.expanded_tail(), rel=1e-3)
    assert PatientBootstrap(np.arange(10**6), rng).expanded_tail() == pytest.approx(0.025, rel=1e-4)


def test_the_mean_of_eight_patients_is_covered():
    rng = np.random.default_rng(1)
    hits = sum(mean_interval(rng.normal(size=8), np.arange(8), rng, n_resamples=1000).contains(0.0) for _ in range(400))
    # plain percentiles cover in about 89 % of cases; Monte-Carlo error 1.1 %
    assert 0.92 <= hits / 400 <= 0.98


def test_clustering_by_patient_covers_where_records_do_not():
    rng = np.random.default_rng(3)
    covered = {"patient": 0, "record": 0}
    for _ in range(150):
        groups, values = clustered(rng, 40, 6)
        for unit, names in (("patient", groups), ("record", np.arange(values.size))):
            covered[unit] += mean_interval(values, names, rng, n_resamples=400).contains(0.0)
    assert 0.88 <= covered["patient"] / 150 <= 0.99
    assert covered["record"] / 150 < 0.75


def test_auc_interval_covers_clustered_data():
    rng = np.random.default_rng(4)
    member = np.repeat([True, False], [25 * 4, 60 * 4])
    truth = stats.norm.cdf(1.0 / np.sqrt(2 * 1.25))
    hits = 0
    for _ in range(120):
        groups, scores = clustered(rng, 85, 4)
        hits += auc_interval(scores + member, member, groups, rng, n_resamples=300).contains(truth)
    assert 0.87 <= hits / 120 <= 0.99


def test_spread_under_the_null_is_mann_whitneys():
    rng = np.random.default_rng(5)
    member = np.arange(200) < 100
    drawn = PatientBootstrap(np.arange(200), rng, strata=member, n_resamples=2000).replicates(
        auc_statistic(rng.normal(size=200), member)
    )
    assert drawn.std() == pytest.approx(null_auc_sd(100, 100), rel=0.15)


def test_null_sd_pins():
    assert null_auc_sd(100, 100) == pytest.approx(0.0409268, abs=5e-8)
    assert stats.norm.sf(0.05 / null_auc_sd(100, 100)) == pytest.approx(0.1109116, abs=5e-8)
    # the variance of the AUC of one member among N: uniform on 0, 1/N, ..., 1
    assert null_auc_sd(1, 4) == pytest.approx(np.std([0, 0.25, 0.5, 0.75, 1.0]))


@pytest.mark.parametrize(("k", "n"), [(0, 30), (1, 30), (15, 30), (30, 30), (3, 7)])
def test_proportions(k, n):
    exact, score = clopper_pearson(k, n, 0.9), wilson(k, n)
    low = stats.beta.ppf(0.05, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
    assert (exact.low, exact.high) == pytest.approx((low, high), abs=1e-12)
    z, p = stats.norm.ppf(0.975), k / n
    centre, half = (p + z * z / 2 / n), z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    bounds = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    assert (score.low, score.high) == pytest.approx(bounds, abs=1e-9)


def test_no_variation_is_not_certainty():
    rng = np.random.default_rng(6)
    member, groups = np.repeat([True, False], [30, 80]), np.arange(110)
    perfect = auc_interval(member.astype(float), member, groups, rng)
    assert perfect.high == 1.0
    assert perfect.low == pytest.approx(0.025 ** (1 / 30))
    assert perfect.low == pytest.approx(clopper_pearson(30, 30).low)
    constant = auc_interval(np.zeros(110), member, groups, rng)
    assert constant.low == pytest.approx(0.5 * 0.025 ** (1 / 30))
    assert constant.low + constant.high == pytest.approx(1.0)
    right = mean_interval(np.ones(20), np.arange(20), rng, bounds=(0, 1))
    assert (right.low, right.high) == pytest.approx((clopper_pearson(20, 20).low, 1.0))
    unbounded = mean_interval(np.ones(20), np.arange(20), rng)
    assert unbounded.low is None
    assert "does not vary" in unbounded.reason


def test_one_patient_has_no_interval():
    rng = np.random.default_rng(7)
    interval = auc_interval([1.0, 2.0, 0.0, 0.5], [1, 1, 0, 0], ["a", "a", "b", "c"], rng)
    assert interval.low is None
    assert "1 patient" in interval.reason
    with pytest.raises(AuditError, match="no interval"):
        interval.contains(0.5)
    json.dumps(interval.to_dict(), allow_nan=False)


def test_pairing_narrows_a_difference():
    rng = np.random.default_rng(10)
    groups, values = clustered(rng, 40, 3)
    other = values - 0.2 + rng.normal(0, 0.05, values.size)
    paired = paired_difference_interval(mean_statistic(values), mean_statistic(other), groups, rng)
    alone = mean_interval(values, groups, rng)
    assert paired.contains(values.mean() - other.mean())
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)
    same = paired_difference_interval(mean_statistic(values), mean_statistic(values), groups, rng, bounds=(-1, 1))
    assert same.contains(0.0)


def test_undefined_resamples_are_counted():
    rng = np.random.default_rng(11)
    rare = np.arange(30) < 1  # one patient: gone from (29/30)**30 = 36 % of the resamples

    def share_of_rare(weights):
        total = weights @ rare
        return np.where(total > 0, 0.01 * weights[:, 5] + total, np.nan)

    interval = PatientBootstrap(np.arange(30), rng).interval(share_of_rare)
    assert interval.n_undefined / 2000 == pytest.approx((29 / 30) ** 30, abs=0.04)
    never = PatientBootstrap(np.arange(30), rng).interval(lambda weights: np.full(len(weights), np.nan))
    assert never.low is None
    assert "2000 of 2000" in never.reason


def test_refuses():
    rng = np.random.default_rng(12)
    with pytest.raises(AuditError, match="members and non-members") as error:
        PatientBootstrap(["p1", "p1", "p2"], rng, strata=[True, False, False])
    assert "p1" not in error.value.public
    assert "p1" in str(error.value)
    with pytest.raises(AuditError, match="one length"):
        PatientBootstrap(["a", "b"], rng, strata=[True])
    with pytest.raises(AuditError, match="too few"):
        PatientBootstrap(["a", "b"], rng, n_resamples=10)
    with pytest.raises(AuditError, match="level"):
        PatientBootstrap(["a", "b"], rng, level=95)
    with pytest.raises(AuditError, match="proportion"):
        clopper_pearson(5, 4)
    with pytest.raises(AuditError, match="finite"):
        Interval(float("nan"), 1.0, 0.95, "x", 3)
    with pytest.raises(AuditError, match="reason"):
        Interval(None, None, 0.95, "x", 3)
