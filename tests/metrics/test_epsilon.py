"""Epsilon lower bounds: independent values, brute force, and no bound above 0 where nothing leaks."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forgetmi.errors import AuditError
from forgetmi.metrics.epsilon import (
    clopper_pearson_epsilon,
    epsilon_over_thresholds,
    gdp_delta,
    gdp_epsilon,
)
from forgetmi.metrics.one_run_epsilon import (
    one_run_closed_form,
    one_run_epsilon,
    one_run_gaussian_epsilon,
    one_run_p_value,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "reference_values" / "membership"


def reference(key):
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference values beside the repository ({REFERENCE.parent.name}/{REFERENCE.name})")
    return json.loads((REFERENCE / "audit.json").read_text())[key]


class TestOneThreshold:
    @pytest.mark.parametrize(
        ("tp", "n_members", "fp", "n_nonmembers", "expected"),
        [
            (90, 100, 10, 100, 1.5421523947),
            (500, 1000, 10, 1000, 3.2420165921),
            (100, 100, 0, 100, 3.2813463491),
            (30, 100, 30, 100, 0.0),
            (0, 100, 0, 100, 0.0),
            (10, 100, 90, 100, 0.0),
        ],
    )
    def test_known_values(self, tp, n_members, fp, n_nonmembers, expected):
        bound = clopper_pearson_epsilon(tp, n_members, fp, n_nonmembers, delta=0.0)
        assert bound.value == pytest.approx(expected, abs=1e-9)

    def test_independent_values(self):
        rows = reference("clopper_pearson_single_threshold")
        assert len(rows) > 8
        for row in rows:
            counts = [row[name] for name in ("tp", "n_pos", "fp", "n_neg")]
            for name, delta in (("0", 0.0), ("1e-05", 1e-5), ("0.01", 0.01)):
                bound = clopper_pearson_epsilon(*counts, delta=delta, alpha=row["alpha"])
                expected = row[f"scipy_eps_delta{name}"]["max"]
                assert bound.value == pytest.approx(max(0.0, expected or 0.0), abs=1e-9)
            gaussian = clopper_pearson_epsilon(*counts, delta=1e-5, alpha=row["alpha"], law="gaussian_dp")
            assert gaussian.mu == pytest.approx(max(0.0, row["scipy_gdp_mu_lower"] or 0.0), abs=1e-9)

    def test_from_the_intervals_of_another_function(self):
        tpr = stats.binomtest(37, 60).proportion_ci(0.95).low
        fpr = stats.binomtest(9, 80).proportion_ci(0.95).high
        expected = np.log(max((tpr - 0.02) / fpr, (1 - fpr - 0.02) / (1 - tpr)))
        assert clopper_pearson_epsilon(37, 60, 9, 80, delta=0.02).value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(("n", "most"), [(20, 1.597), (50, 2.570), (171, 3.826), (500, 4.906), (5000, 7.212)])
    def test_the_most_that_a_sample_certifies(self, n, most):
        bound = clopper_pearson_epsilon(n // 2, n, n // 4, n, delta=0.0)
        q = 0.025 ** (1 / n)
        assert bound.most_certifiable == pytest.approx(np.log(q / (1 - q)), abs=1e-9)
        assert bound.most_certifiable == pytest.approx(most, abs=5e-4)
        assert bound.value < bound.most_certifiable

    def test_monotone_and_both_directions(self):
        values = [clopper_pearson_epsilon(tp, 50, 5, 60, delta=1e-3).value for tp in range(51)]
        assert values == sorted(values) and values[0] == 0.0 < values[-1]
        values = [clopper_pearson_epsilon(40, 50, fp, 60, delta=1e-3).value for fp in range(61)]
        assert values == sorted(values, reverse=True) and values[-1] == 0.0
        assert clopper_pearson_epsilon(40, 50, 5, 60, delta=0, alpha=0.2).value > values[5]
        # who is a member and who is not may change places: the two directions do
        one, other = (clopper_pearson_epsilon(*c, delta=0.01).value for c in ((30, 50, 1, 60), (59, 60, 20, 50)))
        assert one == pytest.approx(other, abs=1e-12)
        assert clopper_pearson_epsilon(5, 100, 0, 100, delta=0.05).value == 0.0  # delta above the lower end of TPR

    def test_what_it_says(self):
        bound = clopper_pearson_epsilon(90, 100, 10, 100, delta=1e-5)
        said = bound.to_dict()
        json.dumps(said, allow_nan=False)
        assert said["counts"] == {"tp": 90, "n_members": 100, "fp": 10, "n_nonmembers": 100, "n_thresholds": 1}
        assert bound.sentence == (
            "With 95% confidence epsilon is at least 1.542 (delta 1e-05); 200 patients could have certified at most "
            "3.281."
        )
        nothing = clopper_pearson_epsilon(10, 100, 10, 100, delta=0.0, alpha=0.1)
        assert nothing.sentence.startswith("No epsilon above 0 is proven (delta 0, 90% confidence); 200 patients could")
        gaussian = clopper_pearson_epsilon(90, 100, 10, 100, delta=1e-5, law="gaussian_dp")
        assert len(gaussian.assumptions) == len(bound.assumptions) + 1
        assert gaussian.value == gdp_epsilon(gaussian.mu, 1e-5)

    @pytest.mark.parametrize(
        ("counts", "settings"),
        [
            ((101, 100, 0, 10), {}),
            ((-1, 100, 0, 10), {}),
            ((0, 0, 0, 10), {}),
            ((1, 10, 0, 10), {"delta": 1.0}),
            ((1, 10, 0, 10), {"delta": -1e-9}),
            ((1, 10, 0, 10), {"alpha": 0.0}),
            ((9, 10, 0, 10), {"law": "gaussian_dp"}),
            ((9, 10, 0, 10), {"law": "gauss"}),
        ],
    )
    def test_refusals(self, counts, settings):
        with pytest.raises(AuditError):
            clopper_pearson_epsilon(*counts, **{"delta": 0.0, **settings})


class TestSeveralThresholds:
    def test_thresholds_set_beforehand_by_hand(self):
        draw = np.random.default_rng(0)
        member = np.arange(300) < 120
        scores = np.round(draw.normal(size=300) + 2.0 * member, 1)  # ties
        cuts = [0.0, 1.0, 2.5]
        each = [
            clopper_pearson_epsilon(
                int((scores[member] >= cut).sum()), 120, int((scores[~member] >= cut).sum()), 180,
                delta=1e-5, alpha=0.05 / 3,
            ).value
            for cut in cuts
        ]  # fmt: skip
        bound = epsilon_over_thresholds(scores, member, patients=np.arange(300), delta=1e-5, thresholds=cuts)
        assert bound.value == max(each) > 0
        assert bound.threshold == cuts[int(np.argmax(each))] and bound.counts["n_thresholds"] == 3
        single = epsilon_over_thresholds(scores, member, patients=np.arange(300), delta=1e-5, thresholds=[1.0])
        expected = clopper_pearson_epsilon(
            int((scores[member] >= 1.0).sum()), 120, int((scores[~member] >= 1.0).sum()), 180, delta=1e-5
        )
        assert single.value == expected.value and single.most_certifiable == expected.most_certifiable

    def test_ranks_by_hand(self):
        """20 non-members: thresholds at ranks 1, 2, 4, 8, 16, with 0, 1, 3, 7, 15 of them above, at alpha / 5."""
        member = np.arange(50) < 30
        scores = np.append(np.linspace(0.51, 1.5, 30), np.linspace(0, 1, 20))
        above = [int((scores[:30] > np.sort(scores[30:])[-k]).sum()) for k in (1, 2, 4, 8, 16)]
        each = [
            clopper_pearson_epsilon(tp, 30, k - 1, 20, delta=0.0, alpha=0.01).value
            for tp, k in zip(above, (1, 2, 4, 8, 16), strict=True)
        ]
        bound = epsilon_over_thresholds(scores, member, patients=np.arange(50), delta=0.0)
        assert bound.value == max(each) > 0 and bound.counts["n_thresholds"] == 5
        perfect = epsilon_over_thresholds(member.astype(float), member, patients=np.arange(50), delta=0.0)
        assert perfect.value == perfect.most_certifiable == bound.most_certifiable

    def test_order_and_scale_change_nothing(self):
        draw = np.random.default_rng(1)
        member, scores = np.arange(200) < 80, draw.normal(size=200)
        scores[member] += 1.5
        shuffled = draw.permutation(200)

        def value(scores, member):
            return epsilon_over_thresholds(scores, member, patients=np.arange(200), delta=1e-5).value

        assert value(scores, member) == value(scores[shuffled], member[shuffled]) > 0
        assert value(scores, member) == value(np.exp(scores), member)

    def test_one_percent_exposed_is_found_and_the_inverted_attack_is_not(self):
        member = np.arange(4000) < 2000
        scores = np.random.default_rng(2).normal(size=4000)
        assert epsilon_over_thresholds(scores, member, patients=np.arange(4000), delta=1e-5).value == 0.0
        scores[:20] = 50.0 + np.arange(20)
        bound = epsilon_over_thresholds(scores, member, patients=np.arange(4000), delta=1e-5)
        # the first threshold: 20 of 2,000 above, no non-member; 11 thresholds
        first = clopper_pearson_epsilon(20, 2000, 0, 2000, delta=1e-5, alpha=0.05 / 11)
        assert bound.value >= first.value > 0.3
        assert bound.value == pytest.approx(first.value, abs=0.3)

    @pytest.mark.parametrize("law", ["dp", "gaussian_dp"])
    @pytest.mark.parametrize("ties", [False, True])
    def test_nothing_is_proven_where_nothing_leaks(self, law, ties):
        """400 runs of 200 + 200, alpha 0.05, as the published comparison of bounds under no leakage; each at most
        0.05 within Monte-Carlo error, whereas the best threshold without a bound lies above 0 in most runs."""
        draw = np.random.default_rng(3)
        member, patients = np.arange(400) < 200, np.arange(400)
        above = {"ranks": 0, "fixed": 0}
        for _ in range(400):
            scores = draw.normal(size=400)
            scores = np.round(scores) if ties else scores
            settings = {"patients": patients, "delta": 1e-5, "law": law}
            above["ranks"] += epsilon_over_thresholds(scores, member, **settings).value > 0
            above["fixed"] += epsilon_over_thresholds(scores, member, thresholds=[0.5, 1.0], **settings).value > 0
        limit = 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)
        assert all(count <= limit for count in above.values()), above

    def test_the_bound_stays_below_a_known_epsilon(self):
        """Randomised response at epsilon 1: calls are right with chance e / (1 + e), which few bounds may exceed."""
        draw = np.random.default_rng(4)
        member, right = np.arange(400) < 200, np.e / (1 + np.e)
        values = []
        for _ in range(300):
            scores = np.where(draw.random(400) < right, member, ~member) + draw.random(400) / 10
            values.append(epsilon_over_thresholds(scores, member, patients=np.arange(400), delta=0.0).value)
        assert np.mean(np.array(values) > 1.0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
        assert np.median(values) > 0.3  # and it is not vacuous

    def test_records_are_not_patients(self):
        member, scores = np.arange(20) < 10, np.arange(20.0)
        patients = np.arange(20) // 2
        with pytest.raises(AuditError, match="10 of 20 scores are of a patient who has another"):
            epsilon_over_thresholds(scores, member, patients=patients, delta=1e-5)
        with pytest.raises(AuditError, match="one score a patient"):
            epsilon_over_thresholds(scores, member, patients=np.arange(19), delta=1e-5)
        with pytest.raises(AuditError, match="finite"):
            epsilon_over_thresholds(scores, member, patients=np.arange(20), delta=1e-5, thresholds=[np.nan])


class TestGaussian:
    def test_independent_values(self):
        for row in reference("gaussian_dp"):
            for delta, expected in row["eps_at_delta_dp_accounting_gaussian"].items():
                assert gdp_epsilon(row["mu"], float(delta)) == pytest.approx(expected, abs=1e-8)
            for epsilon, expected in row["delta_at_eps_formula"].items():
                assert gdp_delta(row["mu"], float(epsilon)) == pytest.approx(expected, rel=1e-9, abs=1e-30)

    def test_known_values_and_limits(self):
        assert gdp_epsilon(1.0, 1e-5) == pytest.approx(4.3771781, abs=1e-7)
        assert gdp_delta(1.0, 0.0) == pytest.approx(0.3829249, abs=1e-7)
        assert gdp_epsilon(0.0, 1e-5) == gdp_epsilon(1e-6, 1e-5) == 0.0
        assert gdp_delta(0.0, 0.0) == 0.0
        for mu in (1e-4, 0.1, 1.0, 30.0, 300.0):  # back and forth, also where e^epsilon overflows
            assert gdp_delta(mu, gdp_epsilon(mu, 1e-5)) == pytest.approx(1e-5, rel=1e-5)

    @pytest.mark.parametrize(("mu", "delta"), [(-1.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (float("nan"), 0.1)])
    def test_refusals(self, mu, delta):
        with pytest.raises(AuditError):
            gdp_epsilon(mu, delta)


class TestOneRun:
    @pytest.mark.parametrize(
        ("m", "r", "v", "delta", "expected"),
        [
            (100, 100, 60, 0.0, 0.0519149),
            (100, 100, 75, 0.0, 0.7022139),
            (100, 100, 100, 0.0, 3.4929654),
            (1000, 100, 90, 0.0, 1.6308232),
            (1000, 100, 90, 1e-3, 0.3884735),
            (1000, 50, 50, 1e-3, 0.0),
            (100, 100, 50, 0.0, 0.0),
            (100, 100, 0, 1e-5, 0.0),
        ],
    )
    def test_known_values(self, m, r, v, delta, expected):
        assert one_run_epsilon(m, r, v, delta=delta).value == pytest.approx(expected, abs=1e-7)

    def test_independent_values(self):
        """The sources' own solvers stop at 2e-7; the closed form is exact."""
        for row in reference("one_run"):
            counts = row["m"], row["r"], row["v"]
            for alpha in (0.05, 0.01):
                bound = one_run_epsilon(*counts, delta=row["delta"], alpha=alpha)
                assert bound.value == pytest.approx(row[f"jax_privacy_eps_p{alpha}"], abs=1e-6)
            if row["closed_form_delta0_p0.05"] is not None:
                assert one_run_epsilon(*counts, delta=0.0).value == pytest.approx(
                    row["closed_form_delta0_p0.05"], abs=1e-12
                )
            for epsilon, expected in row["jax_privacy_p_at_eps"].items():
                assert one_run_p_value(*counts, float(epsilon), row["delta"]) == pytest.approx(expected, abs=1e-9)
            expected = row["jax_privacy_fdp_eps_p0.05"]
            if expected is not None:
                bound = one_run_gaussian_epsilon(row["r"], row["v"], n_canaries=row["m"], delta=row["delta"])
                assert bound.value == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("m", "r", "v", "delta"), [(30, 20, 17, 1e-3), (40, 40, 33, 2e-3), (12, 12, 12, 1e-4)])
    def test_the_p_value_by_summing(self, m, r, v, delta):
        for epsilon in (0.0, 0.3, 1.0, 2.5):
            law = stats.binom(r, 1 / (1 + np.exp(-epsilon)))
            extra = max(sum(law.pmf(k) for k in range(v - i, v)) / i for i in range(1, v + 1))
            expected = min(1.0, sum(law.pmf(k) for k in range(v, r + 1)) + 2 * m * delta * extra)
            assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9)
        # the bound is the first epsilon that is not rejected: none below it is
        value = one_run_epsilon(m, r, v, delta=delta).value
        assert value > 0
        below = [one_run_p_value(m, r, v, e, delta) for e in np.linspace(0, value - 1e-9, 500)]
        assert max(below) <= 0.05 and one_run_p_value(m, r, v, value + 1e-9, delta) > 0.05

    def test_limits(self):
        grid = np.arange(0, 41)
        values = one_run_closed_form(np.full(41, 40), grid, 0.05)
        assert (np.diff(values) >= 0).all() and (values[:21] == 0).all() and values[-1] > 2
        assert [one_run_epsilon(60, 40, int(v), delta=0.0).value for v in grid] == pytest.approx(values, abs=1e-14)
        # abstaining does not reduce delta's part; without delta the number of canaries does not matter
        assert one_run_epsilon(50, 40, 35, delta=1e-3).value > one_run_epsilon(500, 40, 35, delta=1e-3).value
        assert one_run_epsilon(50, 40, 35, delta=0).value == one_run_epsilon(500, 40, 35, delta=0).value
        bound = one_run_epsilon(50, 40, 35, delta=1e-4)
        assert bound.most_certifiable == one_run_epsilon(50, 40, 40, delta=1e-4).value > bound.value
        json.dumps(bound.to_dict(), allow_nan=False)

    def test_the_gaussian_bound_is_the_first_that_is_allowed(self):
        """The recursion at one mu at a time, by bisection: the same root as by grids."""

        def refuted(mu, m, r, v):
            law = stats.norm
            h, g = 0.05 * (r - v) / m, 0.05 * v / m
            for i in range(v, 0, -1):
                larger = max(h, law.cdf(law.ppf(g) - mu))
                h, g = larger, g + (i - 1) / (r - i + 1) * (larger - h)
            return g + h > r / m

        low, high = 0.0, 10.0
        for _ in range(45):
            middle = (low + high) / 2
            low, high = (middle, high) if refuted(middle, 80, 30, 26) else (low, middle)
        assert one_run_gaussian_epsilon(30, 26, n_canaries=80, delta=1e-5).mu == pytest.approx(low, abs=1e-9)
        assert one_run_gaussian_epsilon(30, 0, n_canaries=80, delta=1e-5).value == 0.0

    def test_nothing_is_proven_where_nothing_leaks(self):
        """Guesses by coin: the share above 0 is the exact tail of the binomial, at most alpha, for every count."""
        for r in (10, 37, 100):
            chances = stats.binom(r, 0.5).pmf(np.arange(r + 1))
            proven = one_run_closed_form(np.full(r + 1, r), np.arange(r + 1), 0.05) > 0
            assert 0.0 < chances[proven].sum() <= 0.05
            gaussian = [one_run_gaussian_epsilon(r, v, n_canaries=r, delta=1e-5).mu > 1e-9 for v in range(r + 1)]
            assert 0.0 < chances[gaussian].sum() <= 0.05

    @pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 0, 0), (10, 5, -1)])
    def test_refusals(self, counts):
        with pytest.raises(AuditError, match="guesses"):
            one_run_epsilon(*counts, delta=0.0)
        with pytest.raises(AuditError, match="guesses"):
            one_run_p_value(*counts, 1.0, 0.0)
        with pytest.raises(AuditError, match="delta 0"):
            one_run_gaussian_epsilon(5, 5, n_canaries=5, delta=0.0)
        with pytest.raises(AuditError, match="epsilon"):
            one_run_p_value(5, 5, 5, -1.0, 0.0)
