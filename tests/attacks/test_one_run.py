"""The one-run audit: coins by patient, guesses by rank, and no bound where nothing leaks."""

import json

import numpy as np
import pytest
from scipy import stats

from forgetmi.attacks.membership.one_run import one_run_audit
from forgetmi.errors import AuditError
from forgetmi.metrics.one_run_epsilon import one_run_epsilon


def coins(m, seed=0):
    return np.random.default_rng(seed).random(m) < 0.5


class TestAudit:
    def test_by_hand(self):
        scores = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0])
        included = np.array([1, 1, 0, 1, 1, 0, 0, 1, 0, 0], dtype=bool)
        result = one_run_audit(
            scores, included, np.random.default_rng(0), patients=np.arange(10), guesses=(4, 3), delta=0.0
        )
        # highest 4: in, in, out, in; lowest 3: in, out, out
        assert (result.guessed_in, result.guessed_out, result.guesses, result.correct) == (4, 3, 7, 5)
        assert result.p_value == pytest.approx(sum(stats.binom(7, 0.5).pmf(k) for k in (5, 6, 7)))
        assert result.bound == one_run_epsilon(10, 7, 5, delta=0.0, rule=result.bound.threshold_rule)
        said = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert said["guesses"] == 7 and said["bound"]["most_certifiable"] == one_run_epsilon(10, 7, 7, delta=0.0).value
        assert any("coin" in assumption for assumption in said["bound"]["assumptions"])
        assert "4 highest guessed in, the 3 lowest out" in said["definition"]

    @pytest.mark.parametrize("guesses", [(20, 30), (100, 0), (0, 1), "split"])
    def test_a_perfect_score_certifies_the_most_and_the_inverse_nothing(self, guesses):
        included = coins(200)
        settings = {"patients": np.arange(200), "guesses": guesses, "delta": 1e-6}
        perfect = one_run_audit(included.astype(float), included, np.random.default_rng(1), **settings)
        if guesses != (100, 0) or included.sum() >= 100:
            assert perfect.correct == perfect.guesses and perfect.bound.value == perfect.bound.most_certifiable
        inverse = one_run_audit(-included.astype(float), included, np.random.default_rng(1), **settings)
        assert inverse.bound.value == 0.0

    def test_order_changes_nothing_even_on_ties(self):
        draw = np.random.default_rng(2)
        included, patients = coins(300), draw.permutation(300)
        scores = np.round(draw.normal(size=300) + included)
        shuffled = draw.permutation(300)
        for guesses in ((60, 60), "split"):
            one, other = (
                one_run_audit(
                    scores[o], included[o], np.random.default_rng(3), patients=patients[o], guesses=guesses, delta=1e-6
                )
                for o in (np.arange(300), shuffled)
            )
            assert one == other
        # ties are broken by lot: members first in the array gain nothing
        included = np.arange(400) < 200
        constant = [
            one_run_audit(
                np.zeros(400), included, np.random.default_rng(s), patients=np.arange(400), guesses=(50, 50), delta=0.0
            ).correct
            for s in range(60)
        ]
        assert np.mean(constant) == pytest.approx(50, abs=3)

    def test_the_split_chooses_few_guesses_for_few_exposed_and_many_for_a_shift(self):
        included, draw = coins(2000), np.random.default_rng(4)
        noise = draw.normal(size=2000)
        settings = {"patients": np.arange(2000), "guesses": "split", "delta": 0.0}
        exposed = np.where(included & (draw.random(2000) < 0.1), 50.0, noise)
        few = one_run_audit(exposed, included, np.random.default_rng(5), **settings)
        assert few.guesses <= 150 and few.bound.value > 2.0
        shifted = one_run_audit(noise + 1.0 * included, included, np.random.default_rng(5), **settings)
        assert shifted.guesses > few.guesses and shifted.bound.value > 0.4
        assert "chosen on 1000 other canaries" in shifted.definition and shifted.n_canaries == 1000
        # delta counts m times: with a large one, few guesses prove nothing, and the choice knows it
        large = one_run_audit(noise + 1.0 * included, included, np.random.default_rng(5), **{**settings, "delta": 1e-4})
        assert 0.0 < large.bound.value < shifted.bound.value

    @pytest.mark.parametrize("guesses", [(40, 40), "split"])
    def test_nothing_is_proven_where_nothing_leaks(self, guesses):
        """400 runs without leakage: at most alpha above 0; the best of a grid of guesses is not a bound."""
        draw, above, grid = np.random.default_rng(6), 0, 0
        for _ in range(400):
            scores, included = draw.normal(size=400), draw.random(400) < 0.5
            settings = {"patients": np.arange(400), "delta": 0.0}
            above += one_run_audit(scores, included, draw, guesses=guesses, **settings).bound.value > 0
            if guesses != "split":
                values = [
                    one_run_audit(scores, included, draw, guesses=(k, k), **settings).bound.value
                    for k in (5, 10, 20, 40, 80, 160)
                ]
                grid += max(values) > 0
        assert above <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)
        assert guesses == "split" or grid > 2 * above

    def test_the_bound_stays_below_a_known_epsilon(self):
        """Each coin is shown truly with chance e / (1 + e): epsilon is 1, and few bounds may exceed it."""
        draw, truth = np.random.default_rng(7), np.e / (1 + np.e)
        values = []
        for _ in range(300):
            included = draw.random(200) < 0.5
            shown = np.where(draw.random(200) < truth, included, ~included)
            scores = shown + draw.random(200) / 10
            values.append(
                one_run_audit(scores, included, draw, patients=np.arange(200), guesses=(80, 80), delta=0.0).bound.value
            )
        assert np.mean(np.array(values) > 1.0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
        assert np.median(values) > 0.5

    def test_gaussian(self):
        included = coins(300)
        scores = np.random.default_rng(8).normal(size=300) + 2.0 * included
        settings = {"patients": np.arange(300), "guesses": (100, 100), "delta": 1e-5}
        plain, gaussian = (
            one_run_audit(scores, included, np.random.default_rng(0), law=law, **settings).bound
            for law in ("dp", "gaussian_dp")
        )
        assert gaussian.value > plain.value > 0 and len(gaussian.assumptions) == len(plain.assumptions) + 1

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"guesses": (30, 11)}, "30 guesses of 'in' and 11 of 'out' about 40 canaries"),
            ({"guesses": (-1, 5)}, "guesses"),
            ({"guesses": (0, 0)}, "guesses"),
            ({"patients": np.arange(40) // 2}, "one score"),
            ({"delta": 1.0}, "delta"),
            ({"alpha": 1.0}, "alpha"),
            ({"law": "renyi"}, "law"),
        ],
    )
    def test_refusals(self, change, match):
        settings = {"patients": np.arange(40), "guesses": (10, 10), "delta": 0.0, **change}
        with pytest.raises(AuditError, match=match):
            one_run_audit(np.arange(40.0), coins(40), np.random.default_rng(0), **settings)

    def test_too_few_to_split(self):
        with pytest.raises(AuditError, match="cannot be split"):
            one_run_audit(
                [1.0, 2, 3], [True, False, True], np.random.default_rng(0), patients=[1, 2, 3], guesses="split", delta=0
            )
