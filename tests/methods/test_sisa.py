"""SISA: exact, by patient, and no shard is trained that need not be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.forget_request import ForgetRequest
from forgetmi.methods import build_method
from forgetmi.requests import resolve
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 8, "lr": 1e-2}


def trained(job):
    """The (shard, slice) pairs that were trained rather than taken from the store."""
    events = [event for event in job.trainer.log.events if event["event"] == "slice"]
    return {(e["shard"], e["slice"]) for e in events if not e["stored"]}, {(e["shard"], e["slice"]) for e in events}


def files(folder):
    return {path.name: torch.load(path, weights_only=True)["model"] for path in sorted(folder.glob("*.checkpoint.pt"))}


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_deleting_a_patient_leaves_what_training_without_them_gives_bit_for_bit(make, tmp_path):
    """Every stored slice, and the ensemble; only the slices that had seen the patient are trained again."""
    case = make()
    case.partition = resolve(case.dataset, ForgetRequest.of("patient", ["p03"]))
    options = {"shards": 3, "slices": 2, "fit": FIT, "seed": 5}
    kept, clean = tmp_path / "kept", tmp_path / "clean"
    method = build_method("sisa", {**options, "store": str(kept)})
    original = method.train(case.job(), case.partition.train)
    before = files(kept)
    job = case.job(seed=77)
    unlearned = method.unlearn(job)
    never = build_method("sisa", {**options, "store": str(clean)}).unlearn(case.job(seed=1))
    assert same_state(state_of(unlearned), state_of(never))
    after, expected = files(kept), files(clean)
    assert after.keys() == expected.keys()
    assert all(same_state(after[name], expected[name]) for name in after)
    again, everything = trained(job)
    shard, part = method.place("p03")
    assert again == {(s, r) for s, r in everything if s == shard and r >= part}
    for name in before:
        changed = not same_state(before[name], after[name])
        assert changed == any(name == f"shard-{s}-slice-{r}.checkpoint.pt" for s, r in again), name
    assert not same_state(state_of(original), state_of(unlearned))


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_one_shard_and_one_slice_is_retraining(make):
    case = make()
    one = build_method("sisa", {"shards": 1, "seed": 4}).unlearn(case.job(seed=99))
    assert same_state(state_of(one), state_of(build_method("retrain").unlearn(case.job(seed=4))))


def test_a_shard_that_loses_everyone_loses_its_file_and_its_voice(tmp_path):
    case = classifier_case()
    method = build_method("sisa", {"shards": 3, "fit": {**FIT, "epochs": 1}, "store": str(tmp_path)})
    dataset = case.dataset
    patients = sorted(dataset.patients(case.partition.train))
    gone = [p for p in patients if method.place(p)[0] == 1]
    case.partition = resolve(dataset, ForgetRequest.of("patient", gone))
    assert len(method.train(case.job(), case.partition.train).members) == 3
    assert (tmp_path / "shard-1-slice-0.checkpoint.pt").exists()
    model = method.unlearn(case.job())
    assert len(model.members) == 2 and not (tmp_path / "shard-1-slice-0.checkpoint.pt").exists()


def test_where_a_patient_stands_depends_on_nobody_else_and_on_all_of_their_records():
    case = classifier_case()
    method = build_method("sisa", {"shards": 3, "slices": 2})
    slices = [method._slices(case.job(), case.partition.train, shard) for shard in range(3)]
    assert sorted(i for shard in slices for part in shard for i in part) == sorted(case.partition.train)
    for shard, parts in enumerate(slices):
        for part, indices in enumerate(parts):
            assert all(method.place(case.dataset[i].patient_id) == (shard, part) for i in indices)
    fewer = [method._slices(case.job(), case.partition.retain, shard) for shard in range(3)]
    for shard in range(3):
        for part in range(2):
            assert fewer[shard][part] == [i for i in slices[shard][part] if i in case.partition.retain]
    other = build_method("sisa", {"shards": 3, "slices": 2, "seed": 1})
    assert any(other.place(p) != method.place(p) for p in case.dataset.patients(case.partition.train))


def test_a_damaged_file_or_other_options_are_trained_anew(tmp_path):
    case = classifier_case()
    options = {"shards": 2, "fit": {**FIT, "epochs": 1}, "store": str(tmp_path)}
    build_method("sisa", options).unlearn(case.job())
    job = case.job()
    first = build_method("sisa", options).unlearn(job)
    assert trained(job)[0] == set()
    (tmp_path / "shard-0-slice-0.checkpoint.pt").write_bytes(b"damaged")
    job = case.job()
    again = build_method("sisa", options).unlearn(job)
    assert trained(job)[0] == {(0, 0)} and same_state(state_of(first), state_of(again))
    job = case.job()
    build_method("sisa", {**options, "fit": {**FIT, "epochs": 1, "lr": 5e-3}}).unlearn(job)
    assert trained(job)[0] == {(0, 0), (1, 0)}


def test_shares_follow_the_numbers_of_records_and_slices_share_the_epochs():
    case = classifier_case()
    job = case.job()
    fit = {**FIT, "epochs": 3}
    model = build_method("sisa", {"shards": 2, "slices": 2, "weights": "proportional", "fit": fit}).unlearn(job)
    method = build_method("sisa", {"shards": 2, "slices": 2})
    sizes = [sum(map(len, method._slices(job, case.partition.retain, shard))) for shard in range(2)]
    assert model.weights == pytest.approx([n / sum(sizes) for n in sizes])
    epochs = [e for e in job.trainer.log.events if e["event"] == "epoch" and e["fit"] == "sisa-0-0"]
    assert len(epochs) == 2  # 2 * 3 / (2 + 1)


def test_wrong_options_and_a_job_without_a_recipe_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)shards.*slices"):
        build_method("sisa", {"shards": 0, "slices": 0})
    with pytest.raises(MethodError, match="trains from scratch"):
        build_method("sisa").unlearn(replace(classifier_case().job(), recipe=None))
