"""LiRA against closed forms, brute force and other people's values; what it refuses."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from forgetmi.attacks.membership import moments as moments_module
from forgetmi.attacks.membership.lira import LiraAttack, lira_scores
from forgetmi.attacks.membership.moments import blocks, medians, moments
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from tests.attacks.reference_values import arrays
from tests.attacks.synthetic import only, parts, run, taken, without_references


def inputs(two_views=False):
    given, ending = arrays("inputs"), "_2aug" if two_views else ""
    return given[f"lira/target_phi{ending}"], given[f"lira/phi{ending}"], given["lira/keep"]


def drawn(n_references=12, n=30, q=1, seed=0, scale=1.0):
    """Uneven numbers of IN and OUT references, at least q + 2 of each."""
    rng = np.random.default_rng(seed)
    seen = rng.random((n_references, n)) < 0.5
    seen[: q + 2], seen[-q - 2 :] = True, False
    phi = rng.normal(size=(n_references, n, q)) * (1 + rng.random(n))[:, None] + 2.0 * seen[:, :, None]
    return scale * rng.normal(1.0, 2.0, (n, q)), scale * phi, seen


def brute(target, references, seen, *, mode, centre="mean", variance="per_record"):
    """One record and one query at a time."""
    middle_of = {"mean": np.mean, "median": np.median}[centre]
    n, q = target.shape
    sides = {}
    for group in (True, False):
        values = [[references[seen[:, i] == group, i, j] for j in range(q)] for i in range(n)]
        middles = np.array([[middle_of(v) for v in row] for row in values])
        residuals = [v - middle_of(v) for row in values for v in row]
        if variance == "per_record":
            sds = np.array([[np.std(v) for v in row] for row in values])
        elif variance == "pooled":
            sds = np.full((n, q), np.std(np.concatenate(residuals)))
        else:
            sds = np.full((n, q), np.std(np.concatenate([v for row in values for v in row])))
        sides[group] = middles, sds
    if mode == "offline_one_sided":
        return norm.cdf(target, *sides[False]).mean(axis=1)
    out = norm.logpdf(target, *sides[False])
    return (-out if mode == "offline_two_sided" else norm.logpdf(target, *sides[True]) - out).mean(axis=1)


@pytest.mark.parametrize("mode", ["online", "offline_one_sided", "offline_two_sided"])
@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("variance", ["per_record", "pooled", "total"])
@pytest.mark.parametrize("q", [1, 3])
def test_brute_force_with_uneven_numbers_of_references(mode, centre, variance, q, monkeypatch):
    """Every reference of a record counts: no truncation to the smallest number of IN or OUT, as in the paper's code."""
    monkeypatch.setattr(moments_module, "_BLOCK", 50)  # many blocks
    target, references, seen = drawn(q=q)
    assert len({*seen.sum(axis=0)}) >= 3
    expected = brute(target, references, seen, mode=mode, centre=centre, variance=variance)
    scores = lira_scores(target, references, seen, mode=mode, centre=centre, variance=variance)
    np.testing.assert_allclose(scores, expected, rtol=1e-10, atol=1e-12)
    if q == 1:
        flat = (
            lira_scores(
                target[:, 0],
                references[:, :, 0],
                seen,
                mode=mode,
                centre=centre,
                variance=variance,
                queries="multivariate",
            )
            if mode != "offline_one_sided"
            else scores
        )
        np.testing.assert_array_equal(flat, scores)


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize(("variance", "theirs"), [("per_record", "pervar"), ("pooled", "fixvar")])
@pytest.mark.parametrize("two_views", [False, True])
def test_reference_values(centre, variance, theirs, two_views):
    """Per record, and with one variance as one source means it: of the differences from each record's centre."""
    values = arrays("lira")
    folder = f"even{'_2aug' if two_views else ''}/tf_privacy"
    options = {"centre": centre, "variance": variance}
    online = lira_scores(*inputs(two_views), mode="online", **options)
    two_sided = lira_scores(*inputs(two_views), mode="offline_two_sided", **options)
    np.testing.assert_allclose(online, values[f"{folder}/both_{theirs}_{centre}"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(two_sided, values[f"{folder}/out_{theirs}_{centre}"], rtol=0, atol=1e-9)
    # ln N(phi; IN), which is no attack here, is what they differ by
    np.testing.assert_allclose(online - two_sided, values[f"{folder}/in_{theirs}_{centre}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("two_views", [False, True])
def test_reference_values_of_the_papers_code(two_views):
    values, folder = arrays("lira"), f"even{'_2aug' if two_views else ''}/carlini"
    target, references, seen = inputs(two_views)
    online = lira_scores(target, references, seen, mode="online", centre="median")
    np.testing.assert_allclose(online, values[f"{folder}/online"], rtol=0, atol=1e-9)
    two_sided = lira_scores(target, references, seen, mode="offline_two_sided", centre="median")
    np.testing.assert_allclose(two_sided, values[f"{folder}/offline"], rtol=0, atol=1e-9)
    # its "global" attack is the scaled logit itself, which needs no reference model
    phi = target.reshape(400, -1).mean(axis=1)
    np.testing.assert_allclose(phi, values[f"{folder}/global"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("two_views", [False, True])
def test_the_papers_code_takes_the_variance_of_in_for_out(two_views):
    """Its fixed variance is the total one of the IN values, for both laws (online); ours has each law's own."""
    values, folder = arrays("lira"), f"even{'_2aug' if two_views else ''}/carlini"
    target, references, seen = (np.asarray(x) for x in inputs(two_views))
    views, phi = references.reshape(64, 400, -1), target.reshape(400, -1)
    sd_in, sd_out = views[seen].std(), views[~seen].std()
    centre_in, centre_out = (medians(views, seen, group) for group in (True, False))
    published = (norm.logpdf(phi, centre_in, sd_in) - norm.logpdf(phi, centre_out, sd_in)).mean(axis=1)
    np.testing.assert_allclose(published, values[f"{folder}/online_fixvar"], rtol=0, atol=1e-9)
    ours = lira_scores(target, references, seen, mode="online", centre="median", variance="total")
    by_hand = (norm.logpdf(phi, centre_in, sd_in) - norm.logpdf(phi, centre_out, sd_out)).mean(axis=1)
    np.testing.assert_allclose(ours, by_hand, rtol=0, atol=1e-9)
    assert np.abs(ours - published).max() > 0.1
    # offline it has the right one
    ours = lira_scores(target, references, seen, mode="offline_two_sided", centre="median", variance="total")
    np.testing.assert_allclose(ours, values[f"{folder}/offline_fixvar"], rtol=0, atol=1e-9)


def test_one_and_two_sided_are_two_attacks():
    target, references, seen = inputs()
    member = arrays("inputs")["lira/target_member"]
    one = lira_scores(target, references, seen, mode="offline_one_sided")
    np.testing.assert_allclose(one, arrays("lira")["even/sacroml/offline_pervar"], rtol=0, atol=1e-9)
    two = lira_scores(target, references, seen, mode="offline_two_sided")
    assert auc(one, member) == pytest.approx(0.817, abs=5e-4)
    assert auc(two, member) == pytest.approx(0.733, abs=5e-4)


def test_fixed_variance_is_not_the_variance_of_each_record():
    target, references, seen = inputs()
    scores = {
        variance: lira_scores(target, references, seen, mode="online", variance=variance)
        for variance in ("per_record", "pooled", "total")
    }
    assert np.abs(scores["pooled"] - scores["per_record"]).max() > 1
    assert np.abs(scores["total"] - scores["pooled"]).max() > 1
    # "total" counts what records differ by as noise of each of them: its ratios are far too flat
    assert scores["total"].std() < 0.5 * scores["pooled"].std()


def test_numbers_that_straddle_a_limit_do_not_mix_scales():
    """A peer takes another variance from 32 references on; here a record's score depends on its own references."""
    rng = np.random.default_rng(0)
    references, target = rng.normal(size=(64, 40)), rng.normal(size=40)
    seen = np.arange(64)[:, None] < rng.permutation(np.repeat([31, 33], 20))[None, :]
    together = lira_scores(target, references, seen, mode="online")
    alone = [lira_scores(target[[i]], references[:, [i]], seen[:, [i]], mode="online")[0] for i in range(40)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def two_laws(mu_in, sd_in, mu_out, sd_out, phi):
    """Four references with exactly these means and standard deviations."""
    column = np.array([mu_in - sd_in, mu_in + sd_in, mu_out - sd_out, mu_out + sd_out])
    references = np.repeat(column[:, None], len(phi), axis=1)
    seen = np.repeat(np.array([True, True, False, False])[:, None], len(phi), axis=1)
    return np.asarray(phi, dtype=float), references, seen


def test_closed_forms():
    phi = np.linspace(-3, 5, 9)
    assert (lira_scores(*two_laws(1, 2, 1, 2, phi), mode="online") == 0).all()  # equal laws
    linear = lira_scores(*two_laws(3, 2, 1, 2, phi), mode="online")
    np.testing.assert_allclose(linear, (3 - 1) / 2**2 * (phi - (3 + 1) / 2), atol=1e-14)  # equal variances
    assert lira_scores(*two_laws(3, 2, 1, 2, [2.0]), mode="online")[0] == 0  # the midpoint
    wide = lira_scores(*two_laws(1, 4, 1, 1, [-9.0, 1.0, 9.0]), mode="online")  # a wide IN wins both tails
    assert wide[0] > 0 > wide[1]
    assert wide[2] > 0
    assert lira_scores(*two_laws(9, 1, 1, 2, [1.0]), mode="offline_one_sided")[0] == 0.5
    one = lira_scores(*two_laws(9, 1, 1, 2, phi), mode="offline_one_sided")
    np.testing.assert_allclose(one, norm.cdf((phi - 1) / 2), rtol=1e-14)
    two = lira_scores(*two_laws(9, 1, 1, 2, [1 - 3.0, 1 + 3.0]), mode="offline_two_sided")
    assert two[0] == two[1]


@pytest.mark.parametrize(("factor", "shift"), [(7.0, 0.0), (1.0, 100.0), (-2.0, 3.0), (1e-6, 0.0)])
def test_affine_maps(factor, shift):
    """The ratio of densities does not know the unit; the two-sided form shifts by ln of it for all records alike."""
    target, references, seen = drawn()
    moved = (factor * target + shift, factor * references + shift, seen)
    for variance in ("per_record", "pooled", "total"):
        online = [lira_scores(*x, mode="online", variance=variance) for x in ((target, references, seen), moved)]
        np.testing.assert_allclose(*online, rtol=1e-8, atol=1e-8)
    two = [lira_scores(*x, mode="offline_two_sided") for x in ((target, references, seen), moved)]
    np.testing.assert_allclose(two[1] - two[0], np.log(abs(factor)), rtol=1e-8, atol=1e-8)
    one = [lira_scores(*x, mode="offline_one_sided") for x in ((target, references, seen), moved)]
    np.testing.assert_allclose(one[1], one[0] if factor > 0 else 1 - one[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("variance", ["per_record", "pooled", "total"])
def test_multivariate_brute_force(centre, variance, monkeypatch):
    monkeypatch.setattr(moments_module, "_BLOCK", 50)
    target, references, seen = drawn(n_references=16, q=3)
    references[:, :, 1] += references[:, :, 0]  # queries of one record go together
    middle_of = {"mean": np.mean, "median": np.median}[centre]
    logs = {}
    for group in (True, False):
        values = [references[seen[:, i] == group, i] for i in range(30)]
        middles = [middle_of(v, axis=0) for v in values]
        everything = {
            "pooled": [v - m for v, m in zip(values, middles, strict=True)],
            "total": values,
            "per_record": values,
        }[variance]
        one = np.cov(np.concatenate(everything).T, ddof=0)
        laws = [np.cov(v.T, ddof=0) if variance == "per_record" else one for v in values]
        logs[group] = np.array(
            [multivariate_normal(m, c).logpdf(t) for m, c, t in zip(middles, laws, target, strict=True)]
        )
    options = {"centre": centre, "variance": variance, "queries": "multivariate"}
    online = lira_scores(target, references, seen, mode="online", **options)
    np.testing.assert_allclose(online, logs[True] - logs[False], rtol=1e-8)
    offline = lira_scores(target, references, seen, mode="offline_two_sided", **options)
    np.testing.assert_allclose(offline, -logs[False], rtol=1e-8)
    apart = lira_scores(target, references, seen, mode="online", centre=centre, variance=variance)
    assert np.abs(online - apart).max() > 0.1


def test_order_of_records_and_references(monkeypatch):
    monkeypatch.setattr(moments_module, "_BLOCK", 60)
    target, references, seen = drawn(n=31)
    rng = np.random.default_rng(1)
    records, models = rng.permutation(31), rng.permutation(12)
    for options in ({"mode": "online"}, {"mode": "offline_one_sided", "centre": "median"}):
        scores = lira_scores(target, references, seen, **options)
        mixed = lira_scores(target[records], references[:, records], seen[:, records], **options)
        np.testing.assert_array_equal(mixed, scores[records])  # to the last bit: ties stay ties
        other = lira_scores(target, references[models], seen[models], **options)
        np.testing.assert_allclose(other, scores, rtol=1e-12)


def test_blocks_cover_and_are_never_one_record():
    for n in (1, 2, 3, 7, 100, 1001):
        for n_references in (1, 64, 10**6):
            sizes = [block.stop - block.start for block in blocks(n_references, n)]
            assert sum(sizes) == n
            assert min(sizes) >= min(2, n)


def test_moments_far_from_zero():
    """Squares are of differences from the mean: values of 1e8 with a spread of 1 keep their digits."""
    rng = np.random.default_rng(0)
    near = rng.normal(size=(32, 5, 1))
    seen = np.ones((32, 5), dtype=bool)
    far = moments(near + 1e8, seen, True)
    np.testing.assert_allclose(far.squares / 32, near.var(axis=0), rtol=1e-7)


def test_too_few_references_are_counted_not_invented():
    target, references, seen = drawn()
    lone = seen.copy()
    lone[:, :3] = True
    lone[-1, :3] = False  # one OUT reference each
    for mode in ("online", "offline_one_sided", "offline_two_sided"):
        with pytest.raises(
            AuditError, match=r"3 of 30 records have fewer than 2 reference models that did not see"
        ) as error:
            lira_scores(target, references, lone, mode=mode)
        assert "pooled" in str(error.value)
        assert np.isfinite(lira_scores(target, references, lone, mode=mode, variance="pooled")).all()
    with pytest.raises(AuditError, match="30 of 30 records have fewer than 2 reference models that saw them"):
        lira_scores(target, references, np.zeros_like(seen), mode="online")
    lone[-1, :3] = True
    with pytest.raises(AuditError, match="3 of 30 records have fewer than 1 reference model that did not see"):
        lira_scores(target, references, lone, mode="online", variance="pooled")
    views = drawn(q=3)
    some = views[2].copy()
    some[:, 0] = np.arange(12) < 9  # three OUT: a covariance of three queries needs four
    with pytest.raises(AuditError, match="1 of 30 records have fewer than 4"):
        lira_scores(views[0], views[1], some, mode="online", queries="multivariate")


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9, 1 / 3])
def test_no_spread_is_an_error_never_an_epsilon(value):
    target, references, seen = drawn(n_references=13)
    references[:, :4] = value  # 0.1 three times does not sum to 0.3: the spread is 1e-17 and means nothing
    with pytest.raises(AuditError, match=r"4 of 30 variances are zero") as error:
        lira_scores(target, references, seen, mode="online")
    assert "variance='pooled'" in str(error.value)
    assert np.isfinite(lira_scores(target, references, seen, mode="online", variance="pooled")).all()
    with pytest.raises(AuditError, match=r"1 of 1 variance is zero"):
        lira_scores(target, np.full_like(references, value), seen, mode="online", variance="pooled")
    views = drawn(q=2)
    views[1][:, :5, 1] = 2 * views[1][:, :5, 0] + 1
    with pytest.raises(AuditError, match="5 of 30 variances are zero: queries that follow from each other"):
        lira_scores(*views, mode="online", queries="multivariate")


def test_a_small_spread_is_still_a_spread():
    target, references, seen = drawn(scale=1e-9)
    assert np.isfinite(lira_scores(target, references, seen, mode="online")).all()


def test_refuses_what_does_not_fit():
    target, references, seen = drawn()
    with pytest.raises(ConfigError) as error:
        lira_scores(target, references, seen, mode="offline", centre="mode", variance="global", queries="all")
    assert len(error.value.problems) == 4
    with pytest.raises(ConfigError, match="no one-sided form"):
        lira_scores(target, references, seen, mode="offline_one_sided", queries="multivariate")
    for wrong in (
        (target[:-1], references, seen),
        (target, references, seen[:-1]),
        (target, references[..., 0], seen),
        (target, references[:0], seen[:0]),
        (target, references, seen.astype(float)),
    ):
        with pytest.raises(AuditError):
            lira_scores(*wrong, mode="online")
    references[3, 4] = np.inf
    with pytest.raises(AuditError, match="not finite"), np.errstate(invalid="ignore"):
        lira_scores(target, references, seen, mode="online")


def test_theory_gives_the_power():
    """IN and OUT one standard deviation apart, many references: AUC = Phi(1 / sqrt 2) = 0.760."""
    rng = np.random.default_rng(5)
    n, k = 4000, 200
    difficulty = 5 * rng.normal(size=n)
    seen = rng.random((k, n)) < 0.5
    member = rng.random(n) < 0.5
    references = difficulty + seen + rng.normal(size=(k, n))
    target = difficulty + member + rng.normal(size=n)
    # sd of an AUC of 2,000 against 2,000 is 0.008; estimated laws cost a little
    assert auc(lira_scores(target, references, seen, mode="online"), member) == pytest.approx(0.760, abs=0.025)
    assert auc(lira_scores(target, references, seen, mode="online", variance="pooled"), member) == pytest.approx(
        0.760, abs=0.025
    )
    assert auc(target, member) < 0.6  # one threshold for all sees records, not membership


def test_the_attack_chooses_its_mode_and_says_so():
    data = parts()
    online = run(LiraAttack(n_resamples=100), data)
    assert "online LiRA" in online.definition
    assert online.options["mode"] == "online"
    assert "variance of each record" in online.definition
    assert "16 shadows, a record OUT of 8 to 8 and IN 8 to 8" in online.definition
    offline = run(LiraAttack(n_resamples=100), only(data, "retrained"))
    assert offline.options["mode"] == "offline_one_sided"
    assert "one-sided" in offline.definition
    assert "180 of 180 records have fewer than 2 references that saw them" in offline.notes[0]
    joint = run(LiraAttack(n_resamples=100, queries="multivariate", variance="pooled"), only(data, "retrained"))
    assert joint.options["mode"] == "offline_two_sided"
    with pytest.raises(AuditError, match="180 of 180 records have fewer than 2 reference models that saw"):
        run(LiraAttack(n_resamples=100, mode="online"), only(data, "retrained"))
    with pytest.raises(AuditError, match="shadows"):
        run(LiraAttack(n_resamples=100), without_references(data))
    for variance, words in (
        ("pooled", "differences from each record's centre"),
        ("total", "all values of all records"),
    ):
        assert words in run(LiraAttack(n_resamples=100, variance=variance, centre="median"), data).definition


def test_the_attack_scores_with_the_function():
    data = parts()
    sides = [data["forget"], data["test"]]
    phi = np.concatenate([part.signals["scaled_logit"] for part in sides])
    references = np.concatenate([part.references["shadows"].signals["scaled_logit"] for part in sides], axis=1)
    seen = np.concatenate([part.references["shadows"].seen for part in sides], axis=1)
    result = run(LiraAttack(n_resamples=100, centre="median", variance="total"), data)
    expected = lira_scores(phi, references, seen, mode="online", centre="median", variance="total")
    np.testing.assert_array_equal(result.scores, expected)


def test_several_queries_a_record():
    data = parts(n_references=32)
    rng = np.random.default_rng(0)

    def views(signals_):
        return {
            "scaled_logit": np.stack(
                [
                    signals_["scaled_logit"] + 0.5 * rng.normal(size=np.shape(signals_["scaled_logit"]))
                    for _ in range(3)
                ],
                axis=-1,
            )
        }

    more = {}
    for name in ("forget", "test"):
        given = data[name].references["shadows"]
        more[name] = PartSignals(
            views(data[name].signals), data[name].patients, {"shadows": type(given)(views(given.signals), given.seen)}
        )
    mean, joint = (run(LiraAttack(n_resamples=100, queries=queries), more) for queries in ("mean", "multivariate"))
    assert "3 queries a record, mean of their scores" in mean.definition
    assert "3 queries a record, one multivariate normal law" in joint.definition
    assert mean.figures["auc"].value > 0.8
    assert joint.figures["auc"].value > 0.7
    with pytest.raises(AuditError, match="as many queries"):
        run(LiraAttack(n_resamples=100), {**more, "test": data["test"]})


def test_ties_where_phi_rounds_are_said():
    data = parts()
    data["forget"].signals["scaled_logit"][:7] += 1000.0
    result = run(LiraAttack(n_resamples=100, mode="offline_one_sided"), data)
    assert (result.scores[:7] == 1.0).all()
    assert "Phi rounds to 1, and they tie" in result.notes[0]
    assert taken(data["forget"]).signals["scaled_logit"][0] > 900
