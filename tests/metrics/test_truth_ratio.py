"""Truth ratio and its relatives: numbers worked by hand, published values, limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from forgetmi.errors import AuditError
from forgetmi.metrics.truth_ratio import option_probability, truth_ratios

FILE = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning" / "metrics_functions.json"
PEER_EPSILON = 1e-10  # what published code adds to denominators


@pytest.fixture(scope="module")
def published():
    if not FILE.is_file():
        pytest.skip("the folder of reference values is not here")
    return json.loads(FILE.read_text())


def given(published):
    """(right [N], wrong [N, A]) mean negative log-likelihoods."""
    inputs = published["truth_ratio"]["inputs"]
    keys = list(inputs["correct"])
    return (
        np.array([inputs["correct"][key]["avg_loss"] for key in keys]),
        np.array([inputs["wrong"][key]["avg_loss"] for key in keys]),
    )


def test_both_means_by_hand():
    # wrong answers of probability 1/8 and 1/2, right one 1/4: (1/8 + 1/2) / 2 / (1/4) = 5/4; sqrt(1/16) / (1/4) = 1
    right, wrong = -np.log([0.25]), -np.log([[0.125, 0.5]])
    assert truth_ratios(right, wrong).values == pytest.approx([1.25])
    assert truth_ratios(right, wrong, averaging="geometric").values == pytest.approx([1.0])


def test_aggregators_by_hand():
    ratios = truth_ratios(-np.log([0.5, 0.25]), -np.log([[0.25], [0.5]]))
    assert ratios.values == pytest.approx([0.5, 2.0])
    assert ratios.closer_to_1_better().values == pytest.approx([0.5, 0.5])
    assert ratios.true_better().values == pytest.approx([0.5, 0.0])
    assert ratios.prob_mean().values == pytest.approx([2 / 3, 1 / 3])


def test_arithmetic_is_never_the_smaller_and_equal_where_wrong_answers_are():
    draw = np.random.default_rng(0)
    right, wrong = draw.exponential(size=50), draw.exponential(size=(50, 4))
    wrong[:5] = wrong[:5, :1]
    paper, code = truth_ratios(right, wrong).logs, truth_ratios(right, wrong, averaging="geometric").logs
    assert (paper[5:] > code[5:]).all()
    assert paper[:5] == pytest.approx(code[:5])


def test_a_question_with_fewer_wrong_answers_is_that_question_alone():
    right, wrong = [0.3, 0.4], [[1.0, 2.0, np.nan], [0.5, 0.6, 0.7]]
    for averaging in ("arithmetic", "geometric"):
        alone = truth_ratios([0.3], [[1.0, 2.0]], averaging=averaging).logs
        assert truth_ratios(right, wrong, averaging=averaging).logs[:1] == pytest.approx(alone)
    assert option_probability(right, wrong).values[:1] == pytest.approx(option_probability([0.3], [[1.0, 2.0]]).values)


def test_missing_answers_are_counted_and_left_out():
    ratios = truth_ratios([0.3, np.nan, 0.2], [[1.0], [1.0], [np.nan]])
    assert np.isnan(ratios.logs).tolist() == [False, True, True]
    figure = ratios.closer_to_1_better().figure(np.arange(3), np.random.default_rng(0))
    assert figure.value == pytest.approx(np.exp(-0.7))
    assert figure.counts["n_without_value"] == 2
    assert np.isnan(option_probability([0.3, np.nan, 0.2], [[1.0], [1.0], [np.nan]]).values).tolist() == [
        False, True, True,
    ]  # fmt: skip


def test_a_destroyed_model_has_figures_still():
    # 2,000 nats a token: probabilities underflow, ratios overflow
    ratios = truth_ratios([2000.0, 0.1], [[0.1], [2000.0]])
    assert ratios.closer_to_1_better().values == pytest.approx([0.0, 0.0])
    assert ratios.true_better().values == pytest.approx([0.0, 1.0])
    assert ratios.prob_mean().values == pytest.approx([0.0, 1.0])
    assert option_probability([2000.0, 0.1], [[0.1], [2000.0]]).values == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize(
    ("right", "wrong"), [([1.0], [1.0]), ([1.0, 2.0], [[1.0]]), ([np.inf], [[1.0]]), ([1.0], [[]])]
)
def test_what_does_not_fit_is_refused(right, wrong):
    with pytest.raises(AuditError):
        truth_ratios(right, wrong)
    with pytest.raises(AuditError):
        option_probability(right, wrong)


def test_published_ratios_are_the_geometric_ones(published):
    right, wrong = given(published)
    ratios = truth_ratios(right, wrong, averaging="geometric")
    # They divide by p + 1e-10: their value from ours, exactly.
    p = np.exp(-right)
    of_theirs = ratios.values * p / (p + PEER_EPSILON)
    for aggregator in ("closer_to_1_better", "true_better"):
        expected = published["truth_ratio"].get(aggregator, published.get(aggregator))
        scores = [row["score"] for row in expected["value_by_index"].values()]
        assert of_theirs == pytest.approx(scores, rel=1e-12)
        assert getattr(ratios, aggregator)().values.mean() == pytest.approx(expected["agg_value"], abs=1e-8)
    expected = published["truth_ratio"].get("prob_mean", published.get("prob_mean"))
    assert ratios.prob_mean().values == pytest.approx(
        [row["score"] for row in expected["value_by_index"].values()], abs=1e-9
    )
    assert ratios.prob_mean().values.mean() == pytest.approx(expected["agg_value"], abs=1e-9)
    # and not the paper's
    assert truth_ratios(right, wrong).closer_to_1_better().values.mean() != pytest.approx(
        published["truth_ratio"]["closer_to_1_better"]["agg_value"], abs=1e-3
    )


def test_published_option_probability_is_the_one_per_token(published):
    right, wrong = given(published)
    expected = published["probability_w_options"]
    found = option_probability(right, wrong, per_token=True).values
    assert found == pytest.approx([row["prob"] for row in expected["value_by_index"].values()], abs=1e-9)
    assert found.mean() == pytest.approx(expected["agg_value"], abs=1e-9)
