"""Splits by patient, drawn from a seed that is passed in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forgetmi.errors import ConfigError
from forgetmi.records import Record, RecordDataset


def split_by_patient(dataset: RecordDataset, *, validation: float, test: float, seed: int) -> RecordDataset:
    """Draw validation and test patients; every record of a patient goes to one split.

    Args:
        dataset: its present splits are ignored.
        validation, test: shares of the *patients*, each in [0, 1), together below 1.
        seed: the draw depends on it and on the sorted patient ids, on nothing else.

    Raises:
        ConfigError: a share is out of range, or leaves a split that was asked for without a patient.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise ConfigError([f"validation={validation} and test={test} must be >= 0 and sum to less than 1"])
    patients = np.array(sorted(dataset.patients()))
    order = np.random.default_rng(seed).permutation(len(patients))
    n_validation, n_test = round(validation * len(patients)), round(test * len(patients))
    if (validation and not n_validation) or (test and not n_test) or len(patients) <= n_validation + n_test:
        raise ConfigError([f"{len(patients)} patients are too few for validation={validation} and test={test}"])
    split = dict.fromkeys(patients[order].tolist(), "train")
    split.update(dict.fromkeys(patients[order[:n_validation]].tolist(), "validation"))
    split.update(dict.fromkeys(patients[order[n_validation : n_validation + n_test]].tolist(), "test"))

    def moved(record: Record) -> Record:
        return replace(record, split=split[record.patient_id])

    return dataset.with_records(moved(record) for record in dataset)
