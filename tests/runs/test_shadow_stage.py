"""A run's shadow models: who they are trained on, what is kept, shared, resumed and refused."""

from __future__ import annotations

import json
import shutil
import stat

import numpy as np
import pytest
import torch

from forgetmi.config import load_config
from forgetmi.errors import AuditError, ConfigError
from forgetmi.methods.retrain import Retrain
from forgetmi.runs import pipeline, shadows, stages
from forgetmi.runs.folder import RunFolder
from forgetmi.runs.prepare import prepare
from forgetmi.runs.shadow_plan import ShadowPlan, plan_of_tasks, tasks_file
from forgetmi.training.scoring import collect_signals
from tests.runs.tiny_source import FORGOTTEN, tiny_settings, write_source

K = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


def _settings(source, folder, **changes):
    return tiny_settings(source, **{"audit__shadows": K, "run__folder": str(folder), **changes})


def _plan(settings):
    config = load_config(settings)
    return ShadowPlan(prepare(config), config.run.folder)


def _references(settings):
    config = load_config(settings)
    return shadows.shadow_references(prepare(config), RunFolder(config.run.folder))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """Settings of a run whose shadow models, unlearned ones too, are there."""
    settings = _settings(source, tmp_path_factory.mktemp("made") / "run", audit__unlearned_shadows=True)
    pipeline.run(settings, until="shadows", progress=False)
    return settings


def test_attacks_get_scores_of_every_part_and_who_was_in(made):
    plan, found = _plan(made), _references(made)
    partition, dataset = plan.prepared.partition, plan.prepared.dataset
    assert set(found) == {"shadows", "unlearned_shadows"}
    column = {patient: n for n, patient in enumerate(plan.patients)}
    assert set(FORGOTTEN) < set(column)
    for parts in found.values():
        assert set(parts) == {"forget", "test", "validation"}
        for part, arrays in parts.items():
            n = len(partition.indices(part))
            assert {name: values.shape for name, values in arrays.items()} == {
                "nll": (K, n), "logits": (K, n, 2), "seen": (K, n)
            }  # fmt: skip
            if part == "validation":
                assert not arrays["seen"].any()
                continue
            assert (arrays["seen"].sum(axis=0) == K // 2).all()
            for k in range(K):  # no patient is half in
                for i, seen in zip(partition.indices(part), arrays["seen"][k], strict=True):
                    assert seen == plan.design[k, column[dataset[i].patient_id]]
    assert not np.allclose(found["shadows"]["forget"]["nll"], found["unlearned_shadows"]["forget"]["nll"])


def test_of_more_shadows_the_first_ones_are_kept(made):
    plan = _plan(made)
    more = _plan({**made, "audit": {**made["audit"], "shadows": K + 2}})
    assert more.missing() == [K, K + 1]
    assert np.array_equal(more.design[:K], plan.design)
    assert [more.inside(k) for k in range(K)] == [plan.inside(k) for k in range(K)]


def test_a_shadow_is_the_recipe_on_retain_and_its_own_patients(made):
    """Trained again by another piece of the house: retraining, with the shadow's records as its retain set."""
    plan = _plan(made)
    prepared, partition = plan.prepared, plan.prepared.partition
    seen = _references(made)["shadows"]
    inside = {
        i
        for part in ("forget", "test")
        for i, s in zip(partition.indices(part), seen[part]["seen"][1], strict=True)
        if s
    }
    assert set(plan.inside(1)) == inside
    recorded = {}

    def record(model, **options):
        recorded.update(options, model=model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shadows, "train_by_recipe", record)
        patch.setattr(shadows, "_finish", lambda *args: None)
        patch.setattr(shadows, "_wanted", lambda plan, index: ["shadows"])
        shadows.make_shadow(plan, 1)
    assert set(recorded["train"]) == set(partition.retain) | inside
    assert not set(recorded["train"]) & set(partition.validation)
    assert recorded["validation"] == partition.validation
    assert recorded["recipe"] == prepared.config.training
    from forgetmi.training.recipe import train_by_recipe

    train_by_recipe(recorded["model"], **{k: v for k, v in recorded.items() if k != "model"})
    signals = collect_signals(
        recorded["model"], prepared.task, prepared.loader, partition.test, batch_size=4, device=torch.device("cpu")
    )
    assert np.allclose(signals["nll"], seen["test"]["nll"][1], atol=1e-5)


def test_what_is_unlearned_is_what_the_shadow_was_trained_on(made, monkeypatch):
    plan = _plan(made)
    jobs = []
    monkeypatch.setattr(type(plan.prepared.config.method), "unlearn", lambda self, job: jobs.append(job) or job.model)
    trainer = stages.trainer_of(plan.prepared, None, None)
    shadows._unlearn(plan, 2, plan.prepared.fresh_model(0), trainer)
    partition, original = jobs[0].partition, plan.prepared.partition
    assert set(partition.forget) == set(plan.inside(2))
    assert partition.retain == original.retain
    assert partition.validation == original.validation
    assert set(partition.test) | set(partition.forget) == {*original.forget, *original.test}
    assert not set(partition.test) & set(partition.forget)


def test_exact_unlearning_leaves_an_unlearned_shadow_nothing_to_remember(source, tmp_path, monkeypatch):
    """U-LiRA with retraining as the method: the unlearned shadow is trained on the retain records only."""
    settings = _settings(
        source, tmp_path / "run", audit__unlearned_shadows=True, audit__shadows=2, unlearning={"method": "retrain"}
    )
    seen = []
    real = Retrain.unlearn
    monkeypatch.setattr(Retrain, "unlearn", lambda self, job: seen.append(job.partition.retain) or real(self, job))
    pipeline.run(settings, until="shadows", progress=False)
    assert seen == [_plan(settings).prepared.partition.retain] * 2


def test_only_scores_are_kept_privately_and_nobody_is_named(made):
    folder = _plan(made).run
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in (folder / "shadows").rglob("*") if path.is_file()} == {".npz"}
    assert not (folder / "models").exists()
    assert not (folder / "checkpoints").exists()
    for path in files:
        assert b"SECRET" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with np.load(next((folder / "shadows").rglob("*.npz"))) as file:  # compressed by nothing, so the look above saw all
        assert set(file.files) == {"facts"} | {
            f"{part}/{name}" for part in ("forget", "test", "validation") for name in ("nll", "logits", "seen")
        }


def test_what_is_there_is_kept_and_what_is_not_is_made_again_the_same(made, tmp_path):
    settings = {**made, "run": {**made["run"], "folder": str(tmp_path / "run")}}
    shutil.copytree(made["run"]["folder"], tmp_path / "run")
    plan = _plan(settings)
    before = _references(settings)
    lost = plan.folder("unlearned_shadows") / "shadow-0003.npz"
    damaged = plan.folder("shadows") / "shadow-0001.npz"
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert plan.missing() == [1, 3]
    with pytest.raises(AuditError, match="1 of 4 shadow models are missing: 1") as caught:
        _references(settings)
    assert "forgetmi shadows --run" in caught.value.fix
    times = {path: path.stat().st_mtime_ns for path in plan.run.rglob("*.npz")}
    pipeline.run(settings, until="shadows", progress=False)
    touched = {path for path in plan.run.rglob("*.npz") if times.get(path) != path.stat().st_mtime_ns}
    assert touched == {lost, damaged}
    after = _references(settings)
    for kind, parts in before.items():
        for part, arrays in parts.items():
            for name, values in arrays.items():
                assert np.array_equal(values, after[kind][part][name]), (kind, part, name)


def test_methods_share_shadows_and_not_unlearned_ones(made, source, tmp_path):
    shared = tmp_path / "shared"
    shutil.copytree(made["run"]["folder"] + "/shadows", shared)
    other = _settings(
        source, tmp_path / "other", audit__unlearned_shadows=True, audit__shadow_folder=str(shared),
        unlearning={"method": "neg_grad_plus", "fit": {"epochs": 1}},
    )  # fmt: skip
    plan, first = _plan(other), _plan(made)
    assert plan.mark("shadows") == first.mark("shadows")
    assert plan.mark("unlearned_shadows") != first.mark("unlearned_shadows")
    assert plan.missing() == [0, 1, 2, 3]
    without = {**other, "audit": {**other["audit"], "unlearned_shadows": False}}
    assert _plan(without).missing() == []
    assert not (tmp_path / "other").exists()
    found = _references(without)
    assert np.array_equal(found["shadows"]["test"]["nll"], _references(made)["shadows"]["test"]["nll"])


@pytest.mark.parametrize(
    "change",
    [{"run__seed": 1}, {"training": {"epochs": 1}}, {"model__dim": 16},
     {"request": {"draw": {"patients": 4, "seed": 1}}}],
    ids=str,
)  # fmt: skip
def test_what_changes_a_shadow_changes_its_name(made, source, change):
    changed = _settings(source, made["run"]["folder"], audit__unlearned_shadows=True, **change)
    old, new = _plan(made), _plan(changed)
    for kind in ("shadows", "unlearned_shadows"):
        assert old.mark(kind) != new.mark(kind)
    assert new.missing() == list(range(new.count))


def test_how_it_is_carried_out_changes_no_name(made, source):
    changed = _settings(
        source, made["run"]["folder"], audit__unlearned_shadows=True, audit__executor="slurm", audit__workers=3,
        audit__slurm={"mem": "1G"}, audit__keep_shadows=True, audit__retrains=7, run__threads=1,
    )  # fmt: skip
    assert {kind: _plan(changed).mark(kind) for kind in _plan(made).kinds} == _plan(made)._marks


def test_weights_are_kept_only_where_asked_and_used_again(source, tmp_path, monkeypatch):
    settings = _settings(source, tmp_path / "run", audit__shadows=2, audit__keep_shadows=True)
    pipeline.run(settings, until="shadows", progress=False)
    settings["audit"]["unlearned_shadows"] = True
    monkeypatch.setattr(shadows, "train_by_recipe", lambda *args, **options: pytest.fail("trained again"))
    pipeline.run(settings, until="shadows", resume=True, progress=False)
    assert set(_references(settings)) == {"shadows", "unlearned_shadows"}


def test_a_file_of_other_settings_is_refused(made, tmp_path):
    settings = {**made, "run": {**made["run"], "folder": str(tmp_path / "run")}}
    shutil.copytree(made["run"]["folder"], tmp_path / "run")
    plan = _plan(settings)
    unlearned, trained = (plan.folder(kind) / "shadow-0002.npz" for kind in ("unlearned_shadows", "shadows"))
    trained.write_bytes(unlearned.read_bytes())
    with pytest.raises(AuditError, match="of other settings, data or code: 2"):
        _references(settings)


def test_the_run_makes_them_before_the_audit(source, tmp_path, monkeypatch):
    settings = _settings(source, tmp_path / "run", audit__shadows=2)
    seen = []

    def audit(prepared, folder, *, again):
        seen.append(set(shadows.shadow_references(prepared, folder)))
        return {}

    monkeypatch.setattr(stages, "audit", audit)
    monkeypatch.setattr(stages, "report", lambda path: path)
    for name in ("train_original", "unlearn", "retrain_all"):
        monkeypatch.setattr(stages, name, lambda *args: None)
    pipeline.run(settings, progress=False)
    assert seen == [{"shadows"}]
    assert _references(tiny_settings(source, run__folder=str(tmp_path / "none"))) == {}


def test_an_array_is_written_and_its_tasks_make_the_same(made, source, tmp_path):
    settings = _settings(source, tmp_path / "run", audit__unlearned_shadows=True, audit__executor="slurm")
    with pytest.raises(shadows.LeftToSchedulerError, match="4 shadow models are left to the scheduler") as caught:
        pipeline.run(settings, until="shadows", progress=False)
    assert "sbatch" in caught.value.fix
    assert not caught.value.submitted
    plan = _plan(settings)
    document = json.loads(tasks_file(plan).read_text())
    assert set(document) == {"schema", "config", "marks", "made_with", "tasks"}
    assert document["tasks"] == [0, 1, 2, 3]
    assert f"--tasks {tasks_file(plan)} --task" in caught.value.script.read_text()
    again, tasks = plan_of_tasks(tasks_file(plan))
    shadows.make_shadow(again, tasks[2])
    assert plan.missing() == [0, 1, 3]
    for kind in plan.kinds:
        here, there = (np.load(p.folder(kind) / "shadow-0002.npz") for p in (again, _plan(made)))
        assert np.array_equal(here["forget/nll"], there["forget/nll"])
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(AuditError, match="have changed since the task file was written"):
        plan_of_tasks(tasks_file(plan))


@pytest.mark.parametrize("level", ["patient", "modality"])
def test_an_ensemble_makes_the_same_shadows(source, tmp_path, level):
    """Over the frozen encoders of a stored model; at level modality forget records are scored as the request sees
    them."""
    encoders = {"image": {"name": "small_resnet", "widths": [4]},
                "text": {"name": "small_transformer", "dim": 8, "layers": 1, "heads": 2, "dropout": 0.0}}  # fmt: skip
    base = tiny_settings(source, model__encoders=encoders, model__freeze_encoders=True, run__folder=str(tmp_path / "a"))
    pipeline.run(base, until="original", progress=False)
    request = {"file": str(source / "forget.csv")}
    if level == "modality":
        ids = [f"SECRET-s{n:02d}" for n in (1, 4, 6, 9)]
        request = {"level": "modality", "ids": ids, "modalities": ["image"], "remaining": "exclude"}
    found = {}
    for executor in ("in_process", "ensemble"):
        settings = _settings(
            source, tmp_path / executor, model={"load": str(tmp_path / "a" / "models" / "original")}, request=request,
            audit__executor=executor, audit__unlearned_shadows=True, audit__shadows=2,
        )  # fmt: skip
        pipeline.run(settings, until="shadows", progress=False)
        found[executor] = _references(settings)
    for kind, parts in found["in_process"].items():
        for part, arrays in parts.items():
            assert np.allclose(arrays["logits"], found["ensemble"][kind][part]["logits"], atol=1e-4), (kind, part)
            assert np.array_equal(arrays["seen"], found["ensemble"][kind][part]["seen"])


def test_an_ensemble_over_trained_encoders_is_refused_before_anything_is_trained(source, tmp_path):
    with pytest.raises(ConfigError, match="its encoders are trained"):
        pipeline.run(_settings(source, tmp_path / "run", audit__executor="ensemble"), until="original", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"audit__shadows": 5}, "even"),
        ({"audit__shadows": 0, "audit__unlearned_shadows": True}, "their number is 0"),
        ({"audit__executor": "ray"}, "audit.executor"),
        ({"audit__slurm": {"array": "1-9"}}, "no long option of sbatch that may be set here"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(source, tmp_path, changes, what):
    with pytest.raises(ConfigError, match=what):
        load_config(_settings(source, tmp_path / "run", **changes))


def test_a_request_for_a_modality_is_scored_without_the_others(source):
    settings = tiny_settings(
        source,
        request={"level": "modality", "ids": ["SECRET-s01"], "modalities": ["image"], "remaining": "exclude"},
    )
    prepared = prepare(load_config(settings))
    (index,) = prepared.partition.forget
    assert prepared.scoring_loader("forget").batch([index]).present["text"].tolist() == [False]
    assert prepared.scoring_loader("test").batch([index]).present["text"].tolist() == [True]
