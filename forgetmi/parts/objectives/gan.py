"""Training a generator and a discriminator by turns, in the one training loop."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from forgetmi.batch import Batch
from forgetmi.modalities.base import Inputs
from forgetmi.models.gan import GanPair
from forgetmi.training.losses import Loss
from forgetmi.training.plans import Step
from forgetmi.training.seeds import numpy_generator, torch_generator

DISCRIMINATOR, GENERATOR = "discriminator", "generator"
PAIRS_AN_EPOCH = 100


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean( -log D(x) ) + mean( -log(1 - D(G(z))) ), with D the sigmoid of the scores [B] (Goodfellow et al. 2014)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """mean( -log D(G(z)) ): the form that does not saturate."""
    return F.softplus(-fake).mean()


def gan_objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
    """The loss of the network whose turn it is; the other one gets no gradient, so the optimiser leaves it alone."""
    pair = cast(GanPair, model)
    ((turn, batch),) = batches.items()
    rows, conditions, noise = (cast(Tensor, batch.inputs[name]) for name in ("rows", "conditions", "noise"))
    if turn == DISCRIMINATOR:
        with torch.no_grad():
            fake = pair.generator(noise, conditions)
        loss = discriminator_loss(pair.discriminator(rows, conditions), pair.discriminator(fake, conditions))
    else:
        fixed = {name: weight.detach() for name, weight in pair.discriminator.named_parameters()}
        fake = pair.generator(noise, conditions)
        loss = generator_loss(functional_call(pair.discriminator, fixed, (fake, conditions)))
    return Loss(loss, {turn: loss})


class GanPlan:
    """Turns of the discriminator and of the generator on the same rows, :data:`PAIRS_AN_EPOCH` pairs an epoch; the
    rows start again, in a new order, as often as they must.

    Args:
        rows: real rows [N, *shape], N >= 1.
        conditions: [N, M].
        pairs: of turns, in all.
        batch_size: rows a turn; N at most.
        latent: width of the noise, N(0, 1), drawn from ``(seed, epoch, turn, rows)``.
        seed: see above.
    """

    def __init__(
        self, rows: Tensor, conditions: Tensor, *, pairs: int, batch_size: int, latent: int, seed: int
    ) -> None:
        self.rows, self.conditions, self.pairs, self.latent, self.seed = rows, conditions, pairs, latent, seed
        self.batch_size = min(batch_size, len(rows))

    @property
    def epochs(self) -> int:
        """How many epochs the pairs take."""
        return -(-self.pairs // PAIRS_AN_EPOCH)

    def steps(self, epoch: int) -> list[Step]:
        """The epoch's turns."""
        pairs = min(PAIRS_AN_EPOCH, self.pairs - epoch * PAIRS_AN_EPOCH)
        draw = numpy_generator(self.seed, "rows", epoch)
        passes = -(-pairs * self.batch_size // len(self.rows))
        order = [int(row) for _ in range(passes) for row in draw.permutation(len(self.rows))]
        taken = [tuple(order[k * self.batch_size : (k + 1) * self.batch_size]) for k in range(pairs)]
        return [{turn: rows} for rows in taken for turn in (DISCRIMINATOR, GENERATOR)]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The turn's rows, conditions and noise."""
        ((turn, indices),) = step.items()
        chosen = torch.tensor(indices)
        noise = torch.randn(len(indices), self.latent, generator=torch_generator(self.seed, turn, epoch, *indices))
        inputs: dict[str, Inputs] = {
            "rows": self.rows[chosen], "conditions": self.conditions[chosen], "noise": noise
        }  # fmt: skip
        return {turn: Batch(inputs, {}, None, chosen)}
