"""Population attacks: what they score, on whom, and what they may never see."""

import json

import numpy as np
import pytest

from forgetmi.attacks.membership import ATTACKS, scored, svc
from forgetmi.attacks.membership.population import EntropyAttack, ModifiedEntropyAttack, ThresholdAttack
from forgetmi.attacks.membership.result import PartSignals, patient_codes, patient_folds
from forgetmi.attacks.membership.scored import fit_threshold
from forgetmi.attacks.membership.svc import PublishedSvcAttack, SvcAttack, batch_means
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc, balanced_accuracy_statistic, evaluate
from forgetmi.options import build_options

FAST = {"n_resamples": 200}


def part(name, losses, records=2):
    losses = np.asarray(losses, dtype=float)
    patients = [f"{name}{k // records}" for k in range(losses.size)]
    return PartSignals({"loss": losses, "entropy": losses, "modified_entropy": losses}, patients)


def parts(seed=0, shift=1.0, forget=60, test=150, retain=500):
    rng = np.random.default_rng(seed)
    return {
        "forget": part("f", rng.exponential(1.0, forget)),
        "test": part("t", rng.exponential(1.0 + shift, test)),
        "retain": part("r", rng.exponential(1.0, retain)),
    }


def run(attack, data, seed=1):
    return attack.result(data["forget"], data["test"], np.random.default_rng(seed), retain=data["retain"])


def reordered(data, seed=5):
    rng = np.random.default_rng(seed)
    mixed = {}
    for name, signals in data.items():
        order = rng.permutation(len(signals.patients))
        values = {key: np.asarray(value)[order] for key, value in signals.signals.items()}
        mixed[name] = PartSignals(values, np.asarray(signals.patients)[order])
    return mixed


@pytest.mark.parametrize("name", ["loss", "entropy", "modified_entropy", "svc"])
def test_every_attack_of_the_registry(name):
    data = parts()
    attack = build_options(ATTACKS[name], {"folds": 4, **FAST}, where="attacks")
    result = run(attack, data)
    assert result.name == attack.name == name
    assert result.figures["auc"].value > 0.55
    assert 0.5 < result.figures["balanced_accuracy"].value < 1
    assert result.figures["auc"].value == auc(result.scores, result.member)
    calls = balanced_accuracy_statistic(result.called, result.member)
    assert result.figures["balanced_accuracy"].value == evaluate(calls, 210)
    counts = result.figures["balanced_accuracy"].counts
    by_hand = (counts["tp"] / counts["n_members"] + 1 - counts["fp"] / counts["n_nonmembers"]) / 2
    assert result.figures["balanced_accuracy"].value == pytest.approx(by_hand)
    assert result.figures["share_called_member"].value == counts["tp"] / 60
    # 150 non-members resolve 1 % but not 0.1 %
    assert result.figures["tpr_at_fpr_0.01"].value is not None
    assert result.figures["tpr_at_fpr_0.001"].value is None
    assert result.figures["tpr_at_fpr_0.001"].counts["n_nonmembers"] == 150
    for figure in result.figures.values():
        assert figure.value is None or figure.interval.low <= figure.value <= figure.interval.high
    assert result.figures["forget_loss"].value == pytest.approx(np.mean(data["forget"].signals["loss"]))
    assert result.figures["test_loss"].value == pytest.approx(np.mean(data["test"].signals["loss"]))
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert "f3" not in text and "t3" not in text  # no patient
    assert result.arrays()["patient"].max() == 30 + 75 - 1


def test_registry_lists_and_refuses():
    assert {"entropy", "loss", "modified_entropy", "published_svc", "svc"} <= set(ATTACKS)
    with pytest.raises(ConfigError, match="Did you mean 'svc'"):
        ATTACKS["svm"]
    with pytest.raises(ConfigError) as error:
        build_options(ATTACKS["entropy"], {"folds": 1, "level": 95, "fprs": [0.0]}, where="attacks")
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError, match="batch_size"):
        PublishedSvcAttack(batch_size=0)
    with pytest.raises(ConfigError, match="max_records"):
        SvcAttack(max_records=1)


def test_threshold_attacks_score_minus_their_signal():
    data = parts()
    low = np.linspace(0, 1, 60)
    data["forget"].signals["entropy"] = low
    data["forget"].signals["modified_entropy"] = low + 9
    for attack, signal in (
        (ThresholdAttack, "loss"),
        (EntropyAttack, "entropy"),
        (ModifiedEntropyAttack, "modified_entropy"),
    ):
        result = run(attack(**FAST), data)
        assert (result.scores[:60] == -np.asarray(data["forget"].signals[signal])).all()
        assert result.options["signal"] == signal


@pytest.mark.parametrize("attack", [ThresholdAttack(**FAST), SvcAttack(**FAST)])
def test_nobody_is_scored_by_a_rule_that_saw_their_patient(attack, monkeypatch):
    data = parts(test=120)
    # every loss is different: a value names its record
    owner = {
        float(loss): patient
        for signals in data.values()
        for loss, patient in zip(signals.signals["loss"], signals.patients, strict=True)
    }
    assert len(owner) == 60 + 120 + 500
    decided, fits = {}, []
    if isinstance(attack, SvcAttack):
        real = svc.fit_svc

        class Spy:
            def __init__(self, members, others):
                self.seen = {owner[float(v)] for v in np.concatenate([members, others])}
                assert all(owner[float(v)][0] == "r" for v in members)
                assert all(owner[float(v)][0] == "t" for v in others)
                assert len(members) == len(others)
                self.model = real(members, others)

            def decision_function(self, losses):
                scored = [owner[float(v)] for v in losses[:, 0]]
                assert not self.seen & set(scored)
                decided.update(dict.fromkeys(map(float, losses[:, 0])))
                fits.append(len(scored))
                return self.model.decision_function(losses)

        monkeypatch.setattr(svc, "fit_svc", Spy)
        run(attack, data)
    else:
        real = scored.fit_threshold
        seen = []

        def spy(scores, member):
            seen.append({owner[float(-v)] for v in scores})
            fits.append(len(scores))
            return real(scores, member)

        monkeypatch.setattr(scored, "fit_threshold", spy)
        result = run(attack, data)
        patients = np.concatenate([data["forget"].patients, data["test"].patients])
        for number, fitted_on in enumerate(seen):
            held_out = set(patients[result.fold == number])
            assert held_out and not held_out & fitted_on
            assert held_out | fitted_on == set(patients)
            assert {name[0] for name in held_out} == {"f", "t"}
        decided = dict.fromkeys(-result.scores)
    assert len(fits) == 5
    assert len(decided) == 180


@pytest.mark.parametrize("attack", [ThresholdAttack(**FAST), SvcAttack(**FAST)])
def test_order_of_records_does_not_matter(attack):
    data = parts()
    first, second = run(attack, data), run(attack, reordered(data))
    assert np.sort(first.scores).tolist() == np.sort(second.scores).tolist()
    for name in ("auc", "balanced_accuracy", "share_called_member", "tpr_at_fpr_0.01"):
        assert first.figures[name].value == second.figures[name].value
        assert first.figures[name].counts == second.figures[name].counts


@pytest.mark.parametrize("attack", [ThresholdAttack(**FAST), SvcAttack(**FAST)])
def test_same_seed_same_result(attack):
    data = parts()
    before = np.asarray(data["forget"].signals["loss"]).copy()
    assert run(attack, data).to_dict() == run(attack, data).to_dict()
    assert (run(attack, data, seed=2).fold != run(attack, data).fold).any()
    assert (np.asarray(data["forget"].signals["loss"]) == before).all()


@pytest.mark.parametrize("attack", [ThresholdAttack(n_resamples=100), SvcAttack(n_resamples=100)])
def test_nothing_leaks_means_one_half(attack):
    results = [run(attack, parts(seed=seed, shift=0.0), seed=seed) for seed in range(20)]
    # sd of an AUC of 60 against 150 is 0.045; of a mean of 20, 0.010
    for name in ("auc", "balanced_accuracy"):
        assert np.mean([r.figures[name].value for r in results]) == pytest.approx(0.5, abs=0.04)
    # an interval at 95 %: more than 4 misses of 20 have a chance of 0.3 %
    assert sum(not r.figures["auc"].interval.contains(0.5) for r in results) <= 4


def test_gap_attack_closed_form():
    """0-1 losses: balanced accuracy = 1/2 + (train accuracy - test accuracy) / 2."""
    forget = np.repeat([0.0, 1.0], [45, 5])  # 0.9
    test = np.repeat([0.0, 1.0], [60, 40])  # 0.6
    rng = np.random.default_rng(0)
    data = {
        "forget": part("f", rng.permutation(forget), 1),
        "test": part("t", rng.permutation(test), 1),
        "retain": None,
    }
    result = run(ThresholdAttack(**FAST), data)
    assert result.figures["balanced_accuracy"].value == pytest.approx(0.5 + (0.9 - 0.6) / 2)
    constant = {"forget": part("f", np.ones(50)), "test": part("t", np.ones(100)), "retain": None}
    result = run(ThresholdAttack(**FAST), constant)
    assert result.figures["auc"].value == result.figures["balanced_accuracy"].value == 0.5


def test_balanced_whatever_the_sizes():
    """Ten times as many test records: calling everybody a non-member must not pay."""
    rng = np.random.default_rng(3)
    data = {"forget": part("f", rng.normal(size=50)), "test": part("t", rng.normal(1.2, 1, 1000)), "retain": None}
    figure = run(ThresholdAttack(**FAST), data).figures["balanced_accuracy"]
    assert figure.value == pytest.approx(0.7257, abs=0.08)  # Phi(0.6)
    assert figure.counts["tp"] > 25


def test_fit_threshold_by_hand():
    member = np.array([True, True, False, False])
    assert fit_threshold(np.array([4.0, 3.0, 1.0, 0.0]), member) == 2.0
    assert fit_threshold(np.array([0.0, 1.0, 3.0, 4.0]), member) == np.inf
    assert fit_threshold(np.zeros(4), member) == np.inf


def test_over_forgetting_shows_beside_the_attack():
    """A destroyed model: the attack finds nothing by its rule, and the forget loss says why."""
    data = parts()
    data["forget"] = part("f", np.full(60, 115.0) + np.arange(60))
    result = run(SvcAttack(**FAST), data)
    assert result.figures["share_called_member"].value <= 0.5
    assert result.figures["forget_loss"].value > 100 > result.figures["test_loss"].value
    assert run(ThresholdAttack(**FAST), data).figures["auc"].value == 0.0
    assert "over-forgetting" in result.figures["auc"].reading("below")


def test_one_patient_to_forget():
    data = parts()
    data["forget"] = PartSignals(data["forget"].signals, ["f"] * 60)
    loss, classifier = run(ThresholdAttack(**FAST), data), run(SvcAttack(**FAST), data)
    assert loss.figures["auc"].value is not None
    assert "1 patient" in loss.figures["auc"].interval.reason
    assert "one patient" in loss.figures["balanced_accuracy"].reason
    assert classifier.figures["balanced_accuracy"].value is not None
    for result in (loss, classifier):
        json.dumps(result.to_dict(), allow_nan=False)


def test_few_patients_reduce_the_folds_and_say_so():
    data = parts(forget=6)
    result = run(ThresholdAttack(**FAST), data)
    assert "3 folds instead of 5" in result.notes[0]
    assert "3-fold" in result.definition
    assert set(result.fold) == {0, 1, 2}


def test_folds_go_by_patient():
    patients = np.repeat([f"p{k}" for k in range(11)], 3)
    folds = patient_folds(patients, 4, np.random.default_rng(0))
    assert (folds.reshape(11, 3) == folds[::3, None]).all()
    assert sorted(np.bincount(folds[::3])) == [2, 3, 3, 3]
    assert patient_codes(["z", "a", "z", "b"]).tolist() == [0, 1, 0, 2]


def test_published_form_is_quantised_and_depends_on_order_and_batch():
    data = parts(seed=4, shift=0.6, forget=7 * 32, test=17 * 32, retain=60 * 32)
    published = PublishedSvcAttack(**FAST)
    result = run(published, data)
    figure = result.figures["share_called_member"]
    assert result.comparison_only
    assert "COMPARISON ONLY" in result.definition
    assert figure.counts["n_forget"] == 7
    assert figure.value * 7 == pytest.approx(round(figure.value * 7))
    assert "no interval" in figure.interval.reason
    assert round(4 / 7, 3) == 0.571  # the published figure is one of eight possible values

    def share(attack, seed=None):
        return run(attack, data if seed is None else reordered(data, seed)).figures["share_called_member"]

    assert len({share(published, seed).value for seed in range(6)}) > 1
    assert len({share(PublishedSvcAttack(batch_size=size, **FAST)).value for size in (8, 32, 64)}) > 1
    assert len({share(SvcAttack(**FAST), seed).value for seed in (None, 0, 1)}) == 1
    assert share(SvcAttack(**FAST)).counts["n_members"] == 224
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.arrays() == {}
    assert result.roc is None


def test_batch_means():
    assert batch_means(np.arange(7.0), 3).tolist() == [1.0, 4.0, 6.0]
    assert batch_means(np.arange(4.0), 2).tolist() == [0.5, 2.5]


def test_max_records_caps_the_fit_and_is_noted():
    result = run(SvcAttack(max_records=40, **FAST), parts())
    assert any("40 to 40 retain records" in note for note in result.notes)


def test_refuses():
    data = parts()
    for attack in (SvcAttack(**FAST), PublishedSvcAttack(**FAST)):
        with pytest.raises(AuditError, match="pass `retain`"):
            attack.result(data["forget"], data["test"], np.random.default_rng(0))
    with pytest.raises(AuditError, match="one test patient"):
        run(SvcAttack(**FAST), {**data, "test": PartSignals({"loss": [1.0, 2.0]}, ["t", "t"])})
    both = {**data, "test": part("f", np.ones(20))}
    for attack in (ThresholdAttack(**FAST), SvcAttack(**FAST), PublishedSvcAttack(**FAST)):
        with pytest.raises(AuditError, match="stands in forget and in test") as error:
            run(attack, both)
        assert "f0" not in error.value.public
    with pytest.raises(AuditError, match="needs the signal 'entropy'"):
        run(EntropyAttack(**FAST), {**data, "test": PartSignals({"loss": np.ones(4)}, list("abcd"))})
    with pytest.raises(AuditError, match="1 of 2 values"):
        run(ThresholdAttack(**FAST), {**data, "test": PartSignals({"loss": [1.0, np.inf]}, ["a", "b"])})
    with pytest.raises(AuditError, match="one value a record"):
        run(ThresholdAttack(**FAST), {**data, "test": PartSignals({"loss": [1.0]}, ["a", "b"])})
