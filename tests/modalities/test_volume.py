"""Volumes: voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgetmi.errors import ConfigError, DataError
from forgetmi.inputs import VolumeInput
from forgetmi.modalities import build_modality
from forgetmi.modalities.volume import VolumeModality


def test_integers_are_divided_by_their_range_and_the_axes_keep_their_order():
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    got = VolumeModality((2, 3, 4)).prepare(voxels)
    assert got.shape == (1, 2, 3, 4)
    np.testing.assert_allclose(got[0].numpy(), voxels / 255, rtol=1e-6)
    np.testing.assert_allclose(VolumeModality((2, 3, 4)).prepare(voxels.astype(np.uint16) * 257), got, rtol=1e-6)


def test_shrinking_averages_and_growing_interpolates():
    stripes = np.zeros((8, 2, 2), dtype=np.float32)
    stripes[::4] = 1.0  # one slice of four: linear interpolation of single slices would miss it
    assert VolumeModality((2, 2, 2)).prepare(stripes).unique().tolist() == [0.25]
    steps = np.array([0.0, 1.0], dtype=np.float32)[:, None, None]
    grown = VolumeModality((4, 1, 1)).prepare(steps).flatten().tolist()
    assert grown == [0.0, 0.25, 0.75, 1.0]
    both = VolumeModality((4, 1, 1)).prepare(np.repeat(steps, 3, axis=2)).flatten().tolist()
    assert both == [0.0, 0.25, 0.75, 1.0]


def test_noise_is_clipped_and_none_changes_nothing():
    modality = VolumeModality(12)
    grey = modality.prepare(np.full((12, 12, 12), 0.5))
    generator = torch.Generator().manual_seed(0)
    noisy = modality.perturb(None, grey, {"sd": 0.05}, generator)
    assert (noisy - grey).std().item() == pytest.approx(0.05, rel=0.1)
    assert modality.perturb(None, grey, {"sd": 5.0}, generator).aminmax() == (0.0, 1.0)
    assert torch.equal(modality.perturb(None, grey, {"sd": 0.0}, generator), grey)


def test_it_is_stored_and_built_again():
    modality = VolumeInput(size=(2, 3, 4)).build(())
    assert build_modality(modality.to_config()).size == (2, 3, 4)
    assert modality.collate([modality.blank()] * 2).shape == (2, 1, 2, 3, 4)
    assert VolumeModality(5).size == (5, 5, 5)


@pytest.mark.parametrize(
    "value", [np.zeros((3, 4)), np.zeros((0, 3, 4)), np.full((1, 1, 1), 7.0), np.zeros((1, 1, 1), dtype=np.int32)]
)
def test_values_that_cannot_be_used(value):
    with pytest.raises(DataError):
        VolumeModality(4).prepare(value)


@pytest.mark.parametrize("size", [0, (3, 4), (1, 0, 1)])
def test_settings_that_cannot_work(size):
    with pytest.raises(ConfigError, match="at least 1"):
        VolumeModality(size)
