"""ROC figures against counting, hand-worked numbers and other people's values on fixed arrays."""

import json
from pathlib import Path

import numpy as np
import pytest

from forgetmi.errors import AuditError
from forgetmi.metrics.roc import (
    auc,
    auc_statistic,
    balanced_accuracy,
    balanced_accuracy_statistic,
    best_balanced_accuracy,
    evaluate,
    mean_statistic,
    roc_curve,
    tpr_at_fpr,
    tpr_at_fpr_statistic,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "reference_values" / "membership"
FIXTURES = [
    "constant",
    "diagonal_tie_pairs",
    "gauss",
    "gauss_shuffled",
    "inverted",
    "one_percent_exposed",
    "perfect",
    "ties_1dp",
    "ties_1dp_shuffled",
    "tiny_ties",
]


def reference(name):
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference values beside the repository ({REFERENCE.parent.name}/{REFERENCE.name})")
    arrays = np.load(REFERENCE / "inputs.npz")
    expected = json.loads((REFERENCE / "metrics.json").read_text())[name]
    return arrays[f"metrics/{name}/scores"], arrays[f"metrics/{name}/member"], expected


def counted_auc(scores, member):
    won = np.sign(scores[member][:, None] - scores[~member][None, :])
    return ((won + 1) / 2).mean()


def counted_tpr(scores, member, fpr):
    thresholds = np.append(np.unique(scores), np.inf)
    options = [(scores[member] >= t).mean() for t in thresholds if (scores[~member] >= t).mean() <= fpr + 1e-12]
    return max(options)


@pytest.mark.parametrize("name", FIXTURES)
def test_reference_fixtures(name):
    scores, member, expected = reference(name)
    assert auc(scores, member) == expected["auc_mann_whitney"]
    assert roc_curve(scores, member).auc == expected["auc_mann_whitney"]
    assert best_balanced_accuracy(scores, member)[0] == pytest.approx(expected["best_balanced_accuracy"], abs=1e-12)
    for fpr, tpr in expected["tpr_at_fpr"].items():
        point = tpr_at_fpr(scores, member, float(fpr))
        assert point.observed == tpr
        assert point.fp <= expected["n_fp_allowed"][fpr]
        measurable = float(fpr) >= 1 / expected["n_nonmember"]
        assert point.value == (tpr if measurable else None)
        assert (point.reason is None) == measurable


def test_fixture_list_is_whole():
    if not REFERENCE.is_dir():
        pytest.skip("no reference values beside the repository")
    assert set(json.loads((REFERENCE / "metrics.json").read_text())) == set(FIXTURES)


def test_averages_hide_the_exposed_one_percent():
    scores, member, _ = reference("one_percent_exposed")
    assert auc(scores, member) == pytest.approx(0.502, abs=5e-4)
    point = tpr_at_fpr(scores, member, 0.0)
    assert (point.tp, point.fp, point.observed) == (20, 0, 0.01)
    assert point.value is None
    assert "2000 non-members" in point.reason
    assert "0.0015" in point.reason  # 1 - 0.05 ** (1 / 2000)


def test_two_tie_blocks_of_one_member_each():
    # pairs: 9-9 tie, 9-5 won, 5-9 lost, 5-5 tie: (0.5 + 1 + 0 + 0.5) / 4
    for member in ([1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]):
        assert auc([9, 9, 5, 5], member) == 0.5
        curve = roc_curve([9, 9, 5, 5], member)
        assert curve.tp.tolist() == [0, 1, 2]
        assert curve.fp.tolist() == [0, 1, 2]
        assert tpr_at_fpr([9, 9, 5, 5], member, 0.0).tp == 0


@pytest.mark.parametrize("seed", range(12))
def test_against_brute_force_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, 60).astype(float) if seed % 2 else rng.normal(size=60)
    member = rng.random(60) < 0.4
    assert auc(scores, member) == pytest.approx(counted_auc(scores, member), abs=1e-12)
    assert roc_curve(scores, member).auc == auc(scores, member)
    for fpr in (0.0, 0.02, 0.05, 0.1, 0.3, 1.0):
        point = tpr_at_fpr(scores, member, fpr)
        assert point.observed == pytest.approx(counted_tpr(scores, member, fpr), abs=1e-12)
        assert evaluate(tpr_at_fpr_statistic(scores, member, fpr), 60) == point.observed
        called = scores >= (np.inf if point.threshold is None else point.threshold)
        assert ((called & member).sum(), (called & ~member).sum()) == (point.tp, point.fp)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_copies(tied):
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 7, 40).astype(float) if tied else rng.normal(size=40)
    member, called = np.arange(40) < 15, rng.random(40) < 0.5
    weights = rng.integers(0, 4, (30, 40)).astype(float)
    aucs, means = auc_statistic(scores, member)(weights), mean_statistic(scores)(weights)
    tprs = tpr_at_fpr_statistic(scores, member, 0.1)(weights)
    accuracies = balanced_accuracy_statistic(called, member)(weights)
    for row, weight in enumerate(weights.astype(int)):
        s, m, c = (np.repeat(x, weight) for x in (scores, member, called))
        assert aucs[row] == pytest.approx(counted_auc(s, m), abs=1e-12)
        assert tprs[row] == pytest.approx(counted_tpr(s, m, 0.1), abs=1e-12)
        assert accuracies[row] == pytest.approx((c[m].mean() + 1 - c[~m].mean()) / 2, abs=1e-12)
        assert means[row] == pytest.approx(s.mean(), abs=1e-12)


def test_order_and_monotone_maps_change_nothing():
    rng = np.random.default_rng(0)
    scores, member = np.round(rng.normal(size=300), 1), rng.random(300) < 0.3
    shuffle = rng.permutation(300)
    for other, truth in ((scores[shuffle], member[shuffle]), (np.exp(scores), member), (3 * scores - 7, member)):
        assert auc(other, truth) == auc(scores, member)
        assert tpr_at_fpr(other, truth, 0.05).tp == tpr_at_fpr(scores, member, 0.05).tp
        assert best_balanced_accuracy(other, truth)[0] == best_balanced_accuracy(scores, member)[0]
    assert auc(-scores, member) == pytest.approx(1 - auc(scores, member), abs=1e-12)


def test_shuffled_labels_give_one_half():
    rng = np.random.default_rng(1)
    scores, member = rng.normal(size=400), np.arange(400) < 200
    scores[member] += 3
    mean = np.mean([auc(scores, rng.permutation(member)) for _ in range(200)])
    assert mean == pytest.approx(0.5, abs=4 * 0.029 / 200**0.5)
    assert auc(scores, member) > 0.95


def test_a_count_is_not_lost_to_floating_point():
    member = np.repeat([True, False], [1, 100])
    scores = np.concatenate([[50.5], np.arange(100.0) + 22])  # 71 non-members above the member
    scores[0] = 99.5 - 6.0  # between the 28 that are above 93.5 and the rest
    assert int((scores[1:] >= scores[0]).sum()) == 28
    scores[0] -= 1  # 29 above: allowed at 0.29, though 0.29 * 100 < 29 in floating point
    assert tpr_at_fpr(scores, member, 0.29).value == 1.0
    assert tpr_at_fpr(scores, member, 0.28).value == 0.0
    assert evaluate(tpr_at_fpr_statistic(scores, member, 0.29), 101) == 1.0


def test_balanced_accuracy_at_a_threshold():
    assert balanced_accuracy([3, 2, 1, 0], [1, 1, 0, 0], 2) == 1.0
    assert balanced_accuracy([3, 2, 1, 0], [1, 1, 0, 0], 3) == 0.75
    assert balanced_accuracy([3, 2, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], 1) == pytest.approx((1 + 0.75) / 2)


def test_dict_holds_counts_and_no_infinity():
    point = tpr_at_fpr([2.0, 1.0, 0.0], [True, False, False], 0.001)
    text = json.dumps([roc_curve([2.0, 1.0, 0.0], [True, False, False]).to_dict(), point.to_dict()], allow_nan=False)
    assert json.loads(text)[0] == {
        "tp": [0, 1, 1, 1],
        "fp": [0, 0, 1, 2],
        "thresholds": [None, 2.0, 1.0, 0.0],
        "n_members": 1,
        "n_nonmembers": 2,
    }


@pytest.mark.parametrize(
    ("scores", "member", "message"),
    [
        ([1.0, np.nan], [1, 0], "1 of 2 scores"),
        ([1.0, np.inf], [1, 0], "not finite"),
        ([1.0, 2.0], [1, 1], "needs members and non-members"),
        ([1.0, 2.0], [0, 0], "needs members and non-members"),
        ([1.0, 2.0, 3.0], [1, 0], "one length"),
        ([1.0, 2.0], [2, 0], "true or false"),
    ],
)
def test_refuses(scores, member, message):
    for function in (auc, roc_curve, best_balanced_accuracy):
        with pytest.raises(AuditError, match=message):
            function(scores, member)


def test_refuses_a_rate_outside_zero_and_one():
    with pytest.raises(AuditError, match="lies in"):
        tpr_at_fpr([1.0, 2.0], [True, False], 1.5)
