"""Two networks by turns in one loop: losses by hand, whose weights move, and that something is learnt."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from forgetmi.models.gan import build_gan
from forgetmi.parts.objectives.gan import (
    DISCRIMINATOR,
    GENERATOR,
    GanPlan,
    discriminator_loss,
    gan_objective,
    generator_loss,
)
from forgetmi.training.modes import scoring
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.tiny import same_state, state_of

ADAM = {"optimizer": "adam", "momentum": 0.5, "clip_norm": None, "lr": 1e-2}


def plan_of(rows, pairs, batch_size=8, conditions=None, seed=0):
    told = torch.empty(len(rows), 0) if conditions is None else conditions
    return GanPlan(rows, told, pairs=pairs, batch_size=batch_size, latent=3, seed=seed)


def test_losses_by_hand():
    undecided = torch.zeros(4)
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(undecided).item() == pytest.approx(math.log(2))
    real, fake = torch.tensor([math.log(3.0)]), torch.tensor([-math.log(4.0)])  # D = 3/4 and 1/5
    assert discriminator_loss(real, fake).item() == pytest.approx(-math.log(3 / 4) - math.log(4 / 5))
    assert generator_loss(fake).item() == pytest.approx(-math.log(1 / 5))


def test_turns_and_rows():
    plan = plan_of(torch.arange(10.0)[:, None], 230, batch_size=4)
    assert plan.epochs == 3
    steps = [plan.steps(epoch) for epoch in range(3)]
    assert [len(epoch) for epoch in steps] == [200, 200, 60]
    assert plan.steps(1) == steps[1] and steps[0] != steps[1]
    for epoch in steps:
        assert [next(iter(step)) for step in epoch[:4]] == [DISCRIMINATOR, GENERATOR] * 2
        assert all(a[DISCRIMINATOR] == b[GENERATOR] for a, b in zip(epoch[::2], epoch[1::2], strict=True))
    visits = Counter(row for step in steps[0][::2] for row in step[DISCRIMINATOR])
    assert set(visits.values()) == {40}
    assert plan_of(torch.zeros(3, 1), 5, batch_size=64).batch_size == 3


def test_noise_is_of_seed_epoch_turn_and_rows():
    plan = plan_of(torch.arange(10.0)[:, None], 5)

    def noise(plan, turn, rows, epoch):
        return plan.load({turn: rows}, epoch)[turn].inputs["noise"]

    base = noise(plan, GENERATOR, (1, 2), 0)
    assert torch.equal(base, noise(plan, GENERATOR, (1, 2), 0))
    other = plan_of(torch.arange(10.0)[:, None], 5, seed=1)
    for different in (
        noise(plan, DISCRIMINATOR, (1, 2), 0), noise(plan, GENERATOR, (2, 1), 0),
        noise(plan, GENERATOR, (1, 2), 1), noise(other, GENERATOR, (1, 2), 0),
    ):  # fmt: skip
        assert not torch.equal(base, different)
    batch = plan.load({GENERATOR: (3, 7)}, 0)[GENERATOR]
    assert batch.inputs["rows"].tolist() == [[3.0], [7.0]]


@pytest.mark.parametrize("turn", [DISCRIMINATOR, GENERATOR])
def test_only_the_network_whose_turn_it_is_gets_a_gradient(turn):
    pair = build_gan((2,), conditions=0, latent=3, width=8, seed=0)
    batches = plan_of(torch.randn(8, 2), 1).load({turn: (0, 1, 2)}, 0)
    gan_objective(pair, batches).total.backward()
    moved = {name.split(".")[0] for name, p in pair.named_parameters() if p.grad is not None}
    assert moved == {turn}


def test_a_turn_does_not_move_the_other_networks_weights_by_decay_or_momentum():
    pair = build_gan((2,), conditions=0, latent=3, width=8, seed=0)
    seen = []

    def look(named):
        seen.append({name: p.detach().clone() for name, p in named})

    before = {name: p.detach().clone() for name, p in pair.named_parameters()}
    options = FitOptions(epochs=1, weight_decay=0.5, **{**ADAM, "optimizer": "adamw"})
    Trainer(device="cpu", progress=False).fit(
        pair, plan_of(torch.randn(8, 2), 3), gan_objective, options, seed=0, after_step=look
    )
    for number, (old, new) in enumerate(zip([before, *seen], seen, strict=False)):
        moved = {name.split(".")[0] for name in new if not torch.equal(old[name], new[name])}
        assert moved == {GENERATOR if number % 2 else DISCRIMINATOR}


def test_it_learns_where_the_rows_are():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 2, generator=generator) * torch.tensor([0.2, 1.0]) + torch.tensor([2.0, -1.0])
    pair = build_gan((2,), conditions=0, latent=3, width=16, seed=2)
    plan = plan_of(rows, 500, batch_size=64)
    options = FitOptions(epochs=plan.epochs, weight_decay=0.0, **{**ADAM, "lr": 2e-3})
    noise, none = torch.randn(512, 3, generator=generator), torch.empty(512, 0)

    def made():
        with scoring(pair):
            return pair.generator(noise, none)

    def off():
        return (made().mean(dim=0) - torch.tensor([2.0, -1.0])).norm()

    assert off() > 2
    Trainer(device="cpu", progress=False).fit(pair, plan, gan_objective, options, seed=0)
    assert off() < 1
    assert made()[:, 0].std() < made()[:, 1].std()


def test_same_seed_same_pair():
    rows = torch.rand(6, 1, 8, 8)

    def trained(seed):
        pair = build_gan((1, 8, 8), conditions=0, latent=3, width=4, seed=seed)
        Trainer(device="cpu", progress=False).fit(
            pair, plan_of(rows, 4, seed=seed), gan_objective, FitOptions(epochs=1, **ADAM), seed=seed
        )
        return state_of(pair)

    assert same_state(trained(1), trained(1)) and not same_state(trained(1), trained(2))
