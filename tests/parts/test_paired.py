"""Pairs of forget and retain records."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.text import TextModality
from forgetmi.parts.selection.paired import PairedPlan
from forgetmi.training.plans import split_step
from tests.tiny import tiny_dataset, tiny_tokenizer

FORGET, RETAIN = (3, 10, 4, 21, 7), tuple(range(22, 42))


@pytest.fixture(scope="module")
def loader() -> Loader:
    modalities = {"film": ImageModality(size=8), "note": TextModality(tiny_tokenizer(), max_length=16)}
    return Loader(tiny_dataset(), modalities)


def make(loader, forget=FORGET, retain=RETAIN, **options):
    return PairedPlan(loader, forget, retain, **{"batch_size": 2, "seed": 1, **options})


def flat(plan, stream, epoch):
    return [index for step in plan.steps(epoch) for index in step[stream]]


def test_sizes_and_disjointness(loader):
    plan = make(loader)
    assert [(len(s["forget"]), len(s["retain"])) for s in plan.steps(0)] == [(2, 2), (2, 2), (1, 1)]
    for epoch in range(5):
        assert sorted(flat(plan, "forget", epoch)) == sorted(FORGET)
        retain = flat(plan, "retain", epoch)
        assert len(set(retain)) == len(retain) == len(FORGET) and set(retain) <= set(RETAIN)


def test_row_17_a_fresh_sample_and_a_fresh_order_each_epoch(loader):
    plan = make(loader)
    epochs = range(40)
    assert len({tuple(flat(plan, "forget", e)) for e in epochs}) > 20
    assert len({frozenset(flat(plan, "retain", e)) for e in epochs}) > 35
    counts = np.bincount([i for e in epochs for i in flat(plan, "retain", e)], minlength=42)[22:]
    # 200 draws over 20 records: 10 each on average, standard deviation sqrt(40 * 0.25 * 0.75) = 2.7.
    assert counts.sum() == 200 and counts.min() >= 1 and counts.max() <= 22
    partners = {(f, r) for e in epochs for f, r in zip(flat(plan, "forget", e), flat(plan, "retain", e), strict=True)}
    assert len(partners) > 60, "the same records are always paired"


def test_the_sequence_follows_seed_and_epoch_and_nothing_else(loader):
    first = make(loader)
    assert first.steps(3) == make(loader).steps(3) == first.steps(3)
    assert first.steps(3) != make(loader, seed=2).steps(3)
    assert flat(first, "retain", 3) == flat(make(loader, batch_size=5), "retain", 3)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_pairs_of_one(loader, processes):
    for step in make(loader, batch_size=5).steps(0):
        pieces = split_step(step, processes)
        pairs = [p for piece, weight in pieces if weight for p in zip(piece["forget"], piece["retain"], strict=True)]
        assert pairs == list(zip(step["forget"], step["retain"], strict=True))


@pytest.mark.parametrize(("n_retain", "most"), [(1, 5), (2, 3), (4, 2), (5, 1)])
def test_fewer_retain_than_forget_records_repeat_evenly(loader, n_retain, most):
    counts = np.bincount(flat(make(loader, retain=RETAIN[:n_retain]), "retain", 0))
    assert counts.sum() == 5 and counts.max() == most


def test_a_forget_set_smaller_than_a_batch(loader):
    steps = make(loader, batch_size=64).steps(0)
    assert len(steps) == 1 and len(steps[0]["forget"]) == len(steps[0]["retain"]) == 5


def test_item_9_noisy_and_clean_are_the_same_rows(loader):
    """Zero noise: row i of the noisy batch must be row i of the clean one, for every epoch's order."""
    off = {"image": {"sd": 0.0}, "text": {"level": 0.0, "max_keywords": 0, "synonyms": {}}}
    plan = make(loader, noise=off)
    for epoch in range(3):
        for step in plan.steps(epoch):
            batches = plan.load(step, epoch)
            clean, noisy = batches["forget"], batches["forget_noisy"]
            assert torch.equal(clean.indices, noisy.indices) and clean.indices.tolist() == list(step["forget"])
            assert torch.equal(clean.inputs["film"], noisy.inputs["film"])
            assert all(torch.equal(v, noisy.inputs["note"][k]) for k, v in clean.inputs["note"].items())
            assert all(torch.equal(mask, noisy.present[name]) for name, mask in clean.present.items())


def test_row_10_noise_is_fresh_each_epoch_and_does_not_depend_on_the_order(loader):
    wide, narrow = make(loader, noise={}, batch_size=5), make(loader, noise={}, batch_size=1)

    def films(plan, epoch):
        found = {}
        for step in plan.steps(epoch):
            batch = plan.load(step, epoch)["forget_noisy"]
            clean = plan.load(step, epoch)["forget"].inputs["film"]
            changed = (batch.inputs["film"] != clean).flatten(1).any(dim=1)
            assert torch.equal(changed, batch.present["film"])
            found.update(zip(step["forget"], batch.inputs["film"], strict=True))
        return {i: film for i, film in found.items() if loader.dataset[i].modalities["film"] is not None}

    first, second = films(wide, 0), films(wide, 1)
    assert all(torch.equal(first[i], films(narrow, 0)[i]) for i in first)
    assert all(not torch.equal(first[i], second[i]) for i in first)
    drawn = torch.stack(list(first.values()))
    assert len({tuple(film.flatten().tolist()) for film in drawn}) == len(drawn)


def test_missing_modalities_stay_missing_under_noise(loader):
    missing = next(i for i in range(32) if loader.dataset[i].modalities["film"] is None)
    batch = make(loader, forget=(missing,), noise={}).load({"forget": (missing,), "retain": (30,)}, 0)["forget_noisy"]
    assert not batch.present["film"].any() and not batch.inputs["film"].any()


def test_without_noise_there_is_no_noisy_stream(loader):
    plan = make(loader)
    assert plan.load(plan.steps(0)[0], 0).keys() == {"forget", "retain"}
