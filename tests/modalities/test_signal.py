"""Signals: lengths, rates and scales with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgetmi.errors import ConfigError, DataError
from forgetmi.inputs import SignalInput
from forgetmi.modalities import build_modality
from forgetmi.modalities.signal import SignalModality


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def wave(hertz, rate, seconds):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def test_crop_pad_and_scaling_by_hand():
    two = np.array([[1.0, 3.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    got = SignalModality(2, 6, 10).prepare(two)
    assert got.dtype == torch.float32
    assert got.tolist() == [[-1, 1, -1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]  # a flat lead is zero, not noise
    assert SignalModality(2, 3, 10, scaling="none").prepare(two).tolist() == [[1, 3, 1], [5, 5, 5]]


def test_leads_are_scaled_apart():
    loud = np.stack([wave(2, 100, 1), 1000 * wave(2, 100, 1) + 7])
    one, other = SignalModality(2, 100, 100).prepare(loud)
    torch.testing.assert_close(one, other)
    assert one.mean().item() == pytest.approx(0, abs=1e-6) and one.std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize("rate", [100, 250, 360, 500])
def test_the_same_wave_at_any_rate_is_the_same_signal(rate):
    expected = wave(3, 200, 10)[None] + 4
    got = SignalModality(1, 2000, 200, scaling="none").prepare({"samples": wave(3, rate, 10)[None] + 4, "rate": rate})
    inner = slice(100, 1900)  # the filter has nothing to go by at the ends
    np.testing.assert_allclose(got.numpy()[:, inner], expected[:, inner], atol=0.01)


def test_resampling_does_not_alias():
    got = SignalModality(1, 1000, 100, scaling="none").prepare({"samples": wave(90, 500, 10)[None], "rate": 500})
    assert got[:, 100:900].abs().max() < 0.05  # 90 Hz cannot be told at 100 Hz; without a filter it would show at 10


def test_gaps_become_the_leads_mean():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    assert SignalModality(2, 3, 1, scaling="none").prepare(values).tolist() == [[1, 2, 3], [0, 0, 0]]


def test_noise_has_the_given_scale_and_none_changes_nothing():
    modality = SignalModality(2, 5000, 100)
    clean = modality.prepare(np.stack([wave(1, 100, 50), wave(2, 100, 50)]))
    before = clean.clone()
    noisy = modality.perturb(None, clean, {"sd": 0.3}, generator())
    assert (noisy - clean).std().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(clean, before)
    assert torch.equal(modality.perturb(None, clean, {"sd": 0.0}, generator()), clean)
    assert modality.default_noise.sd == 0.1


def test_it_is_stored_and_built_again():
    modality = SignalInput(leads=2, samples=7, rate=50, scaling="none").build(())
    again = build_modality(modality.to_config())
    value = {"samples": np.arange(20.0).reshape(2, 10), "rate": 100}
    assert torch.equal(again.prepare(value), modality.prepare(value))
    assert modality.collate([modality.blank(), modality.prepare(value)]).shape == (2, 2, 7)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((3, 10)),
        np.zeros(10),
        np.zeros((2, 0)),
        "ecg",
        {"samples": np.zeros((2, 10))},
        {"samples": np.zeros((2, 10)), "rate": 0},
        np.full((2, 10), np.inf),
    ],
)
def test_values_that_cannot_be_used(value):
    with pytest.raises(DataError):
        SignalModality(2, 10, 100).prepare(value)


def test_settings_that_cannot_work_are_listed_together():
    with pytest.raises(ConfigError) as caught:
        SignalModality(0, 0, -1, scaling="all")
    assert len(caught.value.problems) == 4
