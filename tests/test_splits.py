"""Splits by patient."""

from __future__ import annotations

import random

import pytest

from forgetmi.errors import ConfigError
from forgetmi.records import Record, RecordDataset
from forgetmi.splits import split_by_patient


def dataset(patients: int = 40, order: int = 0, split: str = "train") -> RecordDataset:
    records = [
        Record(f"s{p}-{k}", f"st{p}", f"p{p:03d}", "h", {}, None, split)
        for p in range(patients)
        for k in range(1 + p % 3)
    ]
    random.Random(order).shuffle(records)
    return RecordDataset(records, name="d", levels=("patient",))


def of(data: RecordDataset) -> dict[str, str]:
    found: dict[str, str] = {}
    for record in data:
        assert found.setdefault(record.patient_id, record.split) == record.split, "a patient in two splits"
    return found


def test_shares_are_of_patients_and_every_record_stays():
    data = dataset()
    split = split_by_patient(data, validation=0.2, test=0.1, seed=0)
    counts = [list(of(split).values()).count(name) for name in ("train", "validation", "test")]
    assert counts == [28, 8, 4]
    assert [r.sample_id for r in split] == [r.sample_id for r in data]
    assert all(r.split == "train" for r in data), "the given dataset was changed"


def test_the_draw_follows_the_seed_and_the_patients_and_nothing_else():
    first = of(split_by_patient(dataset(), validation=0.2, test=0.2, seed=1))
    assert first == of(split_by_patient(dataset(order=5, split="test"), validation=0.2, test=0.2, seed=1))
    assert first != of(split_by_patient(dataset(), validation=0.2, test=0.2, seed=2))


def test_every_patient_has_its_turn():
    tested = set()
    for seed in range(30):
        split = of(split_by_patient(dataset(), validation=0.0, test=0.25, seed=seed))
        tested |= {patient for patient, name in split.items() if name == "test"}
    assert len(tested) == 40  # missed with probability 40 * 0.75**30 < 1 %


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (1.0, 0.0), (0.01, 0.2), (0.2, 0.01)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError, match=f"validation={shares[0]}"):
        split_by_patient(dataset(), validation=shares[0], test=shares[1], seed=0)


def test_a_training_split_without_a_patient_is_refused():
    with pytest.raises(ConfigError, match="too few"):
        split_by_patient(dataset(patients=2), validation=0.45, test=0.5, seed=0)
