"""Figures carry their meaning; distance to retrained in closed form."""

import itertools
import json

import numpy as np
import pytest

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, absent, measure
from forgetmi.metrics.forgetting import cosine_similarity, gap_to_retrained, tug_of_war, tug_of_war_mia
from forgetmi.metrics.intervals import Interval, PatientBootstrap
from forgetmi.metrics.roc import mean_statistic

INTERVAL = Interval(0.4, 0.6, 0.95, "test", 5)


def test_measured_figure_is_the_plain_mean_and_json():
    values = np.array([0.0, 1.0, 1.0, 1.0])
    bootstrap = PatientBootstrap(["a", "a", "b", "c"], np.random.default_rng(0))
    figure = measure("x", mean_statistic(values), bootstrap, direction="useful_above", sentence="{value:.0%} right.")
    assert (figure.value, figure.n_patients, figure.n_samples, figure.sentence) == (0.75, 3, 4, "75% right.")
    assert json.loads(json.dumps(figure.to_dict(), allow_nan=False))["interval"]["n_patients"] == 3
    gone = absent("y", "no class", bootstrap, direction="useful_above")
    assert gone.to_dict()["value"] is None
    assert gone.to_dict()["interval"]["reason"] == "no class"


def test_a_figure_is_finite_or_says_why_not():
    for value, reason in ((float("nan"), None), (float("inf"), None), (None, None), (0.5, "why")):
        with pytest.raises(AuditError):
            Figure("x", value, INTERVAL, 5, 5, "useful_above", "", reason=reason)


def test_forgetting_more_than_retrained_is_named():
    auc = Figure("auc", 0.5, INTERVAL, 5, 5, "remembers_above", "")
    loss = Figure("loss", 0.5, INTERVAL, 5, 5, "remembers_below", "")
    assert "over-forgetting" in auc.reading("below")
    assert "remembers" in auc.reading("above")
    assert "over-forgetting" in loss.reading("above")
    assert "remembers" in loss.reading("below")
    assert auc.reading("inside") == loss.reading("inside") == "as a retrained model"


def test_gap_to_a_distribution():
    gap = gap_to_retrained(0.7, [0.5, 0.6, 0.4])
    assert (gap.position, gap.low, gap.high, gap.n_retrained) == ("above", 0.4, 0.6, 3)
    assert gap.mean_gap == pytest.approx(0.2)
    assert gap.z == pytest.approx(2.0)  # 0.2 / 0.1
    assert gap.position_widened is None
    assert gap_to_retrained(0.3, [0.5, 0.6, 0.4]).position == "below"
    assert gap_to_retrained(0.4, [0.5, 0.6, 0.4]).position == "inside"
    json.dumps(gap.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("ends", "position"), [((0.55, 0.9), "inside"), ((0.61, 0.9), "above"), ((0.1, 0.39), "below")]
)
def test_gap_with_an_interval(ends, position):
    interval = Interval(*ends, 0.95, "test", 5)
    assert gap_to_retrained(0.7, [0.4, 0.6], interval).position_widened == position
    assert gap_to_retrained(0.7, [0.4, 0.6], Interval.none("x", n_patients=1)).position_widened is None


def test_no_z_without_a_spread():
    assert gap_to_retrained(0.7, [0.5]).z is None
    assert "no spread" in gap_to_retrained(0.7, [0.5]).z_reason
    assert "do not differ" in gap_to_retrained(0.7, [0.1, 0.1, 0.1]).z_reason
    for value, retrained in ((0.5, []), (float("nan"), [0.5]), (0.5, [float("inf")])):
        with pytest.raises(AuditError):
            gap_to_retrained(value, retrained)


def test_cosine_in_closed_form():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(6, 4))
    patients = ["a", "a", "b", "c", "d", "e"]
    assert cosine_similarity(outputs, 3 * outputs, patients, rng).value == pytest.approx(1.0)
    assert cosine_similarity(outputs, -outputs, patients, rng).value == pytest.approx(-1.0)
    figure = cosine_similarity([[1, 0], [1, 0]], [[0, 2], [1, 1]], ["a", "b"], rng)
    assert figure.value == pytest.approx((0 + np.sqrt(0.5)) / 2)
    assert figure.interval.contains(figure.value)
    with pytest.raises(AuditError, match="1 of 2"):
        cosine_similarity([[0, 0], [1, 0]], [[0, 2], [1, 1]], ["a", "b"], rng)
    with pytest.raises(AuditError, match="same records"):
        cosine_similarity(outputs, outputs[:3], patients, rng)


def tow(own, retrained):
    names = ("retrained_forget", "retrained_retain", "retrained_test")
    return tug_of_war(*own, **dict(zip(names, retrained, strict=True)))


def test_tow_is_one_only_for_equals():
    grid = (0.0, 0.3, 0.8, 1.0)
    for own in itertools.product(grid, repeat=3):
        for retrained in itertools.product(grid, repeat=3):
            value = tow(own, retrained)
            assert 0.0 <= value <= 1.0
            assert (value == 1.0) == (own == retrained)
    assert tow((0.9, 0.8, 0.7), (0.8, 0.9, 0.5)) == pytest.approx(0.9 * 0.9 * 0.8)
    # the sign of a gap does not matter
    assert tow((0.9, 0.8, 0.7), (0.8, 0.8, 0.7)) == pytest.approx(tow((0.7, 0.8, 0.7), (0.8, 0.8, 0.7)))
    assert tug_of_war_mia(0.6, 0.8, 0.7, retrained_mia=0.5, retrained_retain=0.8, retrained_test=0.5) == pytest.approx(
        0.9 * 0.8
    )


@pytest.mark.parametrize("wrong", [90.0, -0.1, float("nan")])
def test_tow_refuses_percentages(wrong):
    for position in range(6):
        values = [0.5] * 6
        values[position] = wrong
        with pytest.raises(AuditError, match=r"\[0, 1\]"):
            tow(values[:3], values[3:])
