"""Forgetting neural networks: limits, what the ranks see, rounds, and that nothing extra is shipped."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods import fnn as fnn_module
from forgetmi.methods.fnn import FNN
from forgetmi.parts.edits.forgetting_layers import insert_forgetting
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.training.options import FitOptions
from tests.tiny import classifier_case, killed_after, language_case, same_state, state_of

NO_REPAIR = FitOptions(epochs=0)
REPAIR = FitOptions(epochs=1, batch_size=8, lr=1e-2)
KINDS = ("fixed", "random", "rank", "contrastive")


@pytest.mark.parametrize("case_of", [classifier_case, language_case])
@pytest.mark.parametrize("kind", KINDS)
def test_without_time_or_with_endless_memory_it_is_the_identity(kind, case_of):
    case = case_of()
    before = state_of(case.model)
    for options in ({"step": 0.0}, {"tau": 1e30, "tau_min": 1e30, "tau_max": 1e30}):
        assert same_state(before, state_of(FNN(kind=kind, fit=NO_REPAIR, **options).unlearn(case.job())))
    assert not same_state(before, state_of(FNN(kind=kind, fit=NO_REPAIR).unlearn(case.job())))


@pytest.mark.parametrize("rank_again", [False, True])
def test_without_time_it_is_fine_tuning_exactly(rank_again):
    case = classifier_case()
    tuned = build_method("fine_tune", {"fit": {"epochs": 3, "batch_size": 8, "lr": 1e-2}}).unlearn(case.job(seed=4))
    method = FNN(rounds=3, step=0.0, fit=REPAIR, layers=("projections.*",), rank_again=rank_again)
    assert same_state(state_of(tuned), state_of(method.unlearn(case.job(seed=4))))


@pytest.mark.parametrize("rank_again", [False, True])
@pytest.mark.parametrize("kill_after", [2, 5, 8])
def test_a_round_that_was_killed_resumes_with_the_time_that_had_gone_by(rank_again, kill_after, tmp_path):
    case = classifier_case()
    fit = FitOptions(epochs=2, batch_size=13, lr=1e-2, checkpoint_every=1)  # 2 steps an epoch, 4 a round
    method = FNN(
        rounds=3, fit=fit, layers=("projections.*", "encoders.film.stem.0"), rank_again=rank_again, tau_min=1.0
    )
    unbroken = method.unlearn(case.job())
    with killed_after(kill_after):
        method.unlearn(case.job(folder=tmp_path))
    resumed = method.unlearn(case.job(folder=tmp_path, resume=True))
    assert same_state(state_of(unbroken), state_of(resumed))


@pytest.mark.parametrize("kind", ["rank", "fixed"])
def test_equal_constants_make_every_kind_the_fixed_one(kind):
    case = classifier_case()
    fixed = FNN(kind="fixed", tau=7.0, fit=REPAIR, rounds=2).unlearn(case.job())
    other = FNN(kind=kind, tau=7.0, tau_min=7.0, tau_max=7.0, fit=REPAIR, rounds=2).unlearn(case.job())
    assert same_state(state_of(fixed), state_of(other))


def test_what_is_shipped_is_the_model_with_its_layers_and_has_none():
    """By hand: layers behind two modules, t = 2 of tau = 4, and the same outputs to 1e-6."""
    case = classifier_case()
    names = ("projections.film", "encoders.note.layers.layers.0.linear1")
    shipped = FNN(kind="fixed", tau=4.0, rounds=4, step=0.5, layers=names, fit=NO_REPAIR).unlearn(case.job())
    by_hand = copy.deepcopy(case.model)
    batch = case.loader.batch(case.partition.test)
    layers = insert_forgetting(by_hand, names)
    with torch.no_grad():
        by_hand(batch)
        for layer in layers.values():
            layer.fade(torch.full((layer.units,), 4.0), 2.0)
        expected, found = by_hand(batch), shipped(batch)
    assert torch.allclose(found.logits, expected.logits, atol=1e-6)
    assert torch.allclose(found.unimodal["film"], expected.unimodal["film"], atol=1e-6)
    assert state_of(shipped).keys() == state_of(case.model).keys()
    assert [type(m) for m in shipped.modules()] == [type(m) for m in case.model.modules()]
    assert not any("forgetting" in m.__dict__ for m in shipped.modules())
    moved = [k for k, v in state_of(shipped).items() if not torch.equal(v, state_of(case.model)[k])]
    assert moved == [
        "encoders.note.layers.layers.0.linear1.weight",
        "encoders.note.layers.layers.0.linear1.bias",
        "projections.film.weight",
        "projections.film.bias",
    ]


def factors(method: FNN, case, layer: str) -> torch.Tensor:
    """What each row of a linear layer was multiplied by."""
    before, after = case.model.get_submodule(layer).weight, method.unlearn(case.job()).get_submodule(layer).weight
    return (after / before).median(dim=1).values


def test_what_the_forget_records_use_most_fades_most():
    case = classifier_case()
    method = FNN(kind="rank", rounds=1, tau_min=1.0, tau_max=8.0, layers=("projections.film",), fit=NO_REPAIR)
    phi = factors(method, case, "projections.film")
    films = [case.loader.batch([i]) for i in case.partition.forget if case.dataset[i].value("film") is not None]
    with torch.no_grad():
        use = torch.stack([case.model(b).unimodal["film"][0].abs() for b in films]).mean(dim=0)
    rank = use.argsort(descending=True).argsort()  # of 8 units: time constants 1..8
    assert torch.allclose(phi, torch.exp(-1.0 / (1.0 + rank.float())), atol=1e-5)


def test_ranks_look_at_forget_records_only_and_at_no_label():
    case = classifier_case()
    method = FNN(kind="rank", rounds=1, layers=("projections.*",), fit=NO_REPAIR)
    expected = state_of(method.unlearn(case.job()))
    changed = copy.deepcopy(case)
    retain = dict.fromkeys(case.partition.retain, case.dataset[case.partition.test[0]])
    records = {i: case.dataset[i] for i in case.partition.forget}
    labels = {i: replace(record, label=(record.label + 1) % 3) for i, record in records.items()}
    changed.loader = case.loader.restricted_to({**retain, **labels})
    assert same_state(expected, state_of(method.unlearn(changed.job())))
    contrastive = FNN(kind="contrastive", rounds=1, layers=("projections.*",), fit=NO_REPAIR)
    assert not same_state(state_of(contrastive.unlearn(case.job())), state_of(contrastive.unlearn(changed.job())))


def test_a_share_of_the_units_only():
    case = classifier_case()
    options = {"rounds": 2, "layers": ("projections.film",), "fit": NO_REPAIR, "tau_min": 2.0, "tau_max": 2.0}
    phi = factors(FNN(kind="contrastive", top_share=0.25, **options), case, "projections.film")
    assert sorted(phi.tolist()) == pytest.approx([0.36788] * 2 + [1.0] * 6, abs=1e-4)


def test_ranking_again_adds_exponents(monkeypatch):
    case = classifier_case()
    options = {"layers": ("projections.film",), "tau_min": 1.0, "tau_max": 8.0, "fit": NO_REPAIR, "rounds": 2}
    rising, falling = torch.arange(8.0), -torch.arange(8.0)
    measured = iter([rising, falling, rising])
    monkeypatch.setattr(fnn_module, "mean_activations", lambda *_: {"projections.film": next(measured)})
    again = factors(FNN(rank_again=True, **options), case, "projections.film")
    up = 1 / (8 - torch.arange(8.0))
    assert torch.allclose(-again.log(), up + up.flip(0), atol=1e-4)
    once = factors(FNN(**options), case, "projections.film")
    assert torch.allclose(-once.log(), 2 * up, atol=1e-4)


def test_a_modality_that_is_not_to_be_forgotten_does_not_fade():
    case = classifier_case()
    request = ForgetRequest.of("modality", ["p00", "p03", "p07"], modalities=["film"], id_level="patient")
    case.partition = resolve(case.dataset, request)
    shipped = FNN(fit=NO_REPAIR, layers=("projections.*",)).unlearn(case.job())
    assert torch.equal(shipped.projections["note"].weight, case.model.projections["note"].weight)
    assert not torch.equal(shipped.projections["film"].weight, case.model.projections["film"].weight)


def test_layers_that_cannot_be_folded_are_refused_before_anything_is_trained():
    case = classifier_case()
    job = case.job()
    with pytest.raises(MethodError, match=r"encoders\.note\.positions: "):
        FNN(layers=("encoders.note.dropout", "encoders.note.positions", "projections.film")).unlearn(job)
    assert not job.trainer.log.events
    with pytest.raises(MethodError, match=r"projections\.film"):
        FNN(layers=("projection.film",)).unlearn(job)
    case.model.requires_grad_(False)
    case.model.head.bias.requires_grad_(True)
    with pytest.raises(MethodError, match="no hidden layer whose weights may change"):
        FNN().unlearn(case.job())


def test_the_log_says_what_was_folded_where():
    job = classifier_case().job()
    FNN(kind="fixed", tau=2.0, rounds=2, layers=("projections.*",), fit=NO_REPAIR).unlearn(job)
    (event,) = [e for e in job.trainer.log.events if e["event"] == "forgetting_layers"]
    assert event["folded"] == {f"projections.{m}": f"rows of projections.{m}" for m in ("film", "note")}
    assert event["units"] == 16
    assert event["smallest_factor"] == pytest.approx(0.36788, abs=1e-4)


def test_every_wrong_option_is_named():
    wrong = {"tau": 0.0, "tau_min": 5.0, "tau_max": 2.0, "rounds": 0, "step": -1.0, "top_share": 0.0}
    with pytest.raises(ConfigError) as caught:
        build_method("fnn", wrong)
    assert len(caught.value.problems) == 5
    with pytest.raises(ConfigError, match="need kind: rank or contrastive"):
        FNN(kind="fixed", rank_again=True)
    with pytest.raises(ConfigError, match="finite"):
        FNN(tau_max=float("inf"))
