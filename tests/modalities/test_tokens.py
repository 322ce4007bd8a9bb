"""Token sequences: labels only inside the answer, padding that nothing can see."""

from __future__ import annotations

import json

import pytest
import torch

from forgetmi.errors import ConfigError, DataError, MethodError
from forgetmi.modalities import build_modality
from forgetmi.modalities.tokens import TokenModality


@pytest.mark.parametrize(
    "value",
    [
        ([5, 6, 7, 8], 2),
        {"ids": [5, 6, 7, 8], "answer": 2},
        {"ids": torch.tensor([5, 6, 7, 8]), "answer": [0, 0, 1, 1]},
        ([5, 6, 7, 8], torch.tensor([False, False, True, True])),
    ],
)
def test_labels_are_the_answer_and_nothing_else(value):
    example = TokenModality(0).prepare(value)
    assert example.ids.tolist() == [5, 6, 7, 8]
    assert example.labels.tolist() == [-100, -100, 7, 8]


def test_collate_pads_right_to_the_longest_and_masks_by_length():
    """The padding id 5 is also a real token: the mask must come from lengths, not from ids."""
    modality = TokenModality(5)
    batch = modality.collate([modality.prepare(([5, 6, 5], 1)), modality.prepare(([7, 8], 1)), modality.blank()])
    assert batch["input_ids"].tolist() == [[5, 6, 5], [7, 8, 5], [5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 5], [-100, 8, -100], [-100, -100, -100]]


def test_a_batch_of_blanks_has_one_column():
    batch = TokenModality(3).collate([TokenModality(3).blank()] * 2)
    assert batch["input_ids"].tolist() == [[3], [3]] and batch["labels"].tolist() == [[-100], [-100]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        {"ids": [1, 2]},
        ([], 0),
        ([1, 2], 2),
        ([1, 2], -1),
        ([1, 2], [0, 0]),
        ([1, 2], [1]),
        ([1.5, 2.0], 1),
        ([[1, 2]], 0),
        ([1, -2], 0),
        ([1, 2, 3, 4, 5], 1),
    ],
)
def test_bad_sequences_are_refused(value):
    with pytest.raises(DataError):
        TokenModality(0, max_length=4).prepare(value)


def test_noise_is_refused():
    modality = TokenModality(0)
    assert modality.default_noise is None
    with pytest.raises(MethodError, match="no noise is defined"):
        modality.perturb(([1, 2], 1), modality.prepare(([1, 2], 1)), None, torch.Generator())


def test_config_comes_back_through_json():
    modality = TokenModality(7, max_length=9)
    again = build_modality(json.loads(json.dumps(modality.to_config())))
    assert again.to_config() == modality.to_config()
    with pytest.raises(ConfigError) as caught:
        TokenModality(-1, max_length=0)
    assert len(caught.value.problems) == 2
