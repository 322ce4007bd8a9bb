"""Methods on tables and signals beside images, some of them missing, with every fusion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.methods import build_method
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.signal import SignalModality
from forgetmi.modalities.tabular import TabularModality
from forgetmi.models.classifier import build_model
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.seeds import derive_seed
from tests.tiny import TinyCase, same_state, state_of

FUSIONS = ("late", "gate", "cross_attention", "outer")
SGD = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "optimizer": "sgd", "weight_decay": 0.0, "mode": "eval"}
SILENT = {kind: {"sd": 0.0} for kind in ("image", "tabular", "signal")}
KINDS = {"film": "image", "labs": "tabular", "ecg": "signal"}


def ward_case(fusion: str = "gate", modalities: tuple[str, ...] = ("labs", "ecg", "film")) -> TinyCase:
    """20 patients with two visits each; every modality is missing somewhere, all of them once."""
    draw = np.random.default_rng(3)
    records = []
    for n in range(40):
        label = int(draw.integers(3))
        values = {
            "labs": {
                "age": 40 + 10 * label + draw.normal(),
                "sex": "fm"[n % 2],
                "crp": None if n % 4 else draw.normal(),
            },
            "ecg": draw.normal(size=(2, 40)) + np.sin(np.arange(40) * (label + 1) / 3),
            "film": draw.random((8, 8)).astype(np.float32),
        }
        missing = {"labs": n % 5 == 1, "ecg": n % 6 == 1, "film": n % 7 == 1}
        kept = {name: None if missing[name] else values[name] for name in modalities}
        split = "train" if n < 28 else "validation" if n < 34 else "test"
        records.append(Record(f"s{n:02d}", f"v{n:02d}", f"p{n // 2:02d}", "h", kept, label, split))
    kinds = {name: KINDS[name] for name in modalities}
    dataset = RecordDataset(records, name="ward", levels=("patient", "sample"), modality_kinds=kinds)
    rows = [r.modalities["labs"] for r in records if r.split == "train" and r.modalities.get("labs") is not None]
    made = {
        "labs": TabularModality.fit(rows, min_count=1) if rows else None,
        "ecg": SignalModality(leads=2, samples=40),
        "film": ImageModality(size=8),
    }
    encoders = {
        "labs": {"name": "mlp", "features": made["labs"].features if rows else 1, "widths": [8]},
        "ecg": {"name": "conv1d", "leads": 2, "widths": [4, 8], "kernel": 3},
        "film": {"name": "small_resnet", "channels": 1, "widths": [4, 8]},
    }

    def build(seed: int) -> torch.nn.Module:
        chosen = {"name": fusion, "rank": 3} if fusion == "outer" else fusion
        config = {
            "encoders": {name: encoders[name] for name in modalities},
            "n_outputs": 3,
            "fusion": chosen,
            "heads": "both",
            "dim": 8,
        }
        return build_model(config, seed)

    loader = Loader(dataset, {name: made[name] for name in modalities})
    partition = resolve(dataset, ForgetRequest.of("patient", ["p00", "p03", "p05"]))
    return TinyCase("classification", dataset, loader, ClassificationTask(3), build, build(0).eval(), partition)


def forget_mi(case, **options):
    job = case.job()
    unlearned = build_method("forget_mi", options).unlearn(job)
    (epoch,) = [e for e in job.trainer.log.events if e["event"] == "epoch" and e["fit"] == "forget_mi"]
    return unlearned, epoch


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("joint", ["model", "gate"])
def test_forget_mi_on_tables_signals_and_images(fusion, joint):
    case = ward_case(fusion)
    fit = {**SGD, "batch_size": 64, "lr": 0.0}
    _, start = forget_mi(case, fit=fit, joint=joint)
    assert start["ur"] < 2e-4 and start["mr"] < 2e-4  # sqrt(eps): student and teacher agree on D_r
    assert start["uu"] > 0.01 and start["mu"] > 0.002  # and the noise is seen on D_f
    _, silent = forget_mi(case, fit=fit, joint=joint, noise=SILENT)
    assert silent["uu"] < 2e-4 and silent["mu"] < 2e-4
    moved, end = forget_mi(case, fit={**SGD, "lr": 1e-2}, joint=joint)
    assert all(math.isfinite(end[part]) for part in ("uu", "mu", "ur", "mr"))
    assert not same_state(state_of(moved), state_of(case.model))
    assert all(torch.isfinite(t).all() for t in state_of(moved).values() if t.is_floating_point())


@pytest.mark.parametrize("modality", sorted(KINDS))
@pytest.mark.parametrize("fusion", FUSIONS)
def test_forget_mi_on_each_modality_alone(modality, fusion):
    case = ward_case(fusion, (modality,))
    moved, end = forget_mi(case, fit={**SGD, "lr": 1e-2})
    assert end["uu"] > 0.01 and math.isfinite(end["mr"])
    assert not same_state(state_of(moved), state_of(case.model))


@pytest.mark.parametrize("kind", ["tabular", "signal"])
def test_noise_of_each_kind_has_an_effect_of_its_own(kind):
    case = ward_case()
    fit = {**SGD, "batch_size": 64, "lr": 0.0}
    one, more = ({**SILENT, kind: {"sd": sd}} for sd in (0.1, 1.0))
    _, little = forget_mi(case, fit=fit, noise=one)
    _, much = forget_mi(case, fit=fit, noise=more)
    assert 1e-3 < little["uu"] < much["uu"]


def test_attracted_to_the_noisy_target_or_repelled_from_it():
    case = ward_case("late")
    weights = {"uu": 1.0, "ur": 0.0, "mu": 0.0, "mr": 0.0}
    # Targets that are far enough for one small step to count, and the same in both runs.
    options = {"weights": weights, "noise": {kind: {"sd": 0.5} for kind in SILENT}}
    fit = {**SGD, "batch_size": 64, "epochs": 1}

    def after(direction):
        moved, _ = forget_mi(case, fit=fit, direction=direction, **options)
        twin = ward_case("late")
        twin.model.load_state_dict(case.model.state_dict())
        job = twin.job()
        with torch.no_grad():
            clean = job.loader.batch(case.partition.forget)
            noisy = job.loader.noisy_batch(
                case.partition.forget, options["noise"], seed=derive_seed(0, "forget_mi"), epoch=0
            )
            target, found = twin.model(noisy).unimodal, moved(clean).unimodal
            gap = torch.cat([found[name] - target[name] for name in found], dim=1)
        return gap.norm(dim=1).mean().item()

    assert after("attract_noisy") < after("repel")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_forgetting_layers_fold_behind_every_encoder(fusion):
    case = ward_case(fusion)
    before = state_of(case.model)
    still = build_method("fnn", {"step": 0.0, "fit": {"epochs": 0}}).unlearn(case.job())
    assert same_state(before, state_of(still))
    job = case.job()
    faded = build_method("fnn", {"kind": "contrastive", "rounds": 1, "fit": {**SGD, "epochs": 1}}).unlearn(job)
    (event,) = [e for e in job.trainer.log.events if e["event"] == "forgetting_layers"]
    for name in case.loader.modalities:
        assert any(layer.startswith(f"encoders.{name}") for layer in event["folded"])
    assert not same_state(before, state_of(faded))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("space", ["joint", "unimodal"])
def test_multi_gan_makes_records_of_tables_signals_and_images(fusion, space):
    case = ward_case(fusion)
    job = case.job()
    gan = {"pairs": 3, "batch_size": 8, "latent": 4, "width": 8}
    build_method("multi_gan", {"space": space, "gan": gan, "fit": {**SGD, "batch_size": 8}}).unlearn(job)
    events = {e["part"]: e for e in job.trainer.log.events if e["event"] == "synthetic"}
    assert events["forget"]["left_out"] == (1 if space == "unimodal" else 0)  # one record has nothing at all
    assert all(event["made"] for event in events.values())


def test_multi_gan_makes_rows_of_a_table():
    case = ward_case("late", ("labs",))
    job = case.job()
    build_method("multi_gan", {"gan": {"pairs": 3, "width": 8}, "fit": {**SGD, "batch_size": 8}}).unlearn(job)
    events = [e for e in job.trainer.log.events if e["event"] == "synthetic"]
    assert [e["space"] for e in events] == ["inputs", "inputs"] and all(e["made"] for e in events)


def test_multi_gan_on_signals_alone_works_on_embeddings():
    case = ward_case("late", ("ecg",))
    job = case.job()
    build_method("multi_gan", {"gan": {"pairs": 3, "width": 8}, "fit": {**SGD, "batch_size": 8}}).unlearn(job)
    assert {e["space"] for e in job.trainer.log.events if e["event"] == "synthetic"} == {"joint"}
