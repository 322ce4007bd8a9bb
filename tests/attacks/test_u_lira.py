"""U-LiRA and RULI: limits that theory gives, independent values, and what is told of exposed and safe patients."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from sklearn.neighbors import KernelDensity

from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.lira import lira_scores
from forgetmi.attacks.membership.result import PartSignals, References
from forgetmi.attacks.membership.ruli import RuliAttack, ruli_scores, vulnerability_view
from forgetmi.attacks.membership.u_lira import ULiraAttack, u_lira_scores
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from tests.attacks.synthetic import parts, run

REFERENCE = Path(__file__).parents[3] / "shared" / "reference_values" / "membership"
SCORES = pytest.mark.parametrize("scores", [u_lira_scores, ruli_scores], ids=["u_lira", "ruli"])


def laws(n=400, k=32, *, unlearned=0.0, spread=1.0, seed=0, q=1):
    """phi of n records, half of them unlearned by the attacked model, under it and under k shadows that unlearned half:
    N(difficulty, 1) without the record, N(difficulty + unlearned, spread) after unlearning it."""
    draw = np.random.default_rng(seed)
    difficulty, member = draw.normal(0, 2, (n, 1)), np.arange(n) < n // 2
    seen = draw.permuted(np.broadcast_to(np.arange(k)[:, None] < k // 2, (k, n)), axis=0)

    def phi(saw):
        saw = saw[..., None]
        return difficulty + unlearned * saw + np.where(saw, spread, 1.0) * draw.normal(size=(*saw.shape[:-1], q))

    return phi(member), phi(seen), seen, member


class TestScores:
    @pytest.mark.parametrize("variance", ["pervar", "fixvar"])
    @pytest.mark.parametrize("centre", ["median", "mean"])
    @pytest.mark.parametrize("target", ["unlearned", "retrained"])
    def test_independent_values(self, variance, centre, target):
        """64 unlearned and 64 retrained models; the attacked one is the first of either, and both firsts are left out
        of the references (found by trying: no other choice of models gives these values)."""
        if not REFERENCE.is_dir():
            pytest.skip(f"no reference values beside the repository ({REFERENCE.parent.name}/{REFERENCE.name})")
        arrays = np.load(REFERENCE / "inputs.npz")
        expected = np.load(REFERENCE / "lira.npz")[f"ulira/tf_privacy/{variance}_{centre}/target_is_{target}"]
        unlearned, retrained = arrays["nips23/unlearned"], arrays["nips23/retrained"]
        attacked = (unlearned if target == "unlearned" else retrained)[0]
        options = {"centre": centre, "variance": {"pervar": "per_record", "fixvar": "pooled"}[variance]}
        found = u_lira_scores(
            attacked, unlearned[1:], np.ones((63, 40), dtype=bool), retrained=retrained[1:], **options
        )
        assert found == pytest.approx(expected, abs=1e-9)
        both, seen = np.concatenate([unlearned[1:], retrained[1:]]), np.repeat([[True], [False]], 63, axis=0)
        found = u_lira_scores(attacked, both, np.repeat(seen, 40, axis=1), **options)
        assert found == pytest.approx(expected, abs=1e-9)

    @SCORES
    def test_exact_retraining_leaves_nothing_to_find(self, scores):
        """Both laws are one: balanced accuracy and AUC 0.5, within 3 sd of 2,000 records."""
        target, references, seen, member = laws(2000)
        found = scores(target, references, seen)
        called = found >= 0
        assert (called[member].mean() + 1 - called[~member].mean()) / 2 == pytest.approx(0.5, abs=3 * 0.5 / 2000**0.5)
        assert auc(found, member) == pytest.approx(0.5, abs=3 * 0.0129)

    def test_without_unlearning_it_is_online_lira(self):
        target, references, seen, _ = laws(unlearned=2.0)
        for options in ({}, {"centre": "median"}, {"variance": "pooled"}, {"variance": "total"}):
            expected = lira_scores(target, references, seen, mode="online", **options)
            assert u_lira_scores(target, references, seen, **options).tolist() == expected.tolist()

    @SCORES
    def test_the_accuracy_that_theory_gives(self, scores):
        """Equal laws one apart: with the true laws, accuracy Phi(1/2) = 0.691 and AUC Phi(1/sqrt 2) = 0.760."""
        target, references, seen, member = laws(2000, 256, unlearned=1.0)
        found = scores(target, references, seen)
        assert ((found >= 0) == member).mean() == pytest.approx(stats.norm.cdf(0.5), abs=0.04)
        assert auc(found, member) == pytest.approx(stats.norm.cdf(0.5**0.5), abs=0.04)

    @SCORES
    @pytest.mark.parametrize("shift", [-12.0, 12.0])
    def test_forgetting_too_hard_is_found_out(self, scores, shift):
        target, references, seen, member = laws(unlearned=shift)
        found = scores(target, references, seen)
        assert ((found >= 0) == member).all()

    @SCORES
    def test_one_threshold_for_all_finds_less(self, scores):
        """Records differ more in difficulty (sd 2) than unlearning moves them: the population attack sees little."""
        target, references, seen, member = laws(1000, 64, unlearned=-2.0)
        assert auc(scores(target, references, seen), member) > 0.85 > 0.75 > auc(-target[:, 0], member) > 0.5

    @SCORES
    def test_invariances(self, scores):
        target, references, seen, _ = laws(unlearned=1.0, q=2)
        expected = scores(target, references, seen)
        assert scores(target + 7.0, references + 7.0, seen) == pytest.approx(expected, abs=1e-9)
        order = np.random.default_rng(0).permutation(len(target))
        assert scores(target[order], references[:, order], seen[:, order]) == pytest.approx(expected[order], abs=1e-9)
        assert scores(target, references[::-1], seen[::-1]) == pytest.approx(expected, abs=1e-9)
        # the same references, once by a mask and once apart
        half = np.repeat([True, False], 16)[:, None].repeat(len(target), axis=1)
        apart = scores(target, references[:16], half[:16], retrained=references[16:])
        assert apart == pytest.approx(scores(target, references, half), abs=1e-9)
        # the two laws exchanged
        assert scores(target, references, ~seen) == pytest.approx(-expected, abs=1e-9)

    @SCORES
    def test_too_few_references(self, scores):
        target, references, seen, _ = laws(4, 4)
        with pytest.raises(AuditError, match="reference model"):
            scores(target, references, np.zeros_like(seen))
        with pytest.raises(AuditError, match="reference model"):
            scores(target, references, np.ones_like(seen))


class TestKernels:
    def test_fixed_bandwidth_against_another_library(self):
        target, references, seen, _ = laws(5, 12, unlearned=1.0)
        for width in (0.3, 1.0):
            found = special.expit(ruli_scores(target, references, seen, bandwidth=width))
            for i, ratio in enumerate(found):
                p_u, p_h = (
                    np.exp(KernelDensity(bandwidth=width).fit(references[seen[:, i] == g, i]).score(target[[i]]))
                    for g in (True, False)
                )
                assert ratio == pytest.approx(p_u / (p_u + p_h), rel=1e-9)

    def test_scott_against_another_library(self):
        target, references, seen, _ = laws(5, 12, unlearned=1.0)
        for i, score in enumerate(ruli_scores(target, references, seen, bandwidth="scott")):
            p_u, p_h = (stats.gaussian_kde(references[seen[:, i] == g, i, 0])(target[i])[0] for g in (True, False))
            assert score == pytest.approx(np.log(p_u / p_h), rel=1e-9)

    def test_far_from_all_references(self):
        """Where the densities themselves are 0 / 0 the order still holds."""
        references, seen = np.array([[0.0], [1.0]]).repeat(3, axis=1), np.array([[True] * 3, [False] * 3])
        found = ruli_scores(np.array([-500.0, 0.5, 500.0]), references, seen)
        assert found == pytest.approx([500.5, 0.0, -499.5])  # ((phi - 1)^2 - phi^2) / 2

    def test_scale(self):
        """Scott's rule follows the scale; a fixed bandwidth does not."""
        target, references, seen, _ = laws(50, unlearned=1.0)
        one, ten = (ruli_scores(s * target, s * references, seen, bandwidth="scott") for s in (1.0, 10.0))
        assert one == pytest.approx(ten, abs=1e-9)
        one, ten = (ruli_scores(s * target, s * references, seen) for s in (1.0, 10.0))
        assert np.abs(one - ten).max() > 0.5

    def test_refusals(self):
        target, references, seen, _ = laws(4, 8)
        for width in (0.0, -1.0, np.inf, np.nan, "silverman"):
            with pytest.raises(ConfigError, match="bandwidth"):
                ruli_scores(target, references, seen, bandwidth=width)
        with pytest.raises(AuditError, match="the same value"):
            ruli_scores(target, np.full_like(references, 0.1), seen, bandwidth="scott")


class TestAttacks:
    @pytest.mark.parametrize("name", ["u_lira", "ruli"])
    def test_what_it_says_and_decides(self, name):
        result = run(ATTACKS[name](n_resamples=100), parts())
        assert result.called.tolist() == (result.scores >= 0).tolist()
        assert result.figures["balanced_accuracy"].value > 0.7
        for word in (
            "U: references that trained on the record and unlearned it",
            "held it out",
            "from a score of 0 on",
        ):
            assert word in result.definition
        exact = run(ATTACKS[name](n_resamples=100, held_out="retrained"), parts())
        assert "retrained models, which never saw it" in exact.definition and "16 (retrained)" in exact.definition
        assert exact.figures["auc"].value > 0.7 and exact.scores.tolist() != result.scores.tolist()

    def test_options_reach_the_definition(self):
        text = run(ULiraAttack(n_resamples=100, centre="median", variance="pooled"), parts()).definition
        assert "centre: median; variance: pooled" in text
        assert "bandwidth Scott's rule" in run(RuliAttack(n_resamples=100, bandwidth="scott"), parts()).definition
        assert "bandwidth 0.5" in run(RuliAttack(n_resamples=100, bandwidth=0.5), parts()).definition

    def test_wrong_options(self):
        with pytest.raises(ConfigError) as error:
            ULiraAttack(held_out="shadows", centre="mode", variance="none", queries="max", folds=1)
        assert len(error.value.problems) == 5
        with pytest.raises(ConfigError) as error:
            RuliAttack(held_out="shadows", bandwidth="wide", folds=1)
        assert len(error.value.problems) == 3

    @pytest.mark.parametrize("name", ["u_lira", "ruli"])
    def test_retrained_models_that_saw_or_are_missing_or_differ(self, name):
        attack, data = ATTACKS[name](n_resamples=100, held_out="retrained"), parts()

        def changed(retrained):
            given = {k: v for k, v in data["test"].references.items() if k != "retrained"} | retrained
            return {**data, "test": PartSignals(data["test"].signals, data["test"].patients, given)}

        own = data["test"].references["retrained"]
        saw = np.array(own.seen)
        saw[0, 3] = True
        with pytest.raises(AuditError, match="1 records were seen"):
            run(attack, changed({"retrained": References(own.signals, saw)}))
        with pytest.raises(AuditError, match="'retrained'"):
            run(attack, changed({}))
        fewer = References({k: np.asarray(v)[:3] for k, v in own.signals.items()}, np.asarray(own.seen)[:3])
        with pytest.raises(AuditError, match="the same models for both parts"):
            run(attack, changed({"retrained": fewer}))

    @pytest.mark.parametrize("name", ["u_lira", "ruli"])
    def test_records_without_references_on_one_side(self, name):
        data = parts(n_references=2)
        given = data["forget"].references["unlearned_shadows"]
        one = References(given.signals, np.zeros_like(given.seen))
        data["forget"] = PartSignals(
            data["forget"].signals, data["forget"].patients, {**data["forget"].references, "unlearned_shadows": one}
        )
        with pytest.raises(AuditError, match="that trained on them and unlearned them"):
            run(ATTACKS[name](n_resamples=100), data)


class TestVulnerabilityView:
    def test_by_hand(self):
        """Patients 0-39: 0-19 exposed before, of them 0-9 still; of 20-39 the last 10 newly. Two records each: one is
        enough."""
        patients = np.repeat(np.arange(40), 2)
        before, after = np.full(80, -1.0), np.full(80, -1.0)
        before[:40:2], after[1:20:2], after[60:] = 3.0, 2.0, 2.0
        view = vulnerability_view(before, after, patients, before_threshold=2.5, after_threshold=2.0)
        assert (view.vulnerable.n_patients, view.vulnerable.n_exposed_after, view.vulnerable.rate) == (20, 10, 0.5)
        assert (view.protected.n_patients, view.protected.n_exposed_after) == (20, 10)
        interval = stats.binomtest(10, 20).proportion_ci(0.95)
        assert (view.vulnerable.interval.low, view.vulnerable.interval.high) == pytest.approx(interval)
        assert view.exposed_before.sum() == 20 and view.exposed_after[:10].all() and view.exposed_after[30:].all()
        said = json.loads(json.dumps(view.to_dict(), allow_nan=False))
        assert said["n_patients"] == 40 and "patients" not in said and "exposed_after" not in said

    def test_small_cells(self):
        before = np.repeat([1.0, -1.0], [15, 30])
        one_left, nobody_left = np.full(45, -1.0), np.full(45, -1.0)
        one_left[0] = 1.0
        settings = {"before_threshold": 0.0, "after_threshold": 0.0}
        view = vulnerability_view(before, one_left, np.arange(45), **settings)
        # one patient of 15: no cell of the table, for with the column's total the others would give it away
        assert view.vulnerable.n_patients == 15 and view.protected.n_patients == 30
        for group in (view.vulnerable, view.protected):
            assert group.n_exposed_after is None and group.rate is None and "not published" in group.interval.reason
        view = vulnerability_view(before, nobody_left, np.arange(45), **settings)
        assert view.vulnerable.n_exposed_after == 0 == view.vulnerable.rate and view.vulnerable.interval.high < 0.25
        # a group of 15 is small for 16: with the total known, neither size is told
        view = vulnerability_view(before, nobody_left, np.arange(45), min_cell=16, **settings)
        assert view.vulnerable.n_patients is None and view.protected.n_patients is None
        assert (
            vulnerability_view(before, one_left, np.arange(45), min_cell=1, **settings).vulnerable.n_exposed_after == 1
        )

    def test_nobody_in_a_group(self):
        view = vulnerability_view(np.ones(20), -np.ones(20), np.arange(20), before_threshold=0.0, after_threshold=0.0)
        assert view.protected.n_patients == 0 and view.protected.rate is None and view.vulnerable.rate == 0.0
        json.dumps(view.to_dict(), allow_nan=False)

    def test_refusals(self):
        settings = {"before_threshold": 0.0, "after_threshold": 0.0}
        with pytest.raises(AuditError, match="one length"):
            vulnerability_view([1.0, 2.0], [1.0], [0, 1], **settings)
        with pytest.raises(AuditError, match="min_cell"):
            vulnerability_view([1.0], [1.0], [0], min_cell=0, **settings)
