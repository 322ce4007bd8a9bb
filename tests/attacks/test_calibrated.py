"""Calibrated attacks and attacks P and R against closed forms, brute force and other people's values."""

import numpy as np
import pytest

from forgetmi.attacks.membership import moments as moments_module
from forgetmi.attacks.membership.calibrated import (
    CalibratedAttack,
    PopulationAttack,
    ReferenceAttack,
    calibrated_scores,
    population_standing,
    reference_standing,
)
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from tests.attacks.reference_values import arrays
from tests.attacks.synthetic import only, parts, run


def drawn(n_references=12, n=30, seed=0, digits=9):
    rng = np.random.default_rng(seed)
    seen = rng.random((n_references, n)) < 0.5
    seen[0] = False
    return rng.exponential(size=n).round(digits), rng.exponential(size=(n_references, n)).round(digits), seen


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("ending", ["", "_2aug"])
def test_reference_values(centre, ending):
    given = arrays("inputs")
    scores = calibrated_scores(
        given[f"lira/target_phi{ending}"], given[f"lira/phi{ending}"], given["lira/keep"], centre=centre
    )
    expected = arrays("lira")[f"even{ending}/tf_privacy/offset_out_{centre}"]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_calibrated_brute_force(centre, monkeypatch):
    monkeypatch.setattr(moments_module, "_BLOCK", 50)
    loss, references, seen = drawn()
    middle = {"mean": np.mean, "median": np.median}[centre]
    expected = [middle(references[~seen[:, i], i]) - loss[i] for i in range(30)]
    np.testing.assert_allclose(calibrated_scores(-loss, -references, seen, centre=centre), expected, rtol=1e-12)


def test_calibrated_limits():
    loss, references, seen = drawn()
    # the reference is the attacked model itself
    assert (calibrated_scores(-loss, -loss[None], np.zeros((1, 30), dtype=bool)) == 0).all()
    # references that find all records equally hard: the order is that of the loss
    constant = calibrated_scores(-loss, np.full((12, 30), -0.7), seen)
    assert (np.argsort(constant) == np.argsort(-loss)).all()
    # references that saw the record say nothing
    other = np.where(seen, references + 100, references)
    np.testing.assert_array_equal(calibrated_scores(-loss, -other, seen), calibrated_scores(-loss, -references, seen))


def test_standing_brute_force_with_ties(monkeypatch):
    monkeypatch.setattr(moments_module, "_BLOCK", 50)
    loss, references, seen = drawn(digits=1)
    standing = reference_standing(loss, references, seen)
    others = [references[~seen[:, i], i] for i in range(30)]
    assert standing.equal.sum() > 2
    for i, values in enumerate(others):
        assert standing.n[i] == values.size
        assert standing.below[i] == (values < loss[i]).sum()
        assert standing.equal[i] == (values == loss[i]).sum()
        assert standing.scores[i] == pytest.approx(np.mean((values > loss[i]) + 0.5 * (values == loss[i])))
    population = references[0]
    standing = population_standing(loss, population)
    np.testing.assert_array_equal(standing.below, (population[None] < loss[:, None]).sum(axis=1))
    np.testing.assert_array_equal(standing.equal, (population[None] == loss[:, None]).sum(axis=1))


@pytest.mark.parametrize("n", [20, 37, 200])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.29, 0.5])
def test_false_positive_rate_on_the_calibrating_losses(n, alpha):
    """Attack P on its own population, attack R on the losses that it takes its thresholds from: floor(alpha n) / n."""
    losses = np.random.default_rng(0).permutation(np.arange(float(n)))
    most = int(np.floor(alpha * n + 1e-9))
    assert population_standing(losses, losses).called(alpha).sum() == most
    for k in range(n):  # reference k is the attacked model, and one of the references too
        called = reference_standing(losses[[k]], losses[:, None], np.zeros((n, 1), dtype=bool)).called(alpha)
        assert called[0] == (losses[k] < most)
    # between two losses: the same rule as loss <= the floor(alpha n)-th smallest
    between = np.arange(n) - 0.5
    np.testing.assert_array_equal(population_standing(between, losses).called(alpha), between <= most - 1)


def test_ties_never_push_the_rate_above_alpha():
    losses = np.repeat([1.0, 2.0, 3.0], [3, 4, 3])
    for alpha, expected in ((0.1, 0), (0.3, 3), (0.5, 3), (0.7, 7), (0.99, 7)):
        assert population_standing(losses, losses).called(alpha).sum() == expected
    assert population_standing(np.ones(50), np.ones(50)).called(0.05).sum() == 0


def test_false_positive_rate_on_fresh_records():
    rng = np.random.default_rng(1)
    rates = [population_standing(rng.normal(size=500), rng.normal(size=99)).called(0.1).mean() for _ in range(200)]
    # floor(9.9) / 100 = 0.09 in expectation; the sd of one rate is 0.032, of 200 of them 0.0023
    assert np.mean(rates) == pytest.approx(0.09, abs=0.008)


def test_too_few_losses_for_alpha_are_said():
    loss, references, seen = drawn()
    reason = reference_standing(loss, references, seen).called(0.01)
    assert isinstance(reason, str)
    assert "it takes 100" in reason
    result = run(ReferenceAttack(n_resamples=100), parts())  # 8 OUT references cannot mark 5 %
    assert result.called is None
    for key in ("balanced_accuracy", "share_called_member"):
        assert result.figures[key].value is None
        assert "FPR of 0.05: there are 8, it takes 20" in result.figures[key].reason
    assert result.figures["auc"].value > 0.8


def test_one_reference_gives_a_sign():
    loss, references, _ = drawn(n_references=1)
    references[0, :3] = loss[:3]
    scores = reference_standing(loss, references, np.zeros((1, 30), dtype=bool)).scores
    np.testing.assert_array_equal(2 * scores - 1, np.sign(references[0] - loss))


def test_equal_references_give_each_record_a_constant():
    loss, references, _ = drawn(n_references=1)
    expected = reference_standing(loss, references, np.zeros((1, 30), dtype=bool))
    many = reference_standing(loss, np.repeat(references, 40, axis=0), np.zeros((40, 30), dtype=bool))
    np.testing.assert_array_equal(many.scores, expected.scores)
    called = [many.called(alpha) for alpha in (0.05, 0.3, 0.9)]
    for one in called:  # the threshold is the constant, for every alpha
        np.testing.assert_array_equal(one, loss < references[0])


def test_low_losses_are_members():
    """A peer's attack P has it the wrong way round: an AUC of 0.183 where -loss gives 0.818."""
    rng = np.random.default_rng(0)
    member = np.repeat([True, False], 500)
    loss = rng.normal(size=1000) - 1.3 * member
    population = rng.normal(size=2000)
    p = population_standing(loss, population)
    assert auc(p.scores, member) == pytest.approx(auc(-loss, member), abs=0.005)
    assert auc(p.scores, member) > 0.75
    assert p.called(0.05)[member].mean() > 4 * p.called(0.05)[~member].mean()
    references = rng.normal(size=(40, 1000))
    r = reference_standing(loss, references, np.zeros((40, 1000), dtype=bool))
    assert auc(r.scores, member) > 0.75
    assert r.called(0.05)[member].mean() > 4 * r.called(0.05)[~member].mean()


def test_order_of_records_and_references():
    loss, references, seen = drawn(digits=1)
    rng = np.random.default_rng(0)
    records, models = rng.permutation(30), rng.permutation(12)
    for scored in (
        lambda *data: calibrated_scores(*data, centre="median"),
        lambda *data: reference_standing(*data).scores,
        lambda *data: reference_standing(*data).called(0.5),
    ):
        seen[:] = False
        expected = scored(loss, references, seen)
        mixed = scored(loss[records], references[models][:, records], seen[models][:, records])
        np.testing.assert_array_equal(mixed, expected[records])


def test_refuses():
    loss, references, seen = drawn()
    everywhere = seen.copy()
    everywhere[:, 4:6] = True
    for scored in (calibrated_scores, reference_standing):
        with pytest.raises(AuditError, match="2 of 30 records have fewer than 1 reference model that did not see them"):
            scored(loss, references, everywhere)
        with pytest.raises(AuditError):
            scored(loss[1:], references, seen)
        with pytest.raises(AuditError, match="not finite"):
            scored(np.append(loss[1:], np.nan), references, seen)
    with pytest.raises(AuditError, match="two vectors"):
        population_standing(loss, loss[:0])
    with pytest.raises(AuditError, match="not finite"):
        population_standing(loss, [np.nan])
    with pytest.raises(AuditError, match="one query"):
        reference_standing(np.ones((30, 2)), np.ones((12, 30, 2)), seen)
    with pytest.raises(ConfigError, match="centre"):
        calibrated_scores(loss, references, seen, centre="mode")
    with pytest.raises(ConfigError) as error:
        CalibratedAttack(signal="los", centre="men", folds=1)
    assert len(error.value.problems) == 3
    for attack in (ReferenceAttack, PopulationAttack):
        with pytest.raises(ConfigError, match="alpha"):
            attack(alpha=0.0)


def test_the_attacks_score_with_the_functions():
    data = parts(n_references=64)
    sides = [data["forget"], data["test"]]
    seen = np.concatenate([part.references["shadows"].seen for part in sides], axis=1)

    def of(signal):
        own = np.concatenate([part.signals[signal] for part in sides])
        return own, np.concatenate([part.references["shadows"].signals[signal] for part in sides], axis=1)

    loss, references = of("loss")
    result = run(CalibratedAttack(n_resamples=100), data)
    np.testing.assert_array_equal(result.scores, calibrated_scores(-loss, -references, seen))
    assert "loss under OUT references - loss" in result.definition
    result = run(CalibratedAttack(n_resamples=100, signal="scaled_logit", centre="median"), data)
    np.testing.assert_array_equal(result.scores, calibrated_scores(*of("scaled_logit"), seen, centre="median"))
    assert result.figures["auc"].value > 0.85
    result = run(ReferenceAttack(n_resamples=100), data)
    standing = reference_standing(loss, references, seen)
    np.testing.assert_array_equal(result.scores, standing.scores)
    np.testing.assert_array_equal(result.called, standing.called(0.05))
    assert result.figures["share_called_member"].value == standing.called(0.05)[:60].mean()
    assert "floor(0.05 n)" in result.definition
    assert (result.fold == -1).all()
    result = run(PopulationAttack(n_resamples=100, alpha=0.2), data)
    standing = population_standing(loss, data["population"].signals["loss"])
    np.testing.assert_array_equal(result.scores, standing.scores)
    np.testing.assert_array_equal(result.called, standing.called(0.2))
    assert run(ReferenceAttack(n_resamples=100), only(data, "retrained")).options["reference_models"] == "retrained"
