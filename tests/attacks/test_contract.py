"""What every attack of the registry keeps to, whoever wrote it: found by walking the registry, none is named."""

import copy
import dataclasses
import json
import random
from functools import cache

import numpy as np
import pytest
import torch

from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.result import References
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from forgetmi.options import build_options
from tests.attacks.synthetic import only, parts, run, taken, without_references

NAMES = sorted(ATTACKS)


def built(name, **options):
    """The attack with quick intervals."""
    fields = {field.name for field in dataclasses.fields(ATTACKS[name])}
    quick = {"n_resamples": 100} if "n_resamples" in fields else {}
    return build_options(ATTACKS[name], {**quick, **options}, where=f"attacks.{name}")


@cache
def leaking(name):
    return run(built(name), parts())


def per_record(name):
    result = leaking(name)
    if result.scores is None:
        pytest.skip("scores no records")
    return result


@pytest.mark.parametrize("name", NAMES)
def test_result_says_what_was_done(name):
    attack, result = built(name), leaking(name)
    assert result.name == attack.name == name
    assert len(result.definition) > 20
    given = json.loads(json.dumps(dataclasses.asdict(attack)))
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))["options"]
    assert set(given) <= set(told)
    for option, value in given.items():
        # an empty default is resolved, and what it was resolved to is said
        assert told[option] == value or (value in ("", None) and str(told[option]) in result.definition)


@pytest.mark.parametrize("name", NAMES)
def test_figures_lie_in_range_and_inside_their_intervals(name):
    result = leaking(name)
    assert {"share_called_member", "forget_loss", "test_loss"} <= set(result.figures)
    if result.scores is not None:
        assert {"auc", "balanced_accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"} <= set(result.figures)
        assert result.figures["tpr_at_fpr_0.001"].value is None  # 120 non-members do not resolve it
        assert result.figures["auc"].value == auc(result.scores, result.member)
    for key, figure in result.figures.items():
        assert figure.n_patients > 0
        if figure.value is None:
            assert figure.reason
            continue
        if key.split("@")[0].startswith(("auc", "balanced_accuracy", "share_called_member", "tpr_at_fpr_")):
            assert 0.0 <= figure.value <= 1.0
        if figure.interval.low is not None:
            assert figure.interval.low <= figure.value <= figure.interval.high


@pytest.mark.parametrize("name", NAMES)
def test_one_score_a_record(name):
    result = per_record(name)
    assert result.scores.shape == result.member.shape == result.patient.shape == (60 + 120,)
    assert result.member.tolist() == [True] * 60 + [False] * 120
    assert np.isfinite(result.scores).all()
    assert result.patient.tolist() == np.repeat(np.arange(90), 2).tolist()
    if result.called is not None:
        assert result.called.dtype == np.bool_
        assert result.called.shape == (180,)


@pytest.mark.parametrize("name", NAMES)
def test_planted_leakage_is_found(name):
    """Two standard deviations: on the scaled logit, with the true laws of each record, AUC = Phi(2 / sqrt 2) = 0.92."""
    result = per_record(name)
    assert result.figures["auc"].value > 0.6
    if ATTACKS[name].references:
        assert result.figures["auc"].value > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_leaks_it_guesses(name):
    per_record(name)
    values = [run(built(name), parts(seed, shift=0.0), seed).figures["auc"].value for seed in range(20, 28)]
    # sd of one AUC about 0.05 (two records a patient do not differ less than others), of the mean of 8 below 0.02
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_records_does_not_matter(name):
    expected = per_record(name)
    rng = np.random.default_rng(3)
    mixed = {key: taken(value, rng.permutation(len(value.patients))) for key, value in parts().items()}
    result = run(built(name), mixed)
    for side in (True, False):
        ours, theirs = (np.sort(found.scores[found.member == side]) for found in (result, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    for key in ("auc", "balanced_accuracy", "share_called_member", "tpr_at_fpr_0.01"):
        assert result.figures[key].value == pytest.approx(expected.figures[key].value, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if ATTACKS[name].references])
def test_order_of_reference_models_does_not_matter(name):
    expected = per_record(name)
    order = np.random.default_rng(3).permutation(16)
    result = run(built(name), {key: taken(value, models=order) for key, value in parts().items()})
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-9, atol=1e-9)
    assert result.figures["auc"].value == expected.figures["auc"].value


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_result_and_nothing_is_touched(name):
    data = parts()
    before, state = copy.deepcopy(data), (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    result = run(built(name), data)
    assert result.to_dict() == leaking(name).to_dict()
    for key, value in data.items():
        for one, other in zip(_arrays(value), _arrays(before[key]), strict=True):
            np.testing.assert_array_equal(one, other)
    assert random.getstate() == state[0]
    np.testing.assert_equal(np.random.get_state(), state[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[2])


def _arrays(value):
    inside = [array for given in value.references.values() for array in (*given.signals.values(), given.seen)]
    return [*value.signals.values(), value.patients, *inside]


@pytest.mark.parametrize("name", NAMES)
def test_no_patient_is_named(name):
    assert "secret" not in json.dumps(leaking(name).to_dict())
    assert all(array.dtype.kind in "bif" for array in leaking(name).arrays().values())


@pytest.mark.parametrize("name", NAMES)
def test_all_wrong_options_at_once(name):
    fields = {field.name for field in dataclasses.fields(ATTACKS[name])}
    wrong = {
        "folds": 1,
        "fprs": [0.0, 0.01],
        "level": 95.0,
        "n_resamples": 3,
        "alpha": 1.0,
        "gamma": 0.0,
        "mode": "onlin",
        "batch_size": 0,
        "max_records": 1,
        "reference_models": "shadow",
    }
    given = {key: value for key, value in wrong.items() if key in fields}
    with pytest.raises(ConfigError) as error:
        build_options(ATTACKS[name], given, where="attacks")
    assert len(error.value.problems) >= len(given)
    for key in given:
        assert any(key in problem for problem in error.value.problems)
    with pytest.raises(ConfigError, match="unknown option 'foldz'"):
        build_options(ATTACKS[name], {"foldz": 3}, where="attacks")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_signal_is_named(name):
    data = parts()
    needed = [signal for signal in ATTACKS[name].signals if not signal.endswith("@MODALITY")]
    assert needed
    for signal in needed:
        short = {
            key: dataclasses.replace(value, signals={k: v for k, v in value.signals.items() if k != signal})
            for key, value in data.items()
        }
        with pytest.raises(AuditError, match=f"needs the signal '{signal}'"):
            run(built(name), short)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_not_finite_is_refused(name):
    data = parts()
    broken = {key: np.array(value) for key, value in data["test"].signals.items()}
    for values in broken.values():
        values.flat[7] = np.nan
    with pytest.raises(AuditError, match=r"not finite|\[0, 1\]"):
        run(built(name), {**data, "test": dataclasses.replace(data["test"], signals=broken)})


@pytest.mark.parametrize("name", NAMES)
def test_a_patient_on_both_sides_is_refused(name):
    data = parts()
    patients = np.array(data["test"].patients)
    patients[:2] = data["forget"].patients[0]
    with pytest.raises(AuditError, match="stands in forget and in test") as error:
        run(built(name), {**data, "test": dataclasses.replace(data["test"], patients=patients)})
    assert "secret" not in error.value.public


@pytest.mark.parametrize("name", [name for name in NAMES if ATTACKS[name].references])
def test_missing_reference_models_are_refused_with_the_fix(name):
    data = parts()
    with pytest.raises(AuditError, match="reference models") as error:
        run(built(name), without_references(data))
    assert "audit.shadows" in str(error.value)
    with pytest.raises(ConfigError, match=ATTACKS[name].references[0]):
        built(name, reference_models="none such")
    for kind in ATTACKS[name].references:
        result = run(built(name, reference_models=kind), only(data, kind))
        assert kind in result.definition
        assert result.options["reference_models"] == kind
        assert result.to_dict() == {**run(built(name), only(data, kind)).to_dict()}
    stranger = {
        key: dataclasses.replace(value, references={"other": value.references["shadows"]})
        for key, value in data.items()
    }
    with pytest.raises(AuditError, match=r"kind '.*' and there are none|kind .* there are none|reference models"):
        run(built(name), stranger)


@pytest.mark.parametrize("name", [name for name in NAMES if ATTACKS[name].references])
def test_other_reference_models_for_each_part_are_refused(name):
    data = parts()
    fewer = {**data, "test": taken(data["test"], models=slice(4))}
    with pytest.raises(AuditError):
        run(built(name), fewer)
    kind = ATTACKS[name].references[0]
    given = data["test"].references[kind]
    wrong = References(given.signals, np.asarray(given.seen)[:, :-1])
    with pytest.raises(AuditError, match="seen"):
        run(built(name), {**data, "test": dataclasses.replace(data["test"], references={kind: wrong})})


@pytest.mark.parametrize("name", [name for name in NAMES if ATTACKS[name].needs_population])
def test_a_missing_population_is_refused_with_the_fix(name):
    data = parts()
    with pytest.raises(AuditError, match="nobody trained on") as error:
        run(built(name), {**data, "population": None})
    assert "population" in str(error.value)
    both = {**data, "population": dataclasses.replace(data["population"], patients=data["test"].patients)}
    with pytest.raises(AuditError, match="stands in test and in population"):
        run(built(name), both)


def test_some_attacks_compare():
    """The walks above are not empty."""
    assert sum(bool(ATTACKS[name].references) for name in NAMES) >= 4
    assert sum(ATTACKS[name].needs_population for name in NAMES) >= 2
