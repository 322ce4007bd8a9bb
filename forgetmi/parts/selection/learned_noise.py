"""Records whose inputs are parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from forgetmi.batch import Batch, Loader
from forgetmi.errors import MethodError
from forgetmi.training.plans import Plan, Step


class LearnedNoise(nn.Module):
    """n records with learned continuous inputs; their other modalities are missing.

    Args:
        loader: knows the inputs' shapes.
        labels: [n].
        generator: the inputs start as standard normal noise.

    Raises:
        MethodError: there is no continuous input.
    """

    def __init__(self, loader: Loader, labels: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        n = len(labels)
        blanks = {name: m.collate([m.blank()] * n) for name, m in loader.modalities.items()}
        self.present = {
            name: torch.full((n,), any(leaf.is_floating_point() for leaf in tree_flatten(value)[0]))
            for name, value in blanks.items()
        }
        if not any(mask.any() for mask in self.present.values()):
            raise MethodError(
                "noise is to be learned in place of inputs, and these records have no continuous input",
                fix="choose a method that does not make inputs: forgetmi ls methods",
            )
        leaves, self.form = tree_flatten(blanks)
        self.fixed = [None if leaf.is_floating_point() else leaf for leaf in leaves]
        self.labels = labels
        self.learned = nn.ParameterList(
            nn.Parameter(torch.randn(leaf.shape, generator=generator)) for leaf in leaves if leaf.is_floating_point()
        )

    def batch(self, rows: Sequence[int] | None = None) -> Batch:
        """The records, or some of them; gradients reach the learned inputs."""
        learned = iter(self.learned)
        inputs = tree_unflatten([next(learned) if leaf is None else leaf for leaf in self.fixed], self.form)
        indices = torch.full((len(self.labels),), -1)  # no positions in the dataset
        whole = Batch(inputs, self.present, self.labels, indices).to(self.learned[0].device)
        return whole if rows is None else whole.rows(rows)

    def squared_norm(self) -> Tensor:
        """The mean over records of the sum of squares of their inputs."""
        return torch.stack([values.square().flatten(1).sum(dim=1).mean() for values in self.learned]).sum()


class OneStepPlan:
    """The same step, with no records of the dataset, a number of times an epoch."""

    def __init__(self, steps: int) -> None:
        self.n = steps

    def steps(self, epoch: int) -> list[Step]:
        """As many as asked for."""
        return [{"noise": (0,)}] * self.n

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """Nothing: the records are the model."""
        return {}


class WithNoisePlan:
    """Each step of a plan with some of the noise records beside it, in turn.

    Args:
        plan: of real records.
        noise: learned already.
        batch_size: noise records a step.
    """

    def __init__(self, plan: Plan, noise: LearnedNoise, batch_size: int) -> None:
        self.plan, self.noise, self.batch_size = plan, noise, batch_size

    def steps(self, epoch: int) -> list[Step]:
        """The plan's, with a stream of noise records by their number."""
        n = len(self.noise.labels)
        size = min(self.batch_size, n)
        return [
            {**step, "noise": tuple((k * size + j) % n for j in range(size))}
            for k, step in enumerate(self.plan.steps(epoch))
        ]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The plan's batches and the noise, detached."""
        real = {stream: indices for stream, indices in step.items() if stream != "noise"}
        with torch.no_grad():
            noise = self.noise.batch(step["noise"]).to(torch.device("cpu"))
        return {**self.plan.load(real, epoch), "noise": noise}
