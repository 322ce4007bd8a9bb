"""Generator and discriminator pairs: shapes, ranges, seeds, and that records do not see one another."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ModelError
from forgetmi.models.gan import build_gan, doublings


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 48, 48), (1, 64, 64), (1, 28, 41), (1, 100, 70)]
)
def test_images_of_any_size(shape):
    pair = build_gan(shape, conditions=0, latent=5, width=4, seed=0).eval()
    images = pair.generator(torch.randn(3, 5), torch.empty(3, 0))
    assert images.shape == (3, *shape)
    assert images.min() >= 0 and images.max() <= 1
    assert pair.discriminator(images, torch.empty(3, 0)).shape == (3,)


def test_the_published_sizes_start_at_four_to_seven_pixels():
    assert [doublings((side, side)) for side in (8, 28, 32, 64, 128)] == [1, 2, 3, 4, 5]
    assert build_gan((1, 28, 28), conditions=0, latent=5, width=4, seed=0).generator.start == (8, 7, 7)
    assert build_gan((1, 64, 64), conditions=0, latent=5, width=4, seed=0).generator.start == (32, 4, 4)


def test_rows_of_numbers_with_conditions():
    pair = build_gan((6,), conditions=2, latent=5, width=8, seed=0)
    noise, told = torch.randn(3, 5), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rows = pair.generator(noise, told)
    assert rows.shape == (3, 6)
    assert not torch.allclose(rows, pair.generator(noise, told.flip(0)))
    assert not torch.allclose(pair.discriminator(rows, told), pair.discriminator(rows, told.flip(0)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (6,)])
def test_a_score_does_not_depend_on_the_records_beside_it(shape):
    pair = build_gan(shape, conditions=0, latent=5, width=4, seed=0).train()
    rows, none = torch.rand(4, *shape), torch.empty(4, 0)
    alone = torch.cat([pair.discriminator(row[None], none[:1]) for row in rows])
    assert torch.allclose(pair.discriminator(rows, none), alone, atol=1e-6)


def test_weights_are_of_their_seed_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_gan((1, 8, 8), conditions=0, latent=5, width=4, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    weights = [pair.generator.first.weight for pair in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(("shape", "conditions"), [((1, 7, 28), 0), ((2, 9), 0), ((1, 8, 8, 8), 0), ((1, 8, 8), 2)])
def test_rows_without_a_generator_are_refused(shape, conditions):
    with pytest.raises(ModelError, match="there is no generator for rows of shape"):
        build_gan(shape, conditions=conditions, latent=5, width=4, seed=0)
