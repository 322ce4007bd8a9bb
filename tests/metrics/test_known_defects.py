"""Mistakes that published tools make on a ROC, one test each: it fails if the mistake is made here.

The arrays are small enough to count by hand. Ties: ``tests/metrics/test_roc.py`` too.
"""

import json

import numpy as np
import pytest

from forgetmi.attacks.membership.population import ThresholdAttack
from forgetmi.attacks.membership.result import PartSignals, record_figures
from forgetmi.metrics.patient_level import null_share_above
from forgetmi.metrics.roc import auc, roc_curve, tpr_at_fpr
from forgetmi.metrics.testing import adjusted_p_values, permutation_null

PAIRS = np.repeat(np.arange(1000.0), 2), np.tile([True, False], 1000)  # a member and a non-member on every score


def orders(member, rng):
    """The same records: members first, members last, mixed."""
    index = np.arange(member.size)
    return [index[np.argsort(~member, kind="stable")], index[np.argsort(member, kind="stable")], rng.permutation(index)]


def test_a_vertex_does_not_depend_on_the_order_within_a_tie_block():
    scores, member = np.array([9.0, 9, 5, 5]), np.array([True, False, True, False])
    for order in orders(member, np.random.default_rng(0)):
        assert auc(scores[order], member[order]) == 0.5
        assert tpr_at_fpr(scores[order], member[order], 0.0).tp == 0
        assert list(
            zip(*(roc_curve(scores[order], member[order]).to_dict()[k] for k in ("fp", "tp")), strict=True)
        ) == [
            (0, 0),
            (1, 1),
            (2, 2),
        ]


def test_a_low_loss_means_member():
    rng = np.random.default_rng(1)
    forget = PartSignals({"loss": rng.gamma(2, 0.2, 60)}, np.arange(60))
    test = PartSignals({"loss": rng.gamma(2, 0.6, 90)}, np.arange(100, 190))
    found = ThresholdAttack(n_resamples=100, fprs=(0.1,)).result(forget, test, rng)
    assert found.figures["auc"].value > 0.7
    assert found.figures["tpr_at_fpr_0.1"].value > 0.3


@pytest.mark.parametrize("percent", [0.1, 1, 10])
def test_no_vertex_is_dropped(percent):
    # every second vertex lies on the diagonal; a curve without "collinear" points jumps over the target
    point = tpr_at_fpr(*PAIRS, percent / 100)
    assert (point.value, point.fp) == (percent / 100, round(percent * 10))
    assert roc_curve(*PAIRS).fpr.size == 1001


def test_the_target_itself_is_allowed():
    scores, member = np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, False])
    assert tpr_at_fpr(scores, member, 1 / 3).tp == 2  # one of three: at the target, not below it


def test_a_curve_is_not_its_convex_hull():
    inverted = np.arange(40.0), np.arange(40) < 20
    assert auc(*inverted) == 0.0  # of the hull: 1/2
    assert tpr_at_fpr(*inverted, 0.5).value == 0.0
    # corners (1/2, 0), (1/2, 1/2), (1, 1/2): the hull is the diagonal, the curve lies below it
    scores = np.array([4.0, 3, 2, 1, 0, -1, -2, -3])
    member = np.array([False, False, True, True, False, False, True, True])
    assert tpr_at_fpr(scores, member, 0.49).value == 0.0
    assert auc(scores, member) == 0.25


def test_constant_scores_say_nothing_in_any_order():
    member = np.arange(80) < 25
    for order in orders(member, np.random.default_rng(2)):
        ordered, patients = member[order], np.arange(80)[order]
        null = permutation_null(np.ones(80), ordered, patients, np.random.default_rng(3), 200)
        assert (null.auc, null.p_greater, null.p_less) == (0.5, 1.0, 1.0)
        assert tpr_at_fpr(np.ones(80), ordered, 0.1).value == 0.0


def test_figures_do_not_depend_on_the_order_of_the_records():
    rng = np.random.default_rng(4)
    scores, member, patients = np.round(rng.normal(size=120), 1), np.arange(120) < 50, np.repeat(np.arange(60), 2)
    settings = {"fprs": (0.1,), "n_resamples": 300, "level": 0.95}
    found = []
    for order in orders(member, rng):
        figures = record_figures(
            scores[order], scores[order] > 0, member[order], patients[order], np.random.default_rng(5), **settings
        )
        found.append({key: (f.value, f.interval.low, f.interval.high) for key, f in figures.items()})
    for key, expected in found[0].items():
        assert found[1][key] == pytest.approx(expected, abs=1e-12)
        assert found[2][key] == pytest.approx(expected, abs=1e-12)


def test_no_rate_is_interpolated():
    # 2 of 4 non-members share a score with one member: at an FPR of 1/4 only the vertex before it can be had
    scores, member = np.array([3.0, 2, 2, 2, 1, 0, 0]), np.array([True, True, False, False, True, False, False])
    assert (point := tpr_at_fpr(scores, member, 0.25)).value == 1 / 3
    assert point.fp == 0  # two thirds of the way lie between vertices, and no threshold gives them
    for fpr in np.linspace(0, 1, 21):
        reached = tpr_at_fpr(scores, member, fpr).observed
        assert reached in set(roc_curve(scores, member).tpr.tolist())


def test_every_rate_asked_for_is_there_with_its_counts_or_the_reason():
    rng = np.random.default_rng(6)
    scores, member = rng.normal(size=230), np.arange(230) < 59  # 171 non-members
    fprs = (0.1, 0.01, 0.005, 0.002, 0.001, 0.00001, 1e-7)
    figures = record_figures(scores, scores > 0, member, np.arange(230), rng, fprs=fprs, n_resamples=100, level=0.95)
    rates = {key: f.to_dict() for key, f in figures.items() if key.startswith("tpr")}
    assert list(rates) == [f"tpr_at_fpr_{fpr:g}" for fpr in fprs]
    for fpr, figure in zip(fprs, rates.values(), strict=True):
        assert (figure["value"] is None) == (fpr < 1 / 171)
        assert set(figure["counts"]) == {"tp", "fp", "n_members", "n_nonmembers"}
        assert figure["value"] is None or figure["value"] == figure["counts"]["tp"] / 59
        assert figure["value"] is not None or "171 non-members" in figure["reason"]
    json.dumps(rates, allow_nan=False)


def test_alarms_do_not_depend_on_which_experiment_came_first():
    p = np.array([0.001, 0.2, 0.04, 0.9])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        for correction in ("holm", "benjamini_hochberg", "benjamini_yekutieli"):
            assert adjusted_p_values(p[order], correction).tolist() == adjusted_p_values(p, correction)[order].tolist()


def test_the_realised_rate_never_exceeds_the_target():
    # at 7 of 20 the nearest rate to .37 would be 8 of 20
    rng = np.random.default_rng(7)
    for _ in range(200):
        scores, member = rng.integers(0, 15, 50).astype(float), rng.random(50) < 0.5
        fpr = rng.random()
        point = tpr_at_fpr(scores, member, fpr)
        assert point.fp <= fpr * point.n_nonmembers + 1e-9
    scores, member = np.array([5.0, 4.0, 3.0]), np.array([False, True, False])
    assert tpr_at_fpr(scores, member, 0.45).tp == 0  # 1 of 2 is nearer to .45 than 0, and above it


@pytest.mark.parametrize(("models", "above_6", "above_7"), [(16, 0.168, 0.026), (32, 0.079, 0.002), (100, 0.006, 0.0)])
def test_a_record_level_auc_has_a_null(models, above_6, above_7):
    # shares of unexposed records above .6 and .7, as counted on simulated records by other people's code
    assert null_share_above([0.6, 0.7], models, models) == pytest.approx([above_6, above_7], abs=0.012)
