"""Batches of records whose inputs have one shape."""

from __future__ import annotations

import torch

from forgetmi.parts.selection.alike import alike_batches
from tests.tiny import classifier_case, language_case


def test_every_record_once_unpadded_with_its_own_labels_and_masks():
    for case in (language_case(), classifier_case()):
        indices = list(case.partition.retain)
        batches = list(alike_batches(case.loader, indices, 4))
        assert sorted(i for batch in batches for i in batch.indices.tolist()) == sorted(indices)
        assert max(len(batch) for batch in batches) > 1 and all(len(batch) <= 4 for batch in batches)
        for batch in batches:
            for row, index in enumerate(batch.indices.tolist()):
                alone = case.loader.batch([index])
                for name, value in alone.inputs.items():
                    there = batch.inputs[name]
                    pairs = [(value, there)] if torch.is_tensor(value) else [(value[k], there[k]) for k in value]
                    assert all(torch.equal(a[0], b[row]) for a, b in pairs)
                assert all(batch.present[name][row] == alone.present[name][0] for name in alone.present)
                assert batch.labels is None or batch.labels[row] == alone.labels[0]
                assert batch.studies[row] == alone.studies[0]


def test_labels_are_those_of_the_batch_without_reading_inputs(monkeypatch):
    case = classifier_case()
    expected = case.loader.batch([3, 1, 4]).labels
    monkeypatch.setattr(case.loader, "_clean", None)
    assert torch.equal(case.loader.labels([3, 1, 4]), expected)
    assert language_case().loader.labels([0, 1]) is None
