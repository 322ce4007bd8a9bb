"""Splits by patient, drawn from a seed that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from forgetmi.errors import ConfigError
from forgetmi.records import Record, RecordDataset


def split_by_patient(dataset: RecordDataset, *, validation: float, test: float, seed: int) -> RecordDataset:
    """Draw validation and test patients; every record of a patient goes to one split.

    Args:
        dataset: its present splits are ignored.
        validation, test, seed: as in :func:`draw_splits`.

    Raises:
        ConfigError: a share is out of range, or leaves a split that was asked for without a patient.
    """
    splits = draw_splits([record.patient_id for record in dataset], validation=validation, test=test, seed=seed)

    def moved(record: Record, split: str) -> Record:
        return replace(record, split=split)

    return dataset.with_records(map(moved, dataset, splits))


def draw_splits(
    patients: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
    published: Sequence[str] | None = None,
) -> list[str]:
    """A split for each row, the same for all rows of a patient.

    Args:
        patients: the patient of each row.
        validation, test: shares of the *patients* that are drawn from, each in [0, 1), together below 1.
        seed: the draw depends on it and on the sorted ids of these patients, on nothing else.
        published: the source's own split of each row: its validation and test patients stay where they are, and the
            others are drawn from its training patients. By default all patients are drawn from.

    Raises:
        ConfigError: a share is out of range, or leaves a split that was asked for without a patient.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise ConfigError([f"validation={validation} and test={test} must be >= 0 and sum to less than 1"])
    present = ["train"] * len(patients) if published is None else list(published)
    if not validation and not test:
        return present
    pool = np.array(sorted({patient for patient, split in zip(patients, present, strict=True) if split == "train"}))
    order = np.random.default_rng(seed).permutation(len(pool))
    n_validation, n_test = round(validation * len(pool)), round(test * len(pool))
    if (validation and not n_validation) or (test and not n_test) or len(pool) <= n_validation + n_test:
        raise ConfigError([f"{len(pool)} patients are too few for validation={validation} and test={test}"])
    drawn = dict.fromkeys(pool[order[:n_validation]].tolist(), "validation")
    drawn.update(dict.fromkeys(pool[order[n_validation : n_validation + n_test]].tolist(), "test"))
    return [drawn.get(patient, split) for patient, split in zip(patients, present, strict=True)]
