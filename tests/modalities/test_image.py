"""Images: what comes out is known pixel by pixel; noise stays in [0, 1] and zero noise changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities import build_modality
from forgetmi.modalities.image import ImageModality, ImageNoise, perturb_image


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


PIXELS = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
EXPECTED = torch.tensor([[[0.0, 0.2, 0.4], [0.6, 0.8, 1.0]]])


@pytest.mark.parametrize(
    "value",
    [
        PIXELS,
        PIXELS.astype(np.uint16) * 257,
        PIXELS / 255.0,
        PIXELS[:, :, None],
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS.astype(np.int32) * 257),
        Image.fromarray(np.repeat(PIXELS[:, :, None], 3, axis=2)),
        torch.tensor(PIXELS / 255.0),
    ],
    ids=["uint8", "uint16", "float", "trailing channel", "PIL L", "PIL I", "PIL RGB", "tensor"],
)
def test_every_form_of_the_same_image_gives_the_same_tensor(value):
    image = ImageModality((2, 3)).prepare(value)
    assert image.dtype == torch.float32 and image.shape == (1, 2, 3)
    torch.testing.assert_close(image, EXPECTED, atol=2e-4, rtol=0)  # luma weights sum to 0.9999


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    three = ImageModality((2, 3), 3).prepare(PIXELS)
    torch.testing.assert_close(three, EXPECTED.expand(3, -1, -1))
    red = np.zeros((2, 3, 3))
    red[:, :, 0] = 1.0
    assert ImageModality((2, 3), 1).prepare(red).unique().item() == pytest.approx(0.299, abs=1e-3)


def test_brightness_is_not_stretched():
    dark = np.full((4, 4), 25, dtype=np.uint8)
    assert ImageModality(4).prepare(dark).max().item() == pytest.approx(25 / 255)


def test_resize_is_antialiased_and_left_out_where_the_size_fits():
    stripes = np.zeros((64, 64), dtype=np.float32)
    stripes[:, ::8] = 1.0
    small = ImageModality(8).prepare(stripes)
    assert small.shape == (1, 8, 8)
    # One column in eight is white. Without antialiasing the two columns about 3.5, 11.5, ... are read: all black.
    assert small.mean().item() == pytest.approx(1 / 8, abs=0.02)
    assert torch.equal(ImageModality(64).prepare(stripes)[0], torch.from_numpy(stripes))


def test_prepare_leaves_its_input_alone():
    value = np.random.default_rng(0).random((5, 5))
    before = value.copy()
    prepared = ImageModality(5).prepare(value)
    prepared.zero_()
    assert np.array_equal(value, before)


@pytest.mark.parametrize(
    "value",
    [
        np.array([[0.1, np.nan]]),
        np.array([[0.1, np.inf]]),
        np.array([[-0.1, 0.5]]),
        np.array([[0.0, 255.0]]),
        np.zeros((0, 4)),
        np.zeros(4),
        np.zeros((2, 2, 2, 2)),
        np.zeros((3, 8, 8)),
        np.zeros((2, 2), dtype=np.int64),
        np.zeros((2, 2), dtype=complex),
        Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)),
        "film.png",
    ],
    ids=[
        "nan",
        "inf",
        "negative",
        "0..255 float",
        "empty",
        "1d",
        "4d",
        "channels first",
        "int64",
        "complex",
        "32 bit",
        "str",
    ],
)
def test_bad_values_are_refused(value):
    with pytest.raises(DataError):
        ImageModality(2).prepare(value)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        ImageModality(0, 2)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError) as caught:
        ImageNoise(mean=float("nan"), sd=-1)
    assert len(caught.value.problems) == 2


@given(st.floats(0, 5), st.floats(-2, 2), st.integers(0, 1000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_item_8_noisy_image_stays_in_the_unit_range(sd, mean, seed, rescale):
    image = torch.rand(1, 6, 6, generator=generator(seed))
    noisy = perturb_image(image, ImageNoise(mean, sd, rescale), generator(seed))
    assert noisy.shape == image.shape and noisy.min() >= 0 and noisy.max() <= 1


def test_item_8_zero_noise_is_the_identity():
    modality = ImageModality(6)
    image = modality.prepare(np.random.default_rng(0).random((6, 6)))
    for noise in (ImageNoise(sd=0.0), {"sd": 0.0}):
        assert torch.equal(modality.perturb(None, image, noise, generator()), image)


def test_noise_has_the_stated_mean_and_sd():
    """A mid-grey image, so that nothing is clipped: 40 000 draws pin mean and sd to 1 %."""
    image = torch.full((1, 200, 200), 0.5)
    added = perturb_image(image, ImageNoise(0.1, 0.05), generator()) - image
    assert added.mean().item() == pytest.approx(0.1, abs=0.001)
    assert added.std().item() == pytest.approx(0.05, rel=0.02)


def test_noise_leaves_the_clean_example_alone_and_follows_the_generator():
    image = torch.rand(3, 8, 8, generator=generator())
    before = image.clone()
    state = torch.get_rng_state()
    first, again = (perturb_image(image, ImageNoise(), generator(7)) for _ in range(2))
    assert torch.equal(image, before) and torch.equal(first, again)
    assert not torch.equal(first, perturb_image(image, ImageNoise(), generator(8)))
    assert torch.equal(torch.get_rng_state(), state)


def test_rescale_max_divides_by_the_images_own_maximum():
    image = torch.tensor([[[0.1, 0.4]]])
    scaled = perturb_image(image, ImageNoise(sd=0.0, rescale_max=True), generator())
    torch.testing.assert_close(scaled, torch.tensor([[[0.25, 1.0]]]))
    black = torch.zeros(1, 2, 2)
    assert torch.equal(perturb_image(black, ImageNoise(sd=0.0, rescale_max=True), generator()), black)


def test_collate_blank_and_config():
    modality = ImageModality((4, 5), 3)
    batch = modality.collate([modality.blank(), modality.prepare(np.ones((4, 5)))])
    assert batch.shape == (2, 3, 4, 5) and batch[0].sum() == 0 and batch[1].min() == 1
    again = build_modality(modality.to_config())
    assert isinstance(again, ImageModality) and again.to_config() == modality.to_config()
    assert again.default_noise == ImageNoise(0.0, 0.1)


def test_a_mapping_changes_only_what_it_names():
    modality = ImageModality(4, noise=ImageNoise(mean=0.3, sd=0.0))
    image = torch.full((1, 4, 4), 0.5)
    shifted = modality.perturb(None, image, {"rescale_max": False}, generator())
    torch.testing.assert_close(shifted, torch.full_like(image, 0.8))
    with pytest.raises(ConfigError, match="Did you mean 'sd'"):
        modality.perturb(None, image, {"sdd": 1}, generator())
