"""Record- and patient-level AUC over reference models, and what they are when nothing leaks."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.patient_level import (
    hanley_mcneil_se,
    null_patient_max_share,
    null_share_above,
    record_auc,
    survival_curve,
)
from forgetmi.metrics.roc import auc

REFERENCE = Path(__file__).parents[3] / "shared" / "reference_values" / "membership"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the folder of reference values is not here")


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "inputs.npz") as inputs, np.load(REFERENCE / "patient_level.npz") as values:
        return inputs["lira/phi"], inputs["lira/keep"], dict(values)


@pytest.fixture(scope="module")
def shares():
    return json.loads((REFERENCE / "patient_level.json").read_text(encoding="utf-8"))


@needs_reference
def test_record_auc_agrees_with_reference_values(reference):
    phi, seen, values = reference
    found = record_auc(phi, seen)
    # the other code clips at one half: there we must lie below, and nowhere else may we differ
    clipped = values["auc"] == 0.5
    assert 0 < clipped.sum() < 40
    assert (found.auc[clipped] < 0.5).all()
    assert np.abs(found.auc - values["auc"])[~clipped].max() < 1e-9
    assert np.abs(found.se - values["se"])[~clipped].max() < 1e-9
    empirical = record_auc(phi, seen, kind="empirical")
    assert np.abs(empirical.auc - values["empirical_auc"]).max() < 1e-12
    assert (found.n_in == 32).all() and (found.n_out == 32).all()


@needs_reference
def test_survival_agrees_with_reference_values(reference, shares):
    phi, seen, values = reference
    area, patients = record_auc(phi, seen).auc, values["patient_id"]
    highest = np.array([area[patients == p].max() for p in values["patient_ids"]])
    for name, mine in (("share_of_records_with_auc_above", area), ("patient_max_auc_share_above", highest)):
        above = shares[name]
        assert survival_curve(mine, [float(t) for t in above]) == pytest.approx(list(above.values()), abs=1e-12)


@needs_reference
def test_null_agrees_with_the_simulated_reference(shares):
    for side, above in shares["null_share_of_records_above_by_models_per_side"].items():
        exact = null_share_above([float(t) for t in above], int(side), int(side))
        simulated = np.array(list(above.values()))
        # they drew 20,000 records
        assert (np.abs(exact - simulated) <= 4.5 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4).all()


def test_null_equals_its_closed_form_and_a_simulation_with_unequal_sides():
    z = stats.norm.ppf([0.6, 0.7])
    by_hand = stats.t.sf(z * np.sqrt(15), 30)
    assert null_share_above([0.6, 0.7], 16, 16) == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx([0.167, 0.0256], abs=5e-4)  # 17 % of unexposed records exceed 0.6
    assert null_share_above([0.5], 5, 19) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    n_in, n_out, records = 5, 19, 40_000
    seen = np.repeat([True, False], [n_in, n_out])[:, None] & np.ones(records, dtype=bool)
    found = record_auc(rng.normal(3.0, 2.0, (n_in + n_out, records)), seen).auc
    thresholds = np.array([0.2, 0.4, 0.6, 0.75, 0.9])
    exact = null_share_above(thresholds, n_in, n_out)
    assert survival_curve(found, thresholds) == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(records))
    # symmetric: swapping the sides turns the AUC round
    assert 1 - null_share_above(1 - thresholds, n_out, n_in) == pytest.approx(exact, abs=1e-10)
    assert null_share_above([0.6], 2, 2) > null_share_above([0.6], 100, 100)


def test_null_of_the_patient_maximum_grows_with_records():
    thresholds = [0.55, 0.7]
    one = null_share_above(thresholds, 8, 8)
    assert null_patient_max_share(thresholds, [1, 1], 8, 8) == pytest.approx(one)
    assert null_patient_max_share(thresholds, [1, 3], 8, 8) == pytest.approx((one + 1 - (1 - one) ** 3) / 2)
    rng = np.random.default_rng(1)
    seen = np.repeat([True, False], 8)[:, None] & np.ones(20_000, dtype=bool)
    highest = record_auc(rng.normal(size=(16, 20_000)), seen).auc.reshape(-1, 4).max(axis=1)
    assert survival_curve(highest, thresholds) == pytest.approx(
        null_patient_max_share(thresholds, [4], 8, 8), abs=4 * 0.5 / np.sqrt(5000)
    )


def test_nothing_is_clipped_at_one_half():
    rng = np.random.default_rng(2)
    seen = np.repeat([True, False], 16)[:, None] & np.ones(4000, dtype=bool)
    for kind in ("binormal", "empirical"):
        area = record_auc(rng.normal(size=(32, 4000)), seen, kind=kind).auc
        assert area.mean() == pytest.approx(0.5, abs=0.01)
        assert (area < 0.5).mean() == pytest.approx(0.5, abs=0.04)


def test_record_auc_by_hand():
    phi = np.array([[2.0, 1.0, 5.0], [4.0, 1.0, 5.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    seen = np.repeat([True, True, False, False, False], 3).reshape(5, 3)
    found = record_auc(phi, seen)
    # means 3 and 1, variances (divisor n) 1 and 0; no spread: the limits 1/2 and 1
    assert found.auc == pytest.approx([stats.norm.cdf(2.0), 0.5, 1.0], abs=1e-12)
    assert record_auc(-phi, seen).auc == pytest.approx(1 - found.auc, abs=1e-12)
    assert found.se[2] == 0.0
    mixed = np.random.default_rng(3).integers(0, 3, (9, 20)).astype(float)
    inside = np.random.default_rng(4).permuted(np.arange(9)[:, None] < 4 + np.zeros(20), axis=0)
    expected = [auc(mixed[:, j], inside[:, j]) for j in range(20)]
    assert record_auc(mixed, inside, kind="empirical").auc == pytest.approx(expected, abs=1e-12)
    # shifting or scaling a record's signals changes nothing
    assert record_auc(3.0 * mixed + 7.0, inside).auc == pytest.approx(record_auc(mixed, inside).auc, abs=1e-12)


def test_hanley_mcneil_by_hand():
    a, p, n = 0.8, 10, 20
    variance = (0.16 + 9 * (0.8 / 1.2 - 0.64) + 19 * (2 * 0.64 / 1.8 - 0.64)) / 200
    assert float(hanley_mcneil_se(a, p, n)) == pytest.approx(variance**0.5, abs=1e-15)
    assert hanley_mcneil_se([0.0, 1.0], 5, 5).tolist() == [0.0, 0.0]
    # at one half it is about the null standard deviation sqrt((P + N + 1) / (12 P N))
    assert float(hanley_mcneil_se(0.5, 32, 32)) == pytest.approx(np.sqrt(65 / (12 * 32 * 32)), rel=1e-12)
    with pytest.raises(AuditError, match=r"\[0, 1\]"):
        hanley_mcneil_se(1.2, 5, 5)


def test_survival_is_strict():
    assert survival_curve([0.5, 0.5, 0.6, 0.9], [0.4, 0.5, 0.6, 0.9]).tolist() == [1.0, 0.5, 0.25, 0.0]
    with pytest.raises(AuditError, match="vector of numbers"):
        survival_curve([], [0.5])


def test_refuses():
    phi, seen = np.zeros((4, 3)), np.repeat([True, False], 2)[:, None] & np.ones(3, dtype=bool)
    with pytest.raises(AuditError, match="models, records"):
        record_auc(phi, seen[:, :2])
    with pytest.raises(AuditError, match="1 of 12"):
        record_auc(np.where(np.eye(4, 3, k=-3) > 0, np.nan, phi), seen)
    lonely = seen.copy()
    lonely[1, 0] = False
    with pytest.raises(AuditError, match="1 of 3 records have fewer than two"):
        record_auc(phi, lonely)
    with pytest.raises(AuditError, match="two on each side"):
        null_share_above([0.6], 1, 5)
    with pytest.raises(AuditError, match=r"\(0, 1\)"):
        null_share_above([1.0], 5, 5)
    with pytest.raises(AuditError, match="one record at least"):
        null_patient_max_share([0.6], [0, 1], 5, 5)
