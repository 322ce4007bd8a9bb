"""From records to patients: rules, the advantage of having many records, and single patients' risk."""

import json

import numpy as np
import pytest

from forgetmi.attacks.membership.patients import (
    combine,
    null_auc_of_max,
    patient_result,
    risk_table,
    same_number_statistic,
)
from forgetmi.attacks.membership.population import ThresholdAttack
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc, evaluate

FAST = {"n_resamples": 200}
RULES = ("max", "mean", "sum", "top_k")


def attacked(losses, owners, seed=1):
    forget, test = (PartSignals({"loss": loss}, owner) for loss, owner in zip(losses, owners, strict=True))
    return ThresholdAttack(**FAST).result(forget, test, np.random.default_rng(seed))


def data(seed=0, shift=0.7, records=(3, 3), patients=(40, 60)):
    """Records of a patient share half of their variance."""
    rng = np.random.default_rng(seed)
    owners, losses = [], []
    for name, n, each, mean in zip("ft", patients, records, (0.0, shift), strict=True):
        codes = np.repeat(np.arange(n), each)
        owners.append(np.array([f"{name}{k:02d}" for k in range(n)])[codes])
        losses.append(mean + (rng.normal(size=n)[codes] + rng.normal(size=codes.size)) / np.sqrt(2))
    return losses, owners


def test_rules_by_hand():
    scores = [1.0, 5.0, 2.0, -1.0, 4.0, 3.0]
    patients = ["b", "a", "b", "c", "a", "a"]
    for rule, k, expected in (
        ("max", 3, [5, 2, -1]),
        ("mean", 3, [4, 1.5, -1]),
        ("sum", 3, [12, 3, -1]),
        ("top_k", 2, [4.5, 1.5, -1]),
        ("top_k", 1, [5, 2, -1]),
        ("top_k", 9, [4, 1.5, -1]),
    ):
        found = combine(scores, patients, rule, k=k)
        assert found.scores.tolist() == expected, (rule, k)
        assert found.patients.tolist() == ["a", "b", "c"]
        assert found.n_records.tolist() == [3, 2, 1]
    assert found.members([False, True, False, False, True, True], patients).tolist() == [True, False, False]


@pytest.mark.parametrize("rule", RULES)
def test_rules_equal_brute_force_and_ignore_order(rule):
    rng = np.random.default_rng(0)
    scores, patients = rng.normal(size=500).round(1), rng.integers(0, 90, 500)
    before = scores.copy()
    ways = {
        "max": np.max,
        "mean": np.mean,
        "sum": np.sum,
        "top_k": lambda v: np.sort(v)[::-1][:3].mean(),
    }
    found = combine(scores, patients, rule)
    expected = [ways[rule](scores[patients == p]) for p in np.unique(patients)]
    assert found.scores == pytest.approx(expected, abs=1e-12)
    order = rng.permutation(500)
    again = combine(scores[order], patients[order], rule)
    assert again.scores.tolist() == found.scores.tolist()
    assert (scores == before).all()


def test_one_entry_a_patient():
    losses, owners = data()
    made = patient_result(attacked(losses, owners), np.random.default_rng(2), rule="mean", **FAST)
    assert made.scores.shape == made.member.shape == made.called.shape == made.patient.shape == (100,)
    assert sorted(made.patient) == list(range(100))
    assert made.member.tolist() == [True] * 40 + [False] * 60
    assert made.figures["auc"].n_samples == made.figures["auc"].n_patients == 100
    assert made.figures["tpr_at_fpr_0.01"].value is None  # 60 test patients do not resolve it, whatever their records
    assert made.figures["tpr_at_fpr_0.05"].value is not None
    by_hand = [-np.mean(losses[0][owners[0] == p]) for p in np.unique(owners[0])]
    assert made.scores[:40] == pytest.approx(by_hand)
    assert made.figures["auc"].value == auc(made.scores, made.member)
    assert made.definition.startswith("one score a patient, the mean of the records' scores")
    assert "forget patient above a test patient" in made.figures["auc"].sentence
    assert "record" not in made.figures["tpr_at_fpr_0.05"].sentence
    counts = made.figures["balanced_accuracy"].counts
    assert counts["n_members"] == 40 and counts["n_nonmembers"] == 60
    text = json.dumps(made.to_dict(), allow_nan=False)
    assert "f03" not in text and "t03" not in text


@pytest.mark.parametrize("rule", RULES)
def test_evidence_of_several_records_adds_up(rule):
    """Records that carry independent evidence: a patient is told better than a record."""
    rng = np.random.default_rng(3)
    owners = [np.repeat(np.arange(80) + 1000 * side, 4) for side in (0, 1)]
    losses = [rng.normal(mean, 1.0, 320) for mean in (0.0, 0.8)]
    result = attacked(losses, owners)
    made = patient_result(result, np.random.default_rng(0), rule=rule, **FAST)
    assert made.figures["auc"].value > result.figures["auc"].value + 0.05
    # independent normal evidence: the sum is the likelihood ratio, AUC = Phi(0.8 sqrt(4) / sqrt(2)) = 0.871
    if rule in ("sum", "mean"):
        assert made.figures["auc"].value == pytest.approx(0.871, abs=0.06)


def test_max_favours_patients_with_many_records_and_the_controls_say_so():
    """Nothing leaks; forgotten patients have five records, test patients one to five."""
    rng = np.random.default_rng(4)
    counts = [np.full(120, 5), rng.choice([1, 5], 200, p=[0.7, 0.3])]
    owners = [np.repeat(np.arange(len(c)) + 1000 * side, c) for side, c in enumerate(counts)]
    result = attacked([rng.normal(size=o.size) for o in owners], owners)
    assert result.figures["auc"].value == pytest.approx(0.5, abs=0.05)
    made = {rule: patient_result(result, np.random.default_rng(0), rule=rule, **FAST) for rule in RULES}
    highest = made["max"].figures
    # closed form: 5 / (5 + 1) against the patients with one record, one half against those with five
    share = (counts[1] == 1).mean()
    expected = share * 5 / 6 + (1 - share) / 2
    assert highest["auc"].value == pytest.approx(expected, abs=0.05) and highest["auc"].interval.low > 0.6
    assert f"AUC of {expected:.3f}" in made["max"].notes[-1]
    assert highest["auc@same_number_of_records"].value == pytest.approx(0.5, abs=0.09)
    assert highest["auc@same_number_of_records"].interval.contains(0.5)
    assert highest["auc@number_of_records"].value == pytest.approx(share + (1 - share) / 2)
    assert made["mean"].figures["auc"].interval.contains(0.5)
    assert made["mean"].figures["auc"].value == pytest.approx(0.5, abs=0.07)
    assert "5 to 5, 5 on average (forgotten), 1 to 5" in made["mean"].notes[-1]


def test_null_auc_of_max_equals_a_simulation():
    rng = np.random.default_rng(5)
    n_records, member = np.array([1, 4, 2, 3, 3]), np.array([True, True, False, False, False])
    by_hand = np.mean([k / (k + m) for k in (1, 4) for m in (2, 3, 3)])
    assert null_auc_of_max(n_records, member) == pytest.approx(by_hand, abs=1e-12)
    patients = np.repeat(np.arange(5), n_records)
    drawn = [auc(combine(rng.normal(size=13), patients, "max").scores, member) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(by_hand, abs=4 * np.std(drawn) / np.sqrt(4000))
    assert null_auc_of_max(np.full(6, 3), np.arange(6) < 2) == 0.5


def test_same_number_equals_counting_pairs():
    rng = np.random.default_rng(6)
    scores, counts = rng.normal(size=60).round(1), rng.integers(1, 4, 60)
    member = rng.random(60) < 0.4
    pairs = [(a, b) for a in np.flatnonzero(member) for b in np.flatnonzero(~member) if counts[a] == counts[b]]
    won = np.mean([(scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b]) for a, b in pairs])
    statistic = same_number_statistic(scores, member, counts)
    assert evaluate(statistic, 60) == pytest.approx(won, abs=1e-12)
    nobody = np.where(member, 0.0, 1.0)[None, :]
    assert np.isnan(statistic(nobody)).all()
    doubled = rng.integers(0, 3, 60)
    repeated = np.repeat(np.arange(60), doubled)
    again = same_number_statistic(scores[repeated], member[repeated], counts[repeated])
    assert statistic(doubled[None, :].astype(float))[0] == pytest.approx(evaluate(again, repeated.size), abs=1e-12)
    assert same_number_statistic(scores, member, np.where(member, 1, 2)) is None


def test_no_patient_with_as_many_records():
    losses, owners = data(records=(2, 3))
    made = patient_result(attacked(losses, owners), np.random.default_rng(0), **FAST)
    assert made.figures["auc@same_number_of_records"].value is None
    assert "as many records" in made.figures["auc@same_number_of_records"].reason
    assert made.figures["auc@number_of_records"].value == 0.0
    assert "AUC of 0.400" in made.notes[-1]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_leaks_means_one_half(rule):
    """Equal numbers of records: no rule may beat guessing."""
    figures = []
    for seed in range(25):
        made = patient_result(attacked(*data(seed, shift=0.0)), np.random.default_rng(seed), rule=rule, **FAST)
        figures.append((made.figures["auc"], made.figures["balanced_accuracy"]))
    # sd of an AUC of 40 against 60 patients is 0.059; of a mean of 25, 0.012
    for column in zip(*figures, strict=True):
        assert np.mean([figure.value for figure in column]) == pytest.approx(0.5, abs=0.04)
    assert sum(not area.interval.contains(0.5) for area, _ in figures) <= 5


def test_same_seed_same_result_whatever_the_order():
    losses, owners = data()
    first = patient_result(attacked(losses, owners), np.random.default_rng(3), **FAST)
    rng = np.random.default_rng(9)
    orders = [rng.permutation(loss.size) for loss in losses]
    mixed = attacked(
        [loss[o] for loss, o in zip(losses, orders, strict=True)],
        [owner[o] for owner, o in zip(owners, orders, strict=True)],
    )
    second = patient_result(mixed, np.random.default_rng(3), **FAST)
    assert first.figures["auc"].value == second.figures["auc"].value
    assert sorted(first.scores) == sorted(second.scores)
    again = patient_result(attacked(losses, owners), np.random.default_rng(3), **FAST)
    assert first.to_dict() == again.to_dict()


def test_risk_table_by_hand():
    scores = [9.0, 1.0, 5.0, 0.0, 4.0, 5.0, 3.0, 2.0]
    patients = ["m1", "m1", "m2", "m3", "o1", "o2", "o3", "o4"]
    member = np.array([True] * 4 + [False] * 4)
    table = risk_table(scores, member, patients, fpr=0.25)
    assert table.patients.tolist() == ["m1", "m2", "m3"]
    assert table.scores.tolist() == [9, 5, 0]
    assert table.n_records.tolist() == [2, 1, 1]
    # ties count against the patient's exposure: o2 scores at least as high as m2
    assert table.p_value.tolist() == [1 / 5, 2 / 5, 1.0]
    # one of four test patients may be accused: the threshold is 5, ties and all
    assert (table.point.tp, table.point.fp, table.point.threshold) == (2, 1, 5.0)
    assert table.flagged.tolist() == [True, True, False]
    strict = risk_table(scores, member, patients, fpr=0.05)
    assert strict.flagged.tolist() == [True, False, False]
    assert "not measurable" in strict.point.reason
    rows = table.rows()
    assert rows[1] == {"patient": "m2", "score": 5.0, "n_records": 1, "p_value": 0.4, "flagged": True}
    json.dumps(rows, allow_nan=False)
    mean = risk_table(scores, member, patients, fpr=0.25, rule="mean")
    assert mean.scores.tolist() == [5, 5, 0] and "mean" in mean.rule
    turned = risk_table(-np.array(scores), member, patients, fpr=0.25)
    assert turned.p_value.tolist() == [1 / 5, 1.0, 1 / 5]
    low = risk_table([0.0, 0.0, 1.0, 1.0], [True, True, False, False], list("abcd"), fpr=0.25)
    assert not low.flagged.any() and low.point.threshold is None


def test_p_values_are_valid_when_nothing_leaks():
    rng = np.random.default_rng(7)
    small = np.concatenate(
        [
            risk_table(rng.normal(size=50), np.arange(50) < 11, np.arange(50), fpr=0.1).p_value
            for _ in range(400)
        ]
    )  # fmt: skip
    for level in (0.05, 0.2, 0.5):
        # 39 test patients: p takes steps of 1/40, and is uniform on them
        assert (small <= level + 1e-12).mean() == pytest.approx(level, abs=0.02)


def test_refuses():
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        combine([1.0], ["a"], "meen")
    with pytest.raises(ConfigError, match="k must be"):
        combine([1.0], ["a"], "top_k", k=0)
    with pytest.raises(AuditError, match="one length"):
        combine([1.0], ["a", "b"])
    with pytest.raises(AuditError, match="1 of 2 scores"):
        combine([1.0, np.inf], ["a", "b"])
    with pytest.raises(AuditError, match="1 patients stand among") as error:
        risk_table([1.0, 2.0, 3.0], [True, False, False], ["secret", "secret", "b"], fpr=0.1)
    assert "secret" in str(error.value) and "secret" not in error.value.public
    losses, owners = data()
    result = attacked(losses, owners)
    with pytest.raises(AuditError, match="scores no records"):
        patient_result(type(result)(**{**result.__dict__, "scores": None}), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="folds"):
        patient_result(result, np.random.default_rng(0), folds=1)
