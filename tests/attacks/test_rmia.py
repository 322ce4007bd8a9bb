"""RMIA against the definition by brute force, limiting cases and other people's values; what it refuses."""

import dataclasses
import re
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from forgetmi.attacks.membership import moments as moments_module
from forgetmi.attacks.membership.result import References
from forgetmi.attacks.membership.rmia import RmiaAttack, rmia_scores
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from tests.attacks.reference_values import arrays
from tests.attacks.synthetic import only, parts, run


def drawn(n_references=9, n=40, n_population=25, seed=0):
    """Losses, with uneven numbers of references that saw a record: at least one on each side."""
    rng = np.random.default_rng(seed)
    seen = rng.random((n_references, n)) < 0.5
    seen[0], seen[-1] = True, False
    return (
        rng.exponential(size=n),
        rng.exponential(size=(n_references, n)),
        seen,
        rng.exponential(size=n_population),
        rng.exponential(size=(n_references, n_population)),
    )


def brute(loss, references, seen, z_loss, z_references, *, mode, a=0.3, gamma=1.0, ties="count"):
    """Pair by pair, in probabilities."""

    def ratio(own, others):
        mean = np.mean(others)
        return own / (mean if mode == "online" else 0.5 * ((1 + a) * mean + (1 - a)))

    p, all_p, z, all_z = (np.exp(-np.asarray(x)) for x in (loss, references, z_loss, z_references))
    use = np.ones_like(seen) if mode == "online" else ~seen
    x_ratio = [ratio(p[i], all_p[use[:, i], i]) for i in range(p.size)]
    z_ratio = [ratio(z[j], all_z[:, j]) for j in range(z.size)]
    wins = np.greater_equal if ties == "count" else np.greater
    return np.array([np.mean([wins(x / z, gamma) for z in z_ratio]) for x in x_ratio])


@pytest.mark.parametrize(
    "name",
    [
        *(f"offline_a{a}_gamma{gamma}" for a in ("0.0", "0.3", "1.0") for gamma in ("1", "1_strict", "2")),
        "online_gamma1",
        "online_gamma2",
    ],
)
def test_reference_values(name):
    given = {key.removeprefix("rmia/"): value for key, value in arrays("inputs").items() if key.startswith("rmia/")}
    losses = [-np.log(given[key].T) for key in ("target_p", "ref_p", "z_target_p", "z_ref_p")]
    mode, a, gamma = re.fullmatch(r"(offline|online)(?:_a([\d.]+))?_gamma(\d)(?:_strict)?", name).groups()
    scores = rmia_scores(
        losses[0],
        losses[1],
        given["ref_member"].T,
        losses[2],
        losses[3],
        mode=mode,
        gamma=float(gamma),
        ties="strict" if name.endswith("strict") else "count",
        **({"a": float(a)} if a else {}),
    )
    np.testing.assert_allclose(scores, arrays("rmia")[f"paper/{name}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["offline", "online"])
@pytest.mark.parametrize("ties", ["count", "strict"])
@pytest.mark.parametrize(("a", "gamma"), [(0.0, 1.0), (0.3, 1.0), (1.0, 0.5), (0.6, 2.0)])
def test_brute_force(mode, ties, a, gamma, monkeypatch):
    monkeypatch.setattr(moments_module, "_BLOCK", 60)  # many blocks
    data, options = drawn(), {"mode": mode, "a": a, "gamma": gamma, "ties": ties}
    np.testing.assert_array_equal(rmia_scores(*data, **options), brute(*data, **options))


def test_one_reference_is_enough():
    loss, references, _, z_loss, z_references = drawn(n_references=1)
    unseen = np.zeros((1, 40), dtype=bool)
    scores = rmia_scores(loss, references, unseen, z_loss, z_references, mode="offline", a=1.0)
    by_hand = [np.mean(references[0, i] - loss[i] >= z_references[0] - z_loss) for i in range(40)]
    np.testing.assert_array_equal(scores, by_hand)


def test_all_references_that_did_not_see_the_record_count_alike():
    """A peer averages the largest k of them, and enters those that saw the record as zeros."""
    p_out, p_in = [0.2, 0.4, 0.9], [0.99, 0.98]
    references = -np.log(np.array([*p_in, *p_out]))[:, None]
    seen = np.array([True, True, False, False, False])[:, None]
    # the population's ratios are their losses' exponentials: 0.5 under all references, any value under the model
    values = np.array([0.4999, 0.5001])  # of p(x) = mean(p_out) = 0.5
    z_references = np.full((5, 2), -np.log(0.5))
    scores = rmia_scores([-np.log(0.5)], references, seen, -np.log(values), z_references, mode="offline", a=1.0)
    assert scores[0] == 0.5  # the largest two of three (0.65) would give 0, all five (0.694) as well
    given = {key.removeprefix("rmia/"): value for key, value in arrays("inputs").items() if key.startswith("rmia/")}
    saw, member = given["ref_member"], given["target_member"]

    def largest(k):
        """What the peer computes, with k references."""
        out, z = (np.sort(p, axis=1)[:, -k:].mean(axis=1) for p in (np.where(saw, 0, given["ref_p"]), given["z_ref_p"]))
        ratio, z_ratio = given["target_p"] / (0.65 * out + 0.35), given["z_target_p"] / (0.65 * z + 0.35)
        return (ratio[:, None] >= z_ratio).mean(axis=1)

    references, z_references = -np.log(given["ref_p"].T), -np.log(given["z_ref_p"].T)
    losses, z_losses = -np.log(given["target_p"]), -np.log(given["z_target_p"])
    ours = rmia_scores(losses, references, saw.T, z_losses, z_references, mode="offline", a=0.3)
    assert ours[~member].mean() == pytest.approx(0.513, abs=5e-4)
    assert auc(ours, member) == pytest.approx(0.819, abs=5e-4)
    assert largest(8)[~member].mean() == pytest.approx(0.579, abs=5e-4)  # eight did not see a record: all of them
    assert auc(largest(16), member) == pytest.approx(0.667, abs=5e-4)
    assert np.abs(ours - largest(8)).max() > 0.1


def test_the_population_takes_the_offline_form_too():
    """p(z) = ((1 + a) * mean + 1 - a) / 2: a peer leaves it as the mean."""
    one = np.zeros((1, 1), dtype=bool)
    p_x, r_x, p_z, r_z = 0.30, 0.10, 0.55, 0.20
    ratio = [(p_x / r_x, p_z / r_z), (p_x / ((1.3 * r_x + 0.7) / 2), p_z / ((1.3 * r_z + 0.7) / 2))]
    assert ratio[0][0] > ratio[0][1]
    assert ratio[1][0] < ratio[1][1]
    logs = [-np.log(p) for p in (p_x, r_x, p_z, r_z)]
    score = rmia_scores([logs[0]], [[logs[1]]], one, [logs[2]], [[logs[3]]], mode="offline", a=0.3)
    assert score[0] == 0.0
    assert rmia_scores([logs[0]], [[logs[1]]], one, [logs[2]], [[logs[3]]], mode="offline", a=1.0)[0] == 1.0


@pytest.mark.parametrize("n_references", [1, 3, 7, 64])
def test_equal_models_tie_exactly(n_references):
    """All ratios are 1: everything dominates everything, or nothing does, whatever rounding does to a mean."""
    rng = np.random.default_rng(0)
    loss, z_loss = rng.exponential(size=50) * 30, rng.exponential(size=20)
    references, z_references = (np.repeat(x[None], n_references, axis=0) for x in (loss, z_loss))
    seen = np.zeros((n_references, 50), dtype=bool)
    given = (loss, references, seen, z_loss, z_references)
    assert (rmia_scores(*given, mode="offline", a=1.0) == 1.0).all()
    assert (rmia_scores(*given, mode="offline", a=1.0, ties="strict") == 0.0).all()


def test_gamma():
    data = drawn()
    x = [rmia_scores(*data, mode="offline", gamma=gamma) for gamma in (1e-9, 0.5, 1.0, 2.0, 1e9)]
    assert (x[0] == 1.0).all()
    assert (x[-1] == 0.0).all()
    for more, less in pairwise(x):
        assert (more >= less).all()
    # the order is that of the ratio for every gamma, up to ties
    for scores in x[1:-1]:
        assert (np.diff(scores[np.argsort(x[2], kind="stable")])[np.diff(np.sort(x[2])) > 0] >= 0).all()


def test_scores_are_shares_of_the_population():
    scores = rmia_scores(*drawn(), mode="offline")
    np.testing.assert_allclose(scores * 25, np.round(scores * 25), atol=1e-12)


def test_a_between_the_mean_and_certainty():
    loss, references, seen, z_loss, z_references = drawn()
    scores = {a: rmia_scores(loss, references, seen, z_loss, z_references, mode="offline", a=a) for a in (0.0, 1.0)}
    p, z = np.exp(-references), np.exp(-z_references)
    out = np.where(seen, 0, p).sum(axis=0) / (~seen).sum(axis=0)
    for a, of in ((1.0, lambda mean: mean), (0.0, lambda mean: (mean + 1) / 2)):
        ratio, z_ratio = np.exp(-loss) / of(out), np.exp(-z_loss) / of(z.mean(axis=0))
        np.testing.assert_array_equal(scores[a], (ratio[:, None] >= z_ratio).mean(axis=1))


def test_long_texts_do_not_round_to_zero():
    """Losses of thousands of nats, and references that saw a record surer of it by more than exp can say."""
    loss, references, seen, z_loss, z_references = drawn()
    expected = rmia_scores(loss, references, seen, z_loss, z_references, mode="offline", a=1.0)
    far = 5000.0
    sure = np.where(seen, references, references + far)
    scores = rmia_scores(loss + far, sure, seen, z_loss + far, z_references + far, mode="offline", a=1.0)
    np.testing.assert_array_equal(scores, expected)


def test_order_of_records_references_and_population():
    loss, references, seen, z_loss, z_references = drawn(n=41)
    rng = np.random.default_rng(1)
    records, models, others = rng.permutation(41), rng.permutation(9), rng.permutation(25)
    scores = rmia_scores(loss, references, seen, z_loss, z_references, mode="offline")
    mixed = rmia_scores(
        loss[records],
        references[models][:, records],
        seen[models][:, records],
        z_loss[others],
        z_references[models][:, others],
        mode="offline",
    )
    np.testing.assert_array_equal(mixed, scores[records])


def test_the_order_of_references_breaks_no_tie():
    """Every record and population record has the same ten losses, in another order each: all ratios are equal."""
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=10)
    references = rng.permuted(np.repeat(losses[:, None], 300, axis=1), axis=0)
    assert len({*np.exp(-references).mean(axis=0)}) > 1  # rounding does tell them apart
    seen, loss = np.zeros((10, 200), dtype=bool), np.full(300, 0.7)
    given = (loss[:200], references[:, :200], seen, loss[200:], references[:, 200:])
    assert (rmia_scores(*given, mode="offline") == 1.0).all()
    assert (rmia_scores(*given, mode="offline", ties="strict") == 0.0).all()


def test_memory_is_for_a_few_values_a_record():
    data = drawn(n_references=64, n=10_000, n_population=2_500)
    rmia_scores(*data, mode="offline")
    tracemalloc.start()
    rmia_scores(*data, mode="offline")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20


def test_refuses():
    loss, references, seen, z_loss, z_references = drawn()
    with pytest.raises(ConfigError) as error:
        rmia_scores(loss, references, seen, z_loss, z_references, mode="off", a=1.1, gamma=0.0, ties="half")
    assert len(error.value.problems) == 4
    everywhere = seen.copy()
    everywhere[:, 5] = True
    with pytest.raises(AuditError, match="1 of 40 records have fewer than 1 reference model that did not see them"):
        rmia_scores(loss, references, everywhere, z_loss, z_references, mode="offline")
    with pytest.raises(AuditError, match=r"40 of 40 records .* that saw them"):
        rmia_scores(loss, references, np.zeros_like(seen), z_loss, z_references, mode="online")
    with pytest.raises(AuditError, match="9 reference models scored the records and 8 the population"):
        rmia_scores(loss, references, seen, z_loss, z_references[:8], mode="offline")
    for wrong in (
        (loss[1:], references, seen, z_loss, z_references),
        (loss, references, seen[:, 1:], z_loss, z_references),
        (loss, references, seen, z_loss[1:], z_references),
        (loss, references, seen, z_loss[:0], z_references[:, :0]),
    ):
        with pytest.raises(AuditError):
            rmia_scores(*wrong, mode="offline")
    with pytest.raises(AuditError, match="one query"):
        rmia_scores(np.ones((40, 2)), np.ones((9, 40, 2)), seen, z_loss, z_references, mode="offline")
    with pytest.raises(AuditError, match="finite"):
        rmia_scores(np.append(loss[1:], np.nan), references, seen, z_loss, z_references, mode="offline")


def test_the_attack_chooses_its_mode_and_says_so():
    data = parts()
    online = run(RmiaAttack(n_resamples=100), data)
    assert online.options["mode"] == "online"
    assert "p(x) = mean of p over all references, IN and OUT" in online.definition
    assert "LR(x, z) >= 1" in online.definition
    assert "population: 120 records" in online.definition
    offline = run(RmiaAttack(n_resamples=100, a=0.7, gamma=2.0, ties="strict"), only(data, "retrained"))
    assert offline.options["mode"] == "offline"
    assert "a = 0.7" in offline.definition
    assert "LR(x, z) > 2" in offline.definition
    assert "no reference model saw 180 of 180 records" in offline.notes[0]
    assert offline.figures["auc"].value > 0.6
    with pytest.raises(AuditError, match="180 of 180 records"):
        run(RmiaAttack(n_resamples=100, mode="online"), only(data, "retrained"))


def test_the_attack_scores_with_the_function():
    data = parts()
    given = [data[name].references["shadows"] for name in ("forget", "test", "population")]
    losses = [data[name].signals["loss"] for name in ("forget", "test", "population")]
    expected = rmia_scores(
        np.concatenate(losses[:2]),
        np.concatenate([x.signals["loss"] for x in given[:2]], axis=1),
        np.concatenate([x.seen for x in given[:2]], axis=1),
        losses[2],
        given[2].signals["loss"],
        mode="offline",
        a=0.5,
    )
    result = run(RmiaAttack(n_resamples=100, mode="offline", a=0.5), data)
    np.testing.assert_array_equal(result.scores, expected)


def test_a_population_that_references_trained_on_is_refused():
    data = parts()
    given = data["population"].references["shadows"]
    seen = np.array(given.seen)
    seen[3, :4] = True
    population = dataclasses.replace(data["population"], references={"shadows": References(given.signals, seen)})
    with pytest.raises(AuditError, match="4 of 120 population records were seen by shadows"):
        run(RmiaAttack(n_resamples=100), {**data, "population": population})
    bare = dataclasses.replace(data["population"], references={})
    with pytest.raises(AuditError, match="reference models of the kind 'shadows'"):
        run(RmiaAttack(n_resamples=100), {**data, "population": bare})
