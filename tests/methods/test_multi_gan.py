"""Multi-GAN: limits, who sees what, where labels come from, and that nothing synthetic outlives the run."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods.multi_gan import GanOptions, MultiGAN
from forgetmi.parts.selection.synthetic import SYNTHETIC, Synthetic
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training import trainer as trainer_module
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.tiny import classifier_case, killed_after, language_case, same_state, state_of

GAN = GanOptions(pairs=4, batch_size=4, latent=4, width=8)
FIT = FitOptions(epochs=1, batch_size=13, lr=1e-2, mode="frozen_batchnorm")
SPACES = ({"space": "joint"}, {"space": "unimodal"}, {"space": "inputs", "modality": "film"})


def method(**options) -> MultiGAN:
    return MultiGAN(**{"gan": GAN, "fit": FIT, **options})


@pytest.fixture
def case():
    return classifier_case()


def synthesised(made: MultiGAN, case, monkeypatch, seed=0) -> dict[str, Synthetic]:
    """Copies of what each pair made, and the pairs themselves."""
    kept, real = {}, MultiGAN._part

    def keeps(self, job, space, part, n):
        pair, synthetic = real(self, job, space, part, n)
        parts = (synthetic.rows, synthetic.conditions, synthetic.labels)
        kept[part] = Synthetic(*(tensor.clone() for tensor in parts))
        kept[part + "-alive"] = (pair, synthetic, space)
        return pair, synthetic

    with monkeypatch.context() as patch:
        patch.setattr(MultiGAN, "_part", keeps)
        made.unlearn(case.job(seed=seed))
    return kept


@pytest.mark.parametrize("seed", [0, 3])
def test_without_synthetic_records_it_is_relabelling_exactly(case, seed):
    options = {"order": "together", "exclude_true": True, "redraw": False, "fit": FIT.__dict__}
    relabelled = build_method("random_labels", options).unlearn(case.job(seed=seed))
    plain = method(n_synth_retain=0, n_synth_forget=0).unlearn(case.job(seed=seed))
    assert same_state(state_of(relabelled), state_of(plain))
    assert not same_state(state_of(plain), state_of(method().unlearn(case.job(seed=seed))))


@pytest.mark.parametrize("space", SPACES, ids=lambda options: options["space"])
def test_every_space_works_with_missing_modalities_and_makes_what_was_asked_for(case, space, monkeypatch):
    made = method(n_synth_retain=9, n_synth_forget=4, **space)
    job = case.job()
    unlearned = made.unlearn(job)
    assert all(torch.isfinite(t).all() for t in unlearned.state_dict().values() if t.is_floating_point())
    assert not same_state(state_of(unlearned), state_of(case.model))
    events = {e["part"]: e for e in job.trainer.log.events if e["event"] == "synthetic"}
    assert {part: (e["made"], e["real"] + e["left_out"]) for part, e in events.items()} == {
        "retain": (9, len(case.partition.retain)),
        "forget": (4, len(case.partition.forget)),
    }
    assert all(0 <= e["nearest_real_to_made"]["least"] <= e["nearest_real_to_made"]["median"] for e in events.values())
    kept = synthesised(made, case, monkeypatch)
    assert (len(kept["retain"]), len(kept["forget"])) == (9, 4)
    if space["space"] == "unimodal":
        patterns = {tuple(row) for row in kept["retain"].conditions.tolist()}
        assert patterns <= {(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)} and len(patterns) > 1
        lacking = kept["retain"].conditions[:, 1] == 0
        assert torch.equal(kept["retain"].rows[lacking, 8:], torch.zeros(int(lacking.sum()), 8))
    if space["space"] == "inputs":
        assert kept["forget"].rows.shape == (4, 1, 8, 8)
        assert kept["forget"].rows.min() >= 0 and kept["forget"].rows.max() <= 1


def test_as_many_as_there_are_by_default(case, monkeypatch):
    kept = synthesised(method(), case, monkeypatch)
    assert (len(kept["retain"]), len(kept["forget"])) == (len(case.partition.retain), len(case.partition.forget))


@pytest.mark.parametrize("space", SPACES, ids=lambda options: options["space"])
def test_the_frozen_original_labels_what_is_made_and_forget_labels_are_others(case, space, monkeypatch):
    """A model that was unlearned before must not be asked: only the original is."""
    kept = synthesised(method(inversion="runner_up", **space), case, monkeypatch)
    for part in ("retain", "forget"):
        place = kept[part + "-alive"][2]
        with torch.no_grad():
            logits = place.output(case.model, kept[part].rows, kept[part].conditions).logits
        ranked = logits.argsort(dim=1, descending=True)
        assert torch.equal(kept[part].labels, ranked[:, 0 if part == "retain" else 1])


def test_each_pair_sees_its_own_part_only(case, monkeypatch):
    expected = synthesised(method(), case, monkeypatch)
    for part, other in (("retain", "forget"), ("forget", "retain")):
        changed = copy.deepcopy(case)
        elsewhere = case.dataset[case.partition.test[0]]
        others = {i: replace(elsewhere, label=case.dataset[i].label) for i in case.partition.indices(part)}
        changed.loader = case.loader.restricted_to(others)
        found = synthesised(method(), changed, monkeypatch)
        assert torch.equal(found[other].rows, expected[other].rows), f"the {other} pair saw {part} records"
        assert not torch.equal(found[part].rows, expected[part].rows)


def fine_tuning(made: MultiGAN, case, monkeypatch):
    """The plan and the objective of the last fit."""
    seen, real = {}, Trainer.fit

    def fit(self, model, plan, objective, options, **more):
        if more["name"] == "multi_gan":
            seen.update(model=model, plan=plan, objective=objective)
            seen["batches"] = [plan.load(step, 0) for step in plan.steps(0)]
            return None
        return real(self, model, plan, objective, options, **more)

    monkeypatch.setattr(Trainer, "fit", fit)
    made.unlearn(case.job())
    return seen


def test_the_fine_tuning_sees_all_four_sets_once_with_the_right_labels(case, monkeypatch):
    seen = fine_tuning(method(n_synth_retain=6, n_synth_forget=5, inversion="least_likely"), case, monkeypatch)
    real = {
        int(i): int(y)
        for batches in seen["batches"] if "records" in batches
        for i, y in zip(batches["records"].indices, batches["records"].labels, strict=True)
    }  # fmt: skip
    assert sorted(real) == sorted((*case.partition.forget, *case.partition.retain))
    assert all(real[i] == case.dataset[i].label for i in case.partition.retain)
    with torch.no_grad():
        logits = case.model(case.loader.batch(case.partition.forget)).logits
    for i, said in zip(case.partition.forget, logits, strict=True):
        others = [c for c in said.argsort().tolist() if c != case.dataset[i].label]
        assert real[i] == others[0]
    assert sum(len(batches[SYNTHETIC]) for batches in seen["batches"] if SYNTHETIC in batches) == 11
    assert any(len(batches) == 2 for batches in seen["batches"])


def test_the_loss_is_the_mean_over_all_records_of_a_step(case, monkeypatch):
    seen = fine_tuning(method(space="joint"), case, monkeypatch)
    batches = next(batches for batches in seen["batches"] if len(batches) == 2)
    model, n = seen["model"].eval(), {stream: len(batch) for stream, batch in batches.items()}
    # The samples are destroyed by now; any rows do.
    rows = torch.randn(n[SYNTHETIC], 8, generator=torch.Generator().manual_seed(0))
    batches[SYNTHETIC] = replace(batches[SYNTHETIC], inputs={"rows": rows, "conditions": torch.empty(len(rows), 0)})
    with torch.no_grad():
        real = case.task.nll(model, batches["records"])
        made = torch.nn.functional.cross_entropy(model.head(rows), batches[SYNTHETIC].labels, reduction="none")
        total = seen["objective"](model, batches).total
    assert total.item() == pytest.approx(torch.cat([real, made]).mean().item(), rel=1e-6)


@pytest.mark.parametrize("accumulate", [2, 5])
def test_a_batch_in_pieces_makes_the_same_weights(case, accumulate):
    """However few synthetic records a piece has: each record counts as one."""
    fit = replace(FIT, optimizer="sgd", momentum=0.0, lr=0.1, mode="eval")
    whole = method(n_synth_forget=2, n_synth_retain=3, fit=fit).unlearn(case.job())
    pieces = method(n_synth_forget=2, n_synth_retain=3, fit=replace(fit, accumulate=accumulate)).unlearn(case.job())
    for name, weight in state_of(whole).items():
        assert torch.allclose(weight, state_of(pieces)[name], atol=1e-6), name


@pytest.mark.parametrize("inversion", ["random_other", "complement", "least_likely", "runner_up"])
def test_independent_labels(inversion, monkeypatch):
    case = classifier_case()
    tuples = {0: (1.0, 0.0, None), 1: (0.0, 1.0, 1.0), 2: (None, 1.0, 0.0)}
    case.dataset = case.dataset.with_records([replace(r, label=tuples[r.label]) for r in case.dataset])
    case.loader = Loader(case.dataset, case.loader.modalities)
    case.task = ClassificationTask(3, kind="multilabel")
    case.partition = resolve(case.dataset, ForgetRequest.of("patient", ["p00", "p03", "p07"]))
    kept = synthesised(method(inversion=inversion), case, monkeypatch)
    for part in ("retain", "forget"):
        with torch.no_grad():
            said = (case.model.head(kept[part].rows) > 0).float()
        differs = (kept[part].labels != said).any(dim=1)
        assert differs.all() if part == "forget" else not differs.any()


def test_nothing_synthetic_outlives_the_run(case, tmp_path, monkeypatch):
    kept = synthesised(method(), case, monkeypatch)
    for part in ("retain", "forget"):
        pair, synthetic, _ = kept[part + "-alive"]
        assert kept[part].rows.abs().sum() > 0
        tensors = [*pair.parameters(), *pair.buffers(), synthetic.rows, synthetic.labels]
        assert all(not tensor.any() for tensor in tensors)
    job = case.job(folder=tmp_path)
    method().unlearn(job)
    assert [path.name for path in tmp_path.iterdir()] == ["multi_gan.checkpoint.pt"]
    (event,) = [e for e in job.trainer.log.events if e["event"] == "synthetic_destroyed"]
    assert (event["generators"], event["samples"]) == (2, len(case.partition.train))
    assert event["checkpoints"] == ["retain", "forget"]
    stored = torch.load(tmp_path / "multi_gan.checkpoint.pt", weights_only=True)
    assert stored["memory"] is None and stored["model"].keys() == state_of(case.model).keys()


@pytest.mark.parametrize("kill_after", [2, 11, 18, 20])
@pytest.mark.parametrize("space", SPACES, ids=lambda options: options["space"])
def test_a_run_killed_in_any_phase_resumes_bit_identically(case, space, kill_after, tmp_path):
    """8 turns a pair, then the fine-tuning."""
    made = method(fit=replace(FIT, checkpoint_every=1), **space)
    unbroken = made.unlearn(case.job(seed=1))
    with killed_after(kill_after):
        made.unlearn(case.job(seed=1, folder=tmp_path))
    job = case.job(seed=1, folder=tmp_path, resume=True)
    assert same_state(state_of(unbroken), state_of(made.unlearn(job)))
    finished = sum(e["steps"] for e in job.trainer.log.events if e["event"] == "fit_finished")
    started = [e["step"] + e["epoch"] for e in job.trainer.log.events if e["event"] == "fit_started"]
    assert started[0] > 0 and finished > kill_after


def test_a_model_of_one_modality_makes_its_inputs():
    from forgetmi.models.classifier import build_model
    from forgetmi.training.reference import Reference

    case = classifier_case()
    encoders = {"film": {"name": "small_resnet", "widths": [4], "norm": "group"}}
    case.model = build_model({"encoders": encoders, "n_outputs": 3, "dim": 8}, 0).eval()
    case.loader = Loader(case.dataset, {"film": case.loader.modalities["film"]})
    job = case.job()
    assert isinstance(job.reference, Reference)
    method().unlearn(job)
    assert {e["space"] for e in job.trainer.log.events if e["event"] == "synthetic"} == {"inputs"}


def test_a_request_for_one_modality_leaves_the_others_out_of_the_forget_pair(case):
    request = ForgetRequest.of("modality", ["p00", "p02"], ["note"], id_level="patient")
    case.partition = resolve(case.dataset, request)
    job = case.job()
    method(space="inputs", modality="film").unlearn(job)
    events = {e["part"]: e for e in job.trainer.log.events if e["event"] == "synthetic"}
    assert events["forget"]["real"] == 0 and events["forget"]["made"] == 0
    assert events["retain"]["made"] == len(case.partition.retain)


def test_what_it_cannot_do_is_refused_before_anything_is_trained(case):
    job = case.job()
    with pytest.raises(MethodError, match="middle one of 3 classes"):
        method(inversion="complement").unlearn(job)
    assert not job.trainer.log.events
    with pytest.raises(MethodError, match="causal_lm"):
        method().unlearn(language_case().job())
    case.model.head.requires_grad_(False)
    with pytest.raises(MethodError, match="nothing that space: joint trains may change"):
        method(space="joint").unlearn(case.job())


def test_every_wrong_option_is_named():
    with pytest.raises(ConfigError) as caught:
        build_method("multi_gan", {"n_synth_retain": -1, "n_synth_forget": -2, "space": "joint", "modality": "film"})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError) as caught:
        GanOptions(pairs=-1, batch_size=0, lr=-1.0, beta_1=1.0, latent=0, width=0)
    assert len(caught.value.problems) == 6
    with pytest.raises(ConfigError, match="unknown option 'pair'"):
        build_method("multi_gan", {"gan": {"pair": 3}})


def test_no_training_of_the_pairs_is_possible_and_the_beta_is_adams(case, monkeypatch):
    kept = synthesised(method(gan=replace(GAN, pairs=0)), case, monkeypatch)
    assert len(kept["forget"]) == len(case.partition.forget)
    seen, real = [], trainer_module.build_optimizer

    def looks(model, options):
        seen.append(real(model, options))
        return seen[-1]

    monkeypatch.setattr(trainer_module, "build_optimizer", looks)
    method().unlearn(case.job())
    assert [optimizer.param_groups[0]["betas"] for optimizer in seen] == [(0.5, 0.999), (0.5, 0.999), (0.9, 0.999)]
