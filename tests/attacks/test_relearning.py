"""Relearning: what is taught, what is measured, and that only what was hidden comes back."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from forgetmi.attacks.relearning import choose_records, relearn
from forgetmi.attacks.relearning_result import Curve, RelearningOptions, RelearningResult
from forgetmi.errors import AuditError, ConfigError, ModelError
from forgetmi.metrics.per_example import PerExample
from forgetmi.models.lora import LoraOptions
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of, tiny_causal_lm, tiny_gpt2

CASE = language_case()
TRAIN = [i for i in range(len(CASE.dataset)) if CASE.dataset[i].split == "train"]
FORGET = [i for i in TRAIN if CASE.dataset[i].patient_id < "p08"]
RETAIN = [i for i in TRAIN if i not in FORGET]
FIT = FitOptions(batch_size=4, lr=0.1, optimizer="sgd", momentum=0.5, weight_decay=0.0, mode="eval")
OPTIONS = RelearningOptions(n_records=4, steps=(0, 1, 5, 20), fit=FIT)


def trainer(**settings):
    return Trainer(device="cpu", progress=False, **settings)


def trained(indices, seed):
    """By heart: the sequences are random, so nothing else can be learned."""
    model = tiny_gpt2(seed).eval()
    optimiser, batch = torch.optim.AdamW(model.parameters(), lr=1e-2), CASE.loader.batch(indices)
    for _ in range(60):
        optimiser.zero_grad()
        CASE.task.loss(model, batch).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model


@pytest.fixture(scope="module")
def models():
    original = trained(TRAIN, 0)
    hidden = copy.deepcopy(original)  # knows everything, and says hardly any of it
    with torch.no_grad():
        hidden.transformer.ln_f.weight.mul_(0.08)
    others = {f"retrained-{k}": trained(RETAIN, k) for k in (1, 2)}
    return {"original": original, "unlearned": hidden, **others}


def relearned(models, options=OPTIONS, case=CASE, forget=FORGET, **settings):
    return relearn(models, case.task, case.loader, forget, options=options, trainer=trainer(), seed=7, **settings)


@pytest.fixture(scope="module")
def result(models):
    before = {name: state_of(model) for name, model in models.items()}
    state = torch.get_rng_state()
    found = relearned(models)
    assert all(same_state(before[name], state_of(model)) for name, model in models.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for model in models.values() for weight in model.parameters())
    return found


def test_what_was_hidden_comes_back(result):
    figures = result.excess(np.random.default_rng(0), n_resamples=200)
    # Before: no better known than by models that never saw it. Then it is.
    assert figures[0].value < 0.1
    assert figures[-1].interval.low > 0.15
    assert figures[-1].value > figures[1].value
    assert figures[-1].n_patients == len(set(result.rest_patients)) == 6
    assert figures[-1].reading("above").startswith("the model still remembers")


def test_retrained_models_have_no_excess(models, result):
    """One of them in the unlearned model's place; and the same model twice has none at all."""
    null = result.null_excess()
    hidden = [figure.value for figure in result.excess(np.random.default_rng(0), n_resamples=200)]
    assert null.shape == (2, 4)
    np.testing.assert_allclose(null[0], -null[1])
    assert np.abs(null).max() < 0.1 * hidden[-1]
    one = result.excess(np.random.default_rng(0), model="retrained-1", n_resamples=200)
    np.testing.assert_allclose([figure.value for figure in one], null[0])
    assert result.steps_to_original("retrained-1").step is None
    same = relearned({"unlearned": models["retrained-1"], "retrained-1": models["retrained-1"]})
    for figure in same.excess(np.random.default_rng(0), n_resamples=200):
        assert figure.value == 0.0


def test_a_curve_starts_where_the_model_is_and_goes_on_as_by_hand(models):
    """One step of gradient descent on all of the taught records."""
    fit = FitOptions(
        batch_size=99, lr=0.3, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_norm=None, mode="eval"
    )
    found = relearned({"unlearned": models["unlearned"]}, RelearningOptions(n_records=4, steps=(0, 1), fit=fit))
    model = copy.deepcopy(models["unlearned"])
    for number in range(2):
        for part, points in (("rest", "rest"), ("taught", "taught")):
            batch = CASE.loader.batch(getattr(found, part))
            with torch.no_grad():
                expected = (-CASE.task.mean_nll(model, batch)).exp().numpy()
            np.testing.assert_allclose(getattr(found.curves["unlearned"], points)[number].values, expected, rtol=1e-4)
        CASE.task.loss(model, CASE.loader.batch(found.taught)).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.3 * weight.grad
                weight.grad = None


def test_taught_and_measured_records_share_no_patient(result):
    patients = [{CASE.dataset[i].patient_id for i in part} for part in (result.taught, result.rest)]
    assert not patients[0] & patients[1]
    assert sorted(result.taught + result.rest) == FORGET
    assert len(result.taught) == 4
    assert choose_records(CASE.loader, FORGET[::-1], OPTIONS, seed=7) == (list(result.taught), list(result.rest))
    assert choose_records(CASE.loader, FORGET, OPTIONS, seed=8)[0] != list(result.taught)
    odd, _ = choose_records(CASE.loader, FORGET, replace(OPTIONS, n_records=3), seed=7)
    assert len(odd) == 4  # whole patients


def test_taught_records_are_learned_by_all(result):
    for curve in result.curves.values():
        first, last = (np.mean(curve.taught[n].values) for n in (0, -1))
        assert last > first - 1e-6
    by_patient = result.figures("unlearned", np.random.default_rng(0), of="taught", n_resamples=200)
    assert [figure.n_patients for figure in by_patient] == [2] * 4
    assert len(result.figures("unlearned", np.random.default_rng(0), n_resamples=200)) == 4


def test_other_records_may_be_taught(models):
    options = replace(OPTIONS, what="control", n_records=5, steps=(0, 2))
    found = relearned({"unlearned": models["unlearned"], "retrained-1": models["retrained-1"]}, options, pool=RETAIN)
    assert set(found.taught) <= set(RETAIN)
    assert len(found.taught) == 5
    assert list(found.rest) == FORGET
    assert found.to_dict()["what"] == "control"
    with pytest.raises(AuditError, match="0 related records"):
        relearned({}, replace(OPTIONS, what="related"))
    with pytest.raises(AuditError, match="of the pool are forget records"):
        relearned({}, replace(OPTIONS, what="related"), pool=[*RETAIN, FORGET[0]])
    with pytest.raises(AuditError, match="leaves none to measure"):
        relearned({}, replace(OPTIONS, n_records=99))


def test_same_seed_same_curves_and_order_of_models_does_not_matter(models, result):
    again = relearned({name: models[name] for name in ("retrained-1", "unlearned")})
    assert again.to_dict()["curves"] == {name: result.to_dict()["curves"][name] for name in again.curves}


def test_nothing_is_written(models, tmp_path):
    whole = trainer(checkpoint_dir=tmp_path)
    options = replace(OPTIONS, steps=(0, 2), fit=replace(FIT, checkpoint_every=1))
    relearn({"unlearned": models["unlearned"]}, CASE.task, CASE.loader, FORGET, options=options, trainer=whole, seed=7)
    assert list(tmp_path.iterdir()) == []
    assert whole.checkpoint_dir == tmp_path


def test_adapters():
    """One that is there is merged and all weights are taught; or one is put in, and only it is."""
    case, seen = adapter_case(), []
    adapted = tiny_causal_lm().adapted(LoraOptions(r=2), seed=3)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    before = state_of(adapted)

    def by(model, indices):
        seen.append({name for name, weight in model.named_parameters() if weight.requires_grad})
        with torch.no_grad():
            values = case.task.mean_nll(model, case.loader.batch(list(indices))).double().numpy()
        return PerExample("loss", values, "remembers_below", "{value}", None)

    options = replace(OPTIONS, steps=(0, 1))
    merged = relearned({"unlearned": adapted.without_adapter(merge=True)}, options, case, measure_by=by)
    seen.clear()
    whole = relearned({"unlearned": adapted}, options, case, measure_by=by)
    assert not any("lora" in name for name in seen[0])
    for one, other in zip(whole.curves["unlearned"].rest, merged.curves["unlearned"].rest, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-5)
    seen.clear()
    part = relearned({"unlearned": adapted}, replace(options, lora=LoraOptions(r=2)), case, measure_by=by)
    assert seen[0]
    assert all("lora" in name for name in seen[0])
    np.testing.assert_allclose(
        part.curves["unlearned"].rest[0].values, whole.curves["unlearned"].rest[0].values, rtol=1e-5
    )
    assert (part.curves["unlearned"].rest[1].values != whole.curves["unlearned"].rest[1].values).all()
    assert same_state(before, state_of(adapted))
    with pytest.raises(ModelError, match="language models"):
        relearned({"unlearned": classifier_case().model}, replace(options, lora=LoraOptions()))


def test_classifiers_too():
    case = classifier_case()
    found = relearned(
        {"original": case.model, "unlearned": case.build(1), "retrained-1": case.build(2)},
        RelearningOptions(n_records=2, steps=(0, 1, 4), fit=FitOptions(lr=1e-2, weight_decay=0.0, mode="eval")),
        case,
        list(case.partition.forget),
    )
    assert all(len(curve.rest) == 3 for curve in found.curves.values())
    assert np.mean(found.curves["unlearned"].taught[-1].values) > np.mean(found.curves["unlearned"].taught[0].values)
    assert "p0" not in json.dumps(found.to_dict(), allow_nan=False)


def test_a_model_that_breaks_on_the_way_stops_there(models):
    fit = FitOptions(batch_size=4, lr=1e30, optimizer="sgd", clip_norm=None, mode="eval")
    broken = {"original": models["original"], "unlearned": models["unlearned"], "retrained-1": models["retrained-1"]}
    found = relearned(broken, replace(OPTIONS, fit=fit))
    curve = found.curves["unlearned"]
    assert 1 <= len(curve.rest) < 4
    assert curve.stopped.startswith("stopped after")
    figures = found.excess(np.random.default_rng(0), n_resamples=200)
    assert figures[0].value is not None
    assert "unlearned: stopped after" in figures[-1].reason
    assert found.steps_to_original().step is None
    json.dumps(found.to_dict(), allow_nan=False)


def by_hand(**levels):
    """Curves of one record's probability after 0, 1, 2, 5 steps."""

    def point(value):
        return PerExample("p", [value, value], "remembers_above", "{value}")

    curves = {
        name.replace("_", "-"): Curve(tuple(map(point, values)), tuple(map(point, values)))
        for name, values in levels.items()
    }
    options = RelearningOptions(steps=(0, 1, 2, 5))
    return RelearningResult(options, curves, (0,), (1, 2), np.array([0]), np.array([0, 1]))


def test_levels_by_hand():
    found = by_hand(original=[0.9] * 4, unlearned=[0.1, 0.4, 0.7, 0.95], retrained_1=[0.1, 0.2, 0.3, 0.6])
    excess = found.excess(np.random.default_rng(0), n_resamples=100)
    assert [figure.value for figure in excess] == pytest.approx([0.0, 0.2, 0.4, 0.35])
    # Half way: 0.5, 0.55, 0.6, 0.75.
    assert found.steps_half_way().step == 2
    assert found.steps_to_original().step == 5
    assert found.steps_to_original("retrained-1") == (None, "not within 5 steps")
    told = found.to_dict()
    assert told["reached"]["half_way"]["unlearned"]["step"] == 2
    assert told["curves"]["unlearned"]["rest"] == pytest.approx([0.1, 0.4, 0.7, 0.95])
    learned = by_hand(original=[0.2] * 4, unlearned=[0.1] * 4, retrained_1=[0.3] * 4)
    assert learned.steps_half_way().step is None
    assert "learned as much" in learned.steps_half_way().reason
    with pytest.raises(AuditError, match="there is none"):
        by_hand(original=[0.9] * 4, unlearned=[0.1] * 4).excess(np.random.default_rng(0))
    with pytest.raises(AuditError, match="two or more"):
        found.null_excess()


def test_options_are_checked_at_once():
    with pytest.raises(ConfigError) as error:
        RelearningOptions(what="all", n_records=0, steps=(1, 2))
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError, match="steps must rise"):
        RelearningOptions(steps=(0, 5, 5))
