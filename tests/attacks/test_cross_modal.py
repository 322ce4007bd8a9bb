"""The cross-modal attack: pairs that leak without their halves, halves that leak without the pair, and nothing."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from forgetmi.attacks.membership import ATTACKS, cross_modal
from forgetmi.attacks.membership.cross_modal import CrossModalAttack, joint_score, pair_surplus
from forgetmi.attacks.membership.result import PartSignals, patient_folds
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from forgetmi.options import build_options

FAST = {"n_resamples": 200}
FIGURES = ("auc", "auc_pair", "auc_surplus", "auc@film", "auc@note")


def part(seed, name, patients, *, pair=0.0, halves=0.0, follows=True, each=2):
    """The pair's phi is 0.6 and 0.5 of its halves' plus noise of sd 0.7; a patient's records resemble each other."""
    rng = np.random.default_rng([seed, len(name)])
    codes = np.repeat(np.arange(patients), each)
    own = (rng.normal(size=(patients, 3))[codes] + rng.normal(size=(codes.size, 3))) / np.sqrt(2)
    film, note = own[:, 0] + halves, own[:, 1] + halves
    base = own if not follows else np.column_stack([film, note])
    phi = 0.6 * base[:, 0] + 0.5 * base[:, 1] + 0.7 * own[:, 2] + pair
    signals = {"loss": -phi, "scaled_logit": phi, "scaled_logit@film": film, "scaled_logit@note": note}
    return PartSignals(signals, np.array([f"{name}{k:03d}" for k in range(patients)])[codes])


def parts(seed=0, patients=(60, 90), **leak):
    return part(seed, "f", patients[0], **leak), part(seed, "te", patients[1])


def run(data, seed=1, **options):
    return CrossModalAttack(**{**FAST, "score": "joint", **options}).result(*data, np.random.default_rng(seed))


def values(result):
    return {name: result.figures[name].value for name in FIGURES}


@pytest.mark.parametrize("score", ["joint", "surplus"])
def test_the_pair_leaks_and_its_halves_do_not(score):
    found = run(parts(pair=1.0), score=score)
    figures = values(found)
    # surplus: two laws of sd 0.7, 1 apart; the pair's own sd is sqrt(0.36 + 0.25 + 0.49)
    assert figures["auc_surplus"] == pytest.approx(norm.cdf(1 / (0.7 * np.sqrt(2))), abs=0.07)
    assert figures["auc_pair"] == pytest.approx(norm.cdf(1 / np.sqrt(2 * 1.1)), abs=0.08)
    assert figures["auc"] > figures["auc_pair"] + 0.03  # taking the halves into account helps
    for name in ("film", "note"):
        assert found.figures[f"auc@{name}"].interval.contains(0.5)
    assert found.figures["auc_surplus"].interval.low > 0.7
    assert found.figures["balanced_accuracy"].value > 0.6
    if score == "surplus":
        assert figures["auc"] == figures["auc_surplus"]


def test_the_halves_leak_and_the_pair_adds_nothing():
    found = run(parts(halves=1.0))
    figures = values(found)
    assert found.figures["auc_surplus"].interval.contains(0.5)
    assert figures["auc_surplus"] == pytest.approx(0.5, abs=0.08)
    for name in ("film", "note"):
        assert figures[f"auc@{name}"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.09)
    # two independent halves, each 1 apart: sqrt(2) apart together
    assert figures["auc"] == pytest.approx(norm.cdf(1.0), abs=0.08)


def test_the_halves_leak_what_the_pair_does_not():
    found = run(parts(halves=1.0, follows=False))
    assert found.figures["auc_pair"].interval.contains(0.5)
    assert found.figures["auc_surplus"].interval.high < 0.4
    assert found.figures["auc"].value > 0.75


@pytest.mark.parametrize("score", ["joint", "surplus"])
def test_nothing_leaks_means_one_half(score):
    results = [run(parts(seed, (15, 25)), seed=seed, score=score, n_resamples=100) for seed in range(60)]
    # sd of an AUC of 15 against 25 patients is about 0.09; of a mean of 60, 0.012
    for name in (*FIGURES, "balanced_accuracy"):
        assert np.mean([r.figures[name].value for r in results]) == pytest.approx(0.5, abs=0.035), name


def test_joint_scores_are_ranks_inside_the_fold():
    """Log-odds of different fits do not compare: an offset of one fold's log-odds must not move its records."""
    rng = np.random.default_rng(0)
    member = np.arange(23) < 11
    fold = np.concatenate([patient_folds(np.arange(n), 4, rng) for n in (11, 12)])
    scores = joint_score(rng.normal(size=23), rng.normal(size=(23, 2)), member, fold)
    for k in range(4):
        size = (fold == k).sum()
        assert np.sort(scores[fold == k]) == pytest.approx((np.arange(size) + 0.5) / size)
    constant = joint_score(np.zeros(23), np.zeros((23, 2)), member, fold)
    assert constant.tolist() == [0.5] * 23  # ties share the middle
    assert auc(constant, member) == 0.5


def test_surplus_equals_normal_equations_and_sees_only_other_folds():
    forget, test = parts(patients=(20, 30))
    phi = np.concatenate([p.signals["scaled_logit"] for p in (forget, test)])
    halves = np.column_stack(
        [np.concatenate([p.signals[f"scaled_logit@{m}"] for p in (forget, test)]) for m in ("film", "note")]
    )
    member = np.repeat([True, False], [40, 60])
    rng = np.random.default_rng(0)
    fold = np.concatenate([patient_folds(p.patients, 4, rng) for p in (forget, test)])
    surplus = pair_surplus(phi, halves, member, fold)
    for k in range(4):
        use = (fold != k) & ~member
        design = np.column_stack([np.ones(use.sum()), halves[use]])
        weights = np.linalg.solve(design.T @ design, design.T @ phi[use])
        here = fold == k
        expected = phi[here] - weights[0] - halves[here] @ weights[1:]
        assert surplus[here] == pytest.approx(expected, abs=1e-10)
    # what a record and its fold say does not move its own fit, and no member moves any fit
    changed = np.where((fold == 1) | member, phi + 5.0, phi)
    moved = pair_surplus(changed, halves, member, fold) - surplus
    assert moved[(fold == 1)] == pytest.approx(5.0, abs=1e-9)
    # a pair that is a linear function of its halves has no surplus; an affine map of a half changes nothing
    assert pair_surplus(2.0 + halves @ [3.0, -1.0], halves, member, fold) == pytest.approx(0.0, abs=1e-9)
    assert pair_surplus(phi, 7.0 * halves - 3.0, member, fold) == pytest.approx(surplus, abs=1e-9)
    twice = np.column_stack([halves, halves[:, 0]])  # a half that repeats another
    assert pair_surplus(phi, twice, member, fold) == pytest.approx(surplus, abs=1e-8)


def test_joint_is_fitted_on_other_folds_and_balanced(monkeypatch):
    forget, test = parts(patients=(10, 60))
    owner = {
        float(phi): patient
        for p in (forget, test)
        for phi, patient in zip(p.signals["scaled_logit"], p.patients, strict=True)
    }
    assert len(owner) == 140
    real, fits = cross_modal.make_pipeline, []

    def spy(scaler, regression):
        assert regression.class_weight == "balanced"
        made = real(scaler, regression)
        fit, decide = made.fit, made.decision_function
        seen = set()

        def spied_fit(features, labels):
            seen.update(owner[float(phi)] for phi in features[:, 0])
            return fit(features, labels)

        def spied_decide(features):
            scored = {owner[float(phi)] for phi in features[:, 0]}
            assert scored and not scored & seen and scored | seen == set(owner.values())
            fits.append(scored)
            return decide(features)

        made.fit, made.decision_function = spied_fit, spied_decide
        return made

    monkeypatch.setattr(cross_modal, "make_pipeline", spy)
    found = run((forget, test))
    assert len(fits) == 5
    assert all(len({name[0] for name in scored}) == 2 for scored in fits)
    assert ((found.scores > 0) & (found.scores < 1)).all()


@pytest.mark.parametrize("score", ["joint", "surplus"])
def test_order_and_seed(score):
    data = parts(pair=0.5)
    first = run(data, score=score)
    assert first.to_dict() == run(data, score=score).to_dict()
    mixed = []
    for p in data:
        order = np.random.default_rng(3).permutation(len(p.patients))
        mixed.append(PartSignals({k: v[order] for k, v in p.signals.items()}, p.patients[order]))
    second = run(mixed, score=score)
    for name in (*FIGURES, "balanced_accuracy"):
        assert second.figures[name].value == pytest.approx(first.figures[name].value, abs=1e-9)


def test_only_whole_records_are_pairs():
    forget, test = parts(pair=1.0)
    for p, lacking in ((forget, [0, 5]), (test, [1])):
        there = np.ones(len(p.patients))
        there[lacking] = 0.0
        p.signals["present@film"], p.signals["present@note"] = there, np.ones(len(p.patients))
        for name in ("scaled_logit", "scaled_logit@film", "scaled_logit@note", "loss"):
            p.signals[name] = np.where(there > 0, p.signals[name], 1e6)  # whatever stands there has no say
    found = run((forget, test))
    assert "118 of 120 forget records and 179 of 180 test records" in found.notes[0]
    assert found.scores.size == 118 + 179
    assert found.figures["auc_surplus"].value > 0.7
    assert found.figures["test_loss"].value < 10
    forget.signals["present@note"] = np.zeros(len(forget.patients))
    with pytest.raises(AuditError, match="no forget record has every modality"):
        run((forget, test))


def test_one_forgotten_patient():
    forget, test = parts(patients=(1, 30), pair=3.0)
    with pytest.raises(AuditError, match="score: surplus"):
        run((forget, test))
    found = run((forget, test), score="surplus")
    assert found.figures["auc"].value > 0.9
    assert "1 patient" in found.figures["auc"].interval.reason
    json.dumps(found.to_dict(), allow_nan=False)


def test_registry_result_and_refusals():
    data = parts()
    attack = build_options(ATTACKS["cross_modal"], {"score": "surplus", **FAST}, where="attacks")
    result = attack.result(*data, np.random.default_rng(0))
    assert result.name == attack.name == "cross_modal"
    assert "modalities: film, note" in result.definition and "surplus" in result.definition
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert "f003" not in text and "te003" not in text
    for figure in result.figures.values():
        assert figure.value is None or figure.interval.low <= figure.value <= figure.interval.high
    with pytest.raises(ConfigError, match="Did you mean 'joint'"):
        CrossModalAttack(score="join")
    single = PartSignals({"scaled_logit": [1.0], "scaled_logit@film": [1.0]}, ["a"])
    with pytest.raises(AuditError, match="1 modalities to be asked alone"):
        run((single, data[1]))
    with pytest.raises(AuditError, match="needs the signal 'scaled_logit@note'"):
        run((data[0], PartSignals({k: v for k, v in data[1].signals.items() if "note" not in k}, data[1].patients)))
    with pytest.raises(AuditError, match="stands in forget and in test"):
        run((data[0], data[0]))
    with pytest.raises(AuditError, match="too few to fit"):
        run(parts(patients=(4, 2)), score="surplus")
    broken = {**data[0].signals, "scaled_logit": np.full(120, np.nan)}
    with pytest.raises(AuditError, match="not finite"):
        run((PartSignals(broken, data[0].patients), data[1]))
    phi, member = np.zeros(4), np.array([True, True, False, False])
    with pytest.raises(AuditError, match="two folds"):
        pair_surplus(phi, np.zeros((4, 2)), member, np.zeros(4))
    with pytest.raises(AuditError, match="halves"):
        pair_surplus(phi, np.zeros((3, 2)), member, np.arange(4))
    with pytest.raises(AuditError, match="one fold only"):
        joint_score(phi, np.zeros((4, 2)), member, np.array([0, 0, 1, 1]))
