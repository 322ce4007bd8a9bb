"""Asking a model in several ways: what depends on the seed, and what on nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.attacks.membership import signals
from forgetmi.attacks.membership.cross_modal import CrossModalAttack
from forgetmi.attacks.membership.label_only import LabelOnlyAttack
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.batch import Loader
from forgetmi.errors import AuditError, ConfigError, ModelError
from forgetmi.models.output import ModelOutput
from forgetmi.training.queries import collect_by_modality, collect_queries
from forgetmi.training.scoring import collect_signals
from tests.tiny import classifier_case, language_case
from tests.training.toys import TASK, Net, vector_loader

CPU = torch.device("cpu")
INDICES = tuple(range(20))


@pytest.fixture(scope="module")
def case():
    return classifier_case()


def ask(case, indices=INDICES, *, model=None, **options):
    options = {"n_queries": 4, "seed": 5, "batch_size": 8, "device": CPU, **options}
    return collect_queries(model or case.model, case.task, case.loader, indices, **options)


def alone(case, indices=INDICES, *, model=None, loader=None, batch_size=8):
    return collect_by_modality(
        model or case.model, case.task, loader or case.loader, indices, batch_size=batch_size, device=CPU
    )


def test_the_first_query_is_the_record_as_it_is(case):
    asked = ask(case)
    clean = collect_signals(case.model, case.task, case.loader, INDICES, batch_size=8, device=CPU)
    assert set(asked) == {"nll", "logits", "correct"}
    assert asked["nll"].shape == asked["correct"].shape == (20, 4)
    assert asked["logits"].shape == (20, 4, 3)
    for name in ("nll", "logits"):
        assert (asked[name][:, 0] == clean[name]).all()
        assert (asked[name][:, 1:] != asked[name][:, :1]).any()
    labels = np.array([case.dataset[i].label for i in INDICES])
    assert (asked["correct"] == (asked["logits"].argmax(axis=2) == labels[:, None])).all()
    assert 0 < asked["correct"].mean() < 1
    repeated = signals.nll(asked["logits"].reshape(-1, 3), np.repeat(labels, 4)).reshape(20, 4)
    assert asked["nll"] == pytest.approx(repeated, abs=1e-5)
    one = ask(case, n_queries=1)
    assert (one["nll"][:, 0] == clean["nll"]).all()


def test_noise_depends_on_seed_and_query_only(case):
    first = ask(case)
    for size in (1, 3, 64):
        assert ask(case, batch_size=size)["nll"] == pytest.approx(first["nll"], abs=1e-5)
    order = np.random.default_rng(0).permutation(20)
    mixed = ask(case, [INDICES[i] for i in order])
    assert mixed["nll"] == pytest.approx(first["nll"][order], abs=1e-5)
    assert (mixed["correct"] == first["correct"][order]).all()
    few = ask(case, INDICES[7:9], n_queries=3)  # neither other records nor further queries matter
    assert few["nll"] == pytest.approx(first["nll"][7:9, :3], abs=1e-5)
    assert (ask(case)["logits"] == first["logits"]).all()
    other = ask(case, seed=6)
    assert (other["nll"][:, 0] == first["nll"][:, 0]).all()
    assert (np.abs(other["nll"][:, 1:] - first["nll"][:, 1:]) > 1e-4).mean() > 0.8
    # queries are different copies
    assert (np.abs(first["nll"][:, 1] - first["nll"][:, 2]) > 1e-4).mean() > 0.8


def test_another_model_is_asked_with_the_same_copies(case):
    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, batch):
            self.seen.append(batch.inputs["film"].sum(dim=(1, 2, 3)))
            return ModelOutput(torch.zeros(len(batch), 3))

    models = [Echo(), Echo()]
    for model in models:
        ask(case, model=model)
    assert torch.equal(*(torch.cat(model.seen) for model in models))


def test_strength_is_as_asked(case):
    still = {"image": {"sd": 0.0}, "text": {"level": 0.0, "max_keywords": 0}}
    asked = ask(case, noise=still)
    assert asked["nll"] == pytest.approx(np.repeat(asked["nll"][:, :1], 4, axis=1), abs=1e-6)
    moved = [
        np.abs(np.diff(ask(case, noise={**still, "image": {"sd": sd}})["nll"], axis=1)).mean() for sd in (0.02, 0.3)
    ]
    assert 0 < 3 * moved[0] < moved[1]
    with pytest.raises(ConfigError, match="strength"):
        ask(case, noise={"image": {"strength": 1}})


def test_model_and_generators_are_left_as_they_were(case):
    model = classifier_case().model.train()
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = ask(case, model=model)
    shown = alone(case, model=model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()
    assert (ask(case, model=model)["logits"] == asked["logits"]).all()  # asked in eval mode both times
    assert (alone(case, model=model)["logits@film"] == shown["logits@film"]).all()


def test_robust_records_are_told_from_others():
    """A model that is sure of some records and undecided about others: only noise tells them apart."""

    class Margin(nn.Module):
        def forward(self, batch):
            score = batch.inputs["x"].sum(dim=1)
            return ModelOutput(torch.stack([score, -score, torch.full_like(score, -1e3)], dim=1))

    loader = vector_loader()
    rows = [loader.record(i) for i in range(10)]
    shown = {
        i: replace(record, modalities={"x": np.full(4, 1.5 if i < 5 else 0.1)}, label=0)
        for i, record in enumerate(rows)
    }
    asked = collect_queries(
        Margin(), TASK, loader.restricted_to(shown), range(10), n_queries=41, seed=0, batch_size=4, device=CPU
    )["correct"]
    assert (asked[:, 0] == 1).all()
    # the sum of four values plus four standard normals is right with probability Phi(sum / 2): Phi(3) and Phi(0.2)
    assert asked[:5, 1:].mean() > 0.97
    assert asked[5:, 1:].mean() == pytest.approx(0.579, abs=0.14)
    forget, test = (PartSignals({"correct": asked[a:b]}, np.arange(a, b)) for a, b in ((0, 5), (5, 10)))
    result = LabelOnlyAttack(n_resamples=100).result(forget, test, np.random.default_rng(0))
    assert result.figures["auc"].value == 1.0 and result.figures["balanced_accuracy@gap"].value == 0.5


def test_one_modality_alone(case):
    shown = alone(case)
    assert set(shown) == {f"{s}@{m}" for s in ("nll", "logits", "present") for m in ("film", "note")}
    assert shown["logits@film"].shape == (20, 3)
    whole = collect_signals(case.model, case.task, case.loader, INDICES, batch_size=8, device=CPU)["logits"]
    has = {name: np.array([case.dataset[i].modalities[name] is not None for i in INDICES]) for name in ("film", "note")}
    for name, other in (("film", "note"), ("note", "film")):
        assert (shown[f"present@{name}"] == has[name]).all()
        # a record that has nothing else says alone what it says whole
        only = has[name] & ~has[other]
        assert only.any()
        assert shown[f"logits@{name}"][only] == pytest.approx(whole[only], abs=1e-6)
        both = has[name] & has[other]
        assert (np.abs(shown[f"logits@{name}"] - whole)[both].max(axis=1) > 1e-4).all()
        # shown nothing, the model says the same of everybody
        nothing = shown[f"logits@{name}"][~has[name]]
        assert len(nothing) > 1
        assert nothing == pytest.approx(np.repeat(nothing[:1], len(nothing), axis=0), abs=1e-6)
    assert np.isfinite(shown["nll@film"]).all()


def test_one_modality_alone_does_not_see_the_other(case):
    def with_other_film(record):
        film = record.modalities["film"]
        return replace(record, modalities={**record.modalities, "film": None if film is None else 1.0 - film})

    changed = case.loader.restricted_to({i: with_other_film(case.dataset[i]) for i in INDICES})
    first, second = alone(case), alone(case, loader=changed)
    assert (first["logits@note"] == second["logits@note"]).all()
    assert (first["logits@film"] != second["logits@film"]).any()
    # a loader that shows one modality of a record only (a request for one modality) is taken at its word
    bare = case.loader.restricted_to({i: case.dataset[i].keep_only(["note"]) for i in INDICES})
    assert (alone(case, loader=bare)["present@film"] == 0).all()


def test_order_and_batch_size_of_modalities_alone(case):
    first = alone(case)
    order = np.random.default_rng(1).permutation(20)
    mixed = alone(case, [INDICES[i] for i in order], batch_size=3)
    for name, value in first.items():
        assert mixed[name] == pytest.approx(value[order], abs=1e-5)


def test_signals_reach_the_attack(case):
    def part(indices):
        whole = collect_signals(case.model, case.task, case.loader, indices, batch_size=8, device=CPU)
        shown = alone(case, indices)
        labels = np.array([case.dataset[i].label for i in indices])
        values = {"scaled_logit": signals.scaled_logit(whole["logits"], labels), "loss": whole["nll"]}
        for name in ("film", "note"):
            values[f"scaled_logit@{name}"] = signals.scaled_logit(shown[f"logits@{name}"], labels)
            values[f"present@{name}"] = shown[f"present@{name}"]
        return PartSignals(values, np.array([case.dataset[i].patient_id for i in indices]))

    result = CrossModalAttack(n_resamples=100, folds=3).result(
        part(range(20)), part(range(20, 48)), np.random.default_rng(0)
    )
    complete = [all(value is not None for value in record.modalities.values()) for record in case.dataset]
    whole = [sum(complete[:20]), sum(complete[20:])]
    assert f"{whole[0]} of 20 forget records and {whole[1]} of 28 test records" in result.notes[0]
    assert {"auc@film", "auc@note", "auc_pair", "auc_surplus"} <= set(result.figures)


def test_refuses(case):
    with pytest.raises(ConfigError, match="n_queries"):
        ask(case, n_queries=0)
    with pytest.raises(AuditError, match="have one modality, x"):
        collect_by_modality(Net(), TASK, vector_loader(), range(4), batch_size=4, device=CPU)

    class NeedsBoth(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error = error

        def forward(self, batch):
            if not all(mask.all() for mask in batch.present.values()):
                raise self.error
            return ModelOutput(torch.zeros(len(batch), 3))

    for error in (ModelError("every record needs a note"), ValueError("every record needs a note")):
        with pytest.raises(AuditError, match=r"cannot be asked with 'film' alone: .*every record needs a note"):
            alone(case, model=NeedsBoth(error))

    class Broken(nn.Module):
        def forward(self, batch):
            return ModelOutput(torch.full((len(batch), 3), float("nan")))

    with pytest.raises(AuditError, match=r"alone: .*not finite"):
        alone(case, model=Broken())


def test_language_models_are_asked_once_only():
    case = language_case()
    asked = ask(case, n_queries=1)
    assert set(asked) == {"nll", "n_tokens", "correct"}
    assert ((asked["correct"] >= 0) & (asked["correct"] <= 1)).all()
    with pytest.raises(AuditError, match="noisy queries cannot be made") as error:
        ask(case, n_queries=2)
    assert "one query" in error.value.fix


def test_multilabel_gives_the_share_of_known_labels_answered_right():
    from forgetmi.tasks.classification import ClassificationTask

    class Fixed(nn.Module):
        def forward(self, batch):
            return ModelOutput(torch.tensor([[1.0, -1.0, 1.0]]).repeat(len(batch), 1))

    plain = vector_loader()
    labels = [(1, 0, 1), (0, 0, 1), (1, None, 0), (0, 1, 0)]
    shown = {i: replace(plain.record(i), label=label) for i, label in enumerate(labels)}
    loader: Loader = plain.restricted_to(shown)
    asked = collect_queries(
        Fixed(), ClassificationTask(3, "multilabel"), loader, range(4), n_queries=2, seed=0, batch_size=4, device=CPU
    )
    assert asked["correct"] == pytest.approx(np.array([[1, 1], [2 / 3, 2 / 3], [0.5, 0.5], [0, 0]]))
