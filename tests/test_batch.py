"""Batches and their loader: what is missing, what is kept, what noise depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from forgetmi.batch import Batch, Loader, sample_generator
from forgetmi.errors import DataError
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.text import TextModality
from forgetmi.records import Record, RecordDataset
from tests.tiny import tiny_dataset, tiny_tokenizer
from tests.training.toys import VectorModality, vector_loader, vectors


def tiny_loader(**options) -> Loader:
    modalities = {"film": ImageModality(size=8), "note": TextModality(tiny_tokenizer(), max_length=16)}
    return Loader(tiny_dataset(), modalities, **options)


def equal(a: Batch, b: Batch) -> bool:
    def same(x, y):
        return all(torch.equal(x[k], y[k]) for k in x) if isinstance(x, dict) else torch.equal(x, y)

    return (
        all(same(a.inputs[name], b.inputs[name]) for name in a.inputs)
        and all(torch.equal(a.present[name], b.present[name]) for name in a.present)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        and torch.equal(a.studies, b.studies)
    )


def test_a_batch_holds_the_records_in_the_order_of_their_positions():
    loader, indices = tiny_loader(), [9, 3, 40]
    batch = loader.batch(indices)
    records = [loader.dataset[i] for i in indices]
    assert len(batch) == 3 and batch.indices.tolist() == indices
    assert batch.labels.tolist() == [r.label for r in records]
    for name in ("film", "note"):
        assert batch.present[name].tolist() == [r.modalities[name] is not None for r in records]
    assert torch.equal(batch.inputs["film"][0, 0], torch.from_numpy(records[0].modalities["film"]))


def test_a_missing_modality_is_a_blank_with_a_false_mask():
    loader = tiny_loader()
    no_film = next(i for i, r in enumerate(loader.dataset) if r.modalities["film"] is None)
    no_note = next(i for i, r in enumerate(loader.dataset) if r.modalities["note"] is None)
    batch = loader.batch([no_film, no_note])
    assert batch.present["film"].tolist() == [False, True] and not batch.inputs["film"][0].any()
    assert batch.present["note"].tolist() == [True, False]
    assert not batch.inputs["note"]["attention_mask"][1].any()


def test_batches_cover_the_indices_and_the_last_may_be_smaller():
    found = list(vector_loader().batches([5, 1, 2, 9, 0], 2))
    assert [b.indices.tolist() for b in found] == [[5, 1], [2, 9], [0]]


def test_rows_of_a_batch_are_the_batch_of_those_records_but_for_padding():
    loader = tiny_loader()
    part, alone = loader.batch([9, 3, 40]).rows([2, 0]), loader.batch([40, 9])
    length = alone.inputs["note"]["input_ids"].shape[1]
    trimmed = {key: tensor[:, :length] for key, tensor in part.inputs["note"].items()}
    assert not part.inputs["note"]["attention_mask"][:, length:].any()
    assert equal(replace(part, inputs={**part.inputs, "note": trimmed}), alone)


def test_a_batch_moves_but_its_indices_stay_on_the_cpu():
    batch = tiny_loader().batch([0, 1])
    moved = batch.to(torch.device("meta"))
    assert moved.inputs["note"]["input_ids"].device.type == moved.labels.device.type == moved.device.type == "meta"
    assert moved.indices.device.type == moved.studies.device.type == "cpu"
    assert batch.device.type == "cpu", "the given batch was changed"


def test_studies_are_numbered_by_patient_and_study():
    """Two patients may both have a study "1"."""
    records = [
        Record(f"s{n}", study, patient, "h", {"x": [0.0] * 4}, 0, "train")
        for n, (patient, study) in enumerate([("a", "1"), ("a", "1"), ("a", "2"), ("b", "1")])
    ]
    loader = Loader(RecordDataset(records, name="d", levels=("patient",)), {"x": VectorModality()})
    assert loader.batch(range(4)).studies.tolist() == [0, 0, 1, 2]
    assert loader.batch([3, 0]).studies.tolist() == [2, 0]


@pytest.mark.parametrize(("cache", "expected"), [(True, 4), (False, 12)])
def test_examples_are_prepared_once_where_they_are_kept(cache, expected):
    modality = VectorModality()
    loader = Loader(vectors(), {"x": modality}, cache=cache)
    batches = [loader.batch([0, 1, 2, 3]) for _ in range(3)]
    assert modality.prepared == expected
    assert all(equal(batch, batches[0]) for batch in batches)


def test_kept_examples_are_not_changed_through_a_batch():
    loader = vector_loader()
    before = loader.batch([0]).inputs["x"].clone()
    loader.batch([0]).inputs["x"].zero_()
    loader.noisy_batch([0], None, seed=0, epoch=0).inputs["x"].zero_()
    assert torch.equal(loader.batch([0]).inputs["x"], before)


# Labels


def labelled(labels) -> Loader:
    records = [
        Record(f"s{n}", f"st{n}", f"p{n}", "h", {"x": [0.0] * 4}, label, "train") for n, label in enumerate(labels)
    ]
    return Loader(RecordDataset(records, name="d", levels=("patient",)), {"x": VectorModality()})


def test_labels_by_kind():
    assert labelled([2, 0]).batch([0, 1]).labels.tolist() == [2, 0]
    assert labelled([np.int64(2), 0]).batch([0, 1]).labels.dtype == torch.int64
    assert labelled([None, None]).batch([0, 1]).labels is None
    several = labelled([(1, None), (0.0, 1.0)]).batch([0, 1]).labels
    assert several.dtype == torch.float32 and several.isnan().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, None], "some records of a batch have a label and others have none"),
        ([1, (1.0,)], "of different kinds"),
        ([(1.0, 0.0), (1.0,)], "different numbers of labels"),
        (["severe", "mild"], "of different kinds"),
    ],
)
def test_labels_that_do_not_go_together_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        labelled(labels).batch([0, 1])


# Values that are read late


@dataclass(frozen=True)
class Late:
    value: object
    reads: list

    def load(self):
        self.reads.append(1)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_lazy_values_are_read_when_they_are_used_and_once_where_kept():
    reads: list[int] = []
    loader = labelled([0, 1])
    whole = replace(loader.dataset[0], modalities={"x": Late([1.0, 2.0, 3.0, 4.0], reads)})
    seen = loader.restricted_to({0: whole})
    assert not reads
    for _ in range(2):
        assert seen.batch([0]).inputs["x"].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert len(reads) == 1
    seen.noisy_batch([0], None, seed=0, epoch=0)


def test_a_value_that_cannot_be_read_says_so_each_time():
    broken = DataError("film.png is truncated", where="film.png")
    loader = labelled([0, 1])
    seen = loader.restricted_to({0: replace(loader.dataset[0], modalities={"x": Late(broken, [])})})
    for _ in range(2):
        with pytest.raises(DataError, match="truncated"):
            seen.batch([0, 1])
    assert len(seen.batch([1])) == 1


# Noise


def test_noise_depends_on_seed_epoch_and_record_only():
    loader = tiny_loader()
    indices = [0, 1, 5, 6]

    def film(order, seed=1, epoch=2, made=loader):
        batch = made.noisy_batch(order, {}, seed=seed, epoch=epoch)
        return dict(zip(order, batch.inputs["film"], strict=True))

    first = film(indices)
    for again in (film([6, 0, 5, 1]), film(indices, made=tiny_loader(cache=False)), {i: film([i])[i] for i in indices}):
        assert all(torch.equal(first[i], again[i]) for i in indices)
    for other in (film(indices, seed=2), film(indices, epoch=3)):
        assert not any(torch.equal(first[i], other[i]) for i in indices)


def test_noise_of_one_modality_can_be_off_while_the_others_have_their_default():
    loader = tiny_loader()
    clean = loader.batch([0, 1])
    noisy = loader.noisy_batch([0, 1], {"image": {"sd": 0.0}}, seed=0, epoch=0)
    assert torch.equal(clean.inputs["film"], noisy.inputs["film"])
    noisy = loader.noisy_batch([0, 1], None, seed=0, epoch=0)
    assert not torch.equal(clean.inputs["film"], noisy.inputs["film"])


def test_noise_draws_nothing_from_the_global_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    tiny_loader().noisy_batch([0, 1], {}, seed=0, epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_generators_differ_by_each_of_their_names():
    names = [
        (0, 0, "a", "x"),
        (1, 0, "a", "x"),
        (0, 1, "a", "x"),
        (0, 0, "b", "x"),
        (0, 0, "a", "y"),
        (2**61, 0, "a", "x"),
    ]
    draws = [float(torch.rand(1, generator=sample_generator(*name))) for name in names]
    assert len(set(draws)) == len(names)
    assert draws[0] == float(torch.rand(1, generator=sample_generator(*names[0])))
    sample_generator(-5, 0, "a")  # any integer is a seed


# Other versions of some records


def test_a_restricted_loader_sees_less_and_the_first_one_still_everything():
    loader = tiny_loader()
    index = next(i for i, r in enumerate(loader.dataset) if all(v is not None for v in r.modalities.values()))
    whole = loader.batch([index])
    narrow = loader.restricted_to({index: loader.dataset[index].keep_only(["note"])})
    assert not narrow.batch([index]).present["film"].any() and narrow.batch([index]).present["note"].all()
    assert not narrow.noisy_batch([index], {}, seed=0, epoch=0).inputs["film"].any()
    assert equal(loader.batch([index]), whole)
    both = narrow.restricted_to({0: loader.dataset[0].keep_only([])})
    assert not both.batch([index]).present["film"].any() and not both.batch([0]).present["note"].any()
    assert both.dataset is loader.dataset
