"""Forgetting quality: independent values, the rules one by one, and what retraining itself scores."""

import json
from pathlib import Path

import numpy as np
import pytest

from forgetmi.errors import AuditError
from forgetmi.metrics.forgetting_quality import forgetting_epsilons, forgetting_points, forgetting_quality

REFERENCE = Path(__file__).parents[3] / "shared" / "reference_values" / "membership"


def by_rules(unlearned, retrained, delta=1e-5):
    """One record, all rules: rates by counting who satisfies each."""

    def best_of(pair, satisfied):
        positive, negative = (satisfied(values[:, None]).mean(axis=0) for values in pair)
        fnr, fpr = 1 - positive, negative
        if ((fpr == 0) & (fnr == 0)).any():
            return 50.0
        fnr, fpr = (rate[(fpr > 0) & (fnr > 0)] for rate in (fnr, fpr))
        one, other = np.maximum(1 - delta - fpr, 1e-9), np.maximum(1 - delta - fnr, 1e-9)
        return max(0.0, (np.log(one) - np.log(fnr)).max(initial=-1), (np.log(other) - np.log(fpr)).max(initial=-1))

    pair = [unlearned, retrained]
    pair = pair if np.median(unlearned) >= np.median(retrained) else pair[::-1]
    pooled = np.concatenate(pair)
    grid = np.linspace(pooled.min(), pooled.max(), max(2, int(np.ceil(np.ptp(pooled) * 100))))
    single = best_of(pair, lambda values: values >= grid)
    pair = sorted([retrained, unlearned], key=np.ptp)
    width, top = np.ptp(pair[0]), pair[0].max()
    right = np.repeat(np.linspace(top - 2.0, top + 2.0, 400), 400)
    left = right - width + np.tile(np.linspace(-2.0, 2.0, 400), 400)
    return max(single, best_of(pair, lambda values: (left <= values) & (values <= right)))


def reference():
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference values beside the repository ({REFERENCE.parent.name}/{REFERENCE.name})")
    return np.load(REFERENCE / "inputs.npz"), json.loads((REFERENCE / "other.json").read_text())


class TestEpsilon:
    @pytest.mark.parametrize("name", ["unlearned", "unlearned_same_dist", "unlearned_far"])
    def test_independent_values(self, name):
        """The source computes in single precision: its logarithms are good to about 4e-7."""
        arrays, expected = reference()
        found = forgetting_epsilons(arrays[f"nips23/{name}"], arrays["nips23/retrained"])
        assert found == pytest.approx(np.array(expected[f"nips23_{name}"]["eps_per_example"]), abs=1e-6)
        score = forgetting_points(found, 64).mean()
        assert score == pytest.approx(expected[f"nips23_{name}"]["forget_score"], abs=1e-12)

    @pytest.mark.parametrize(("m", "n", "seed"), [(6, 6, 0), (7, 5, 1), (9, 9, 2)])
    def test_every_rule_by_itself(self, m, n, seed):
        draw = np.random.default_rng(seed)
        unlearned, retrained = draw.normal(0.4, 1.5, (m, 1)), draw.normal(0.0, 1.0, (n, 1))
        (found,) = forgetting_epsilons(unlearned, retrained)
        assert found == pytest.approx(by_rules(unlearned[:, 0], retrained[:, 0]), abs=1e-12)

    def test_by_hand(self):
        """The best threshold leaves one of four on the wrong side of each: epsilon = ln((3/4 - delta) / (1/4))."""
        low, high = np.array([[1.0], [2], [3.2], [4]]), np.array([[3.0], [3.9], [5], [6]])
        found = forgetting_epsilons(high, low)
        assert found[0] == pytest.approx(np.log(3 - 4e-5), abs=1e-9)
        assert forgetting_epsilons(low, high)[0] == found[0]  # roles may be exchanged

    def test_limits(self):
        draw = np.random.default_rng(3)
        same = draw.normal(size=(32, 6))
        assert forgetting_points(forgetting_epsilons(same, same), 32) == pytest.approx(1.0)
        assert (forgetting_epsilons(same + 50, same) == 50).all() and (forgetting_epsilons(same - 50, same) == 50).all()
        assert (forgetting_epsilons(0.001 * same, same) == 50).all()  # peaky: a range below 1 % of the other
        wide = forgetting_epsilons(3.0 * draw.normal(size=(64, 6)), same[:, :6])
        assert (
            wide > forgetting_epsilons(draw.normal(size=(64, 6)), same)
        ).mean() > 0.5  # only an interval tells these
        constant = np.ones((8, 1))
        assert forgetting_epsilons(constant, constant)[0] == 0.0
        assert forgetting_epsilons(constant, constant + 1e-4)[0] == 50.0

    def test_records_models_and_place_do_not_matter(self):
        draw = np.random.default_rng(4)
        ours, theirs = draw.normal(0.5, 1, (20, 300)), draw.normal(size=(20, 300))
        found = forgetting_epsilons(ours, theirs)  # several blocks
        assert [forgetting_epsilons(ours[:, [k]], theirs[:, [k]])[0] for k in range(0, 300, 23)] == found[::23].tolist()
        shuffled = forgetting_epsilons(ours[draw.permutation(20)], theirs[draw.permutation(20)])
        assert shuffled.tolist() == found.tolist()

    def test_points(self):
        """Buckets of 64 models, as listed by the source: 2^-k up to 4.5."""
        starts = np.arange(0.0, 5.0, 0.5)
        assert forgetting_points(starts, 64).tolist() == [2.0**-k for k in range(10)]
        assert forgetting_points(starts + 0.4999, 64).tolist() == [2.0**-k for k in range(10)]
        assert forgetting_points([5.0, 50.0], 64).tolist() == [0.0, 0.0]
        assert int((forgetting_points(np.arange(0, 20, 0.5), 512) > 0).sum()) == 14

    @pytest.mark.parametrize(
        ("shapes", "delta"), [(((4, 3), (4, 2)), 1e-5), (((4,), (4,)), 1e-5), (((4, 0), (4, 0)), 0), (((4, 2),) * 2, 1)]
    )
    def test_refusals(self, shapes, delta):
        with pytest.raises(AuditError):
            forgetting_epsilons(*(np.zeros(shape) for shape in shapes), delta=delta)
        with pytest.raises(AuditError, match="1 scaled logits"):
            forgetting_epsilons([[np.nan]], [[1.0]])
        with pytest.raises(AuditError, match="points"):
            forgetting_points([1.0], 2)


class TestQuality:
    def test_retraining_itself_scores_a_fifth_and_meets_its_ceiling(self):
        draw = np.random.default_rng(5)
        ours, theirs = draw.normal(size=(2, 32, 60))
        quality = forgetting_quality(ours, theirs, draw, patients=np.arange(60))
        assert 0.1 < quality.score < 0.3 and 0.1 < quality.ceiling < 0.3
        assert quality.shortfall.contains(0.0)
        assert quality.ceiling_range[0] <= quality.ceiling <= quality.ceiling_range[1]
        assert quality.interval.contains(quality.score) and quality.n_half == 16 and quality.n_undecided == 0
        said = json.loads(json.dumps(quality.to_dict(), allow_nan=False))
        assert said["score"] == quality.score and "epsilon" not in said
        assert "where retraining itself scores" in quality.sentence and f"{quality.ceiling:.3f}" in quality.sentence

    @pytest.mark.parametrize("shift", [-3.0, 3.0])
    def test_too_little_and_too_much_forgetting_fall_short(self, shift):
        draw = np.random.default_rng(6)
        ours, theirs = draw.normal(size=(2, 32, 40))
        quality = forgetting_quality(ours + shift, theirs, draw, patients=np.arange(40))
        assert quality.score < 0.05 and quality.shortfall.low > 0.05
        far = forgetting_quality(ours + 60, theirs, draw, patients=np.arange(40))
        assert far.score == 0.0 == far.score_at_ceiling

    def test_patients_are_the_unit(self):
        draw = np.random.default_rng(7)
        ours, theirs = (np.repeat(part, 5, axis=1) for part in draw.normal(size=(2, 16, 20)))
        grouped, apart = (
            forgetting_quality(ours, theirs, np.random.default_rng(0), patients=p, splits=2).interval
            for p in (np.repeat(np.arange(20), 5), np.arange(100))
        )
        assert grouped.n_patients == 20 and grouped.high - grouped.low > 1.5 * (apart.high - apart.low)

    @pytest.mark.parametrize(("m", "n"), [(32, 15), (7, 32), (2, 2)])
    def test_no_score_without_a_ceiling(self, m, n):
        draw = np.random.default_rng(8)
        quality = forgetting_quality(draw.normal(size=(m, 5)), draw.normal(size=(n, 5)), draw, patients=np.arange(5))
        assert quality.score is None and quality.ceiling is None and quality.interval.low is None
        assert f"{m} unlearned and {n} retrained models" in quality.reason and quality.reason in quality.sentence
        json.dumps(quality.to_dict(), allow_nan=False)

    def test_refusals(self):
        models = np.random.default_rng(9).normal(size=(16, 3))
        with pytest.raises(AuditError, match="patients"):
            forgetting_quality(models, models, np.random.default_rng(0), patients=np.arange(2))
        with pytest.raises(AuditError, match="splits"):
            forgetting_quality(models, models, np.random.default_rng(0), patients=np.arange(3), splits=0)
