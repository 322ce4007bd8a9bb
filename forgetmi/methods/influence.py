"""One Newton step to where the retain set alone would have led."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.parts.edits.importance import gradient_sum, per_sample_gradients, trainable
from forgetmi.parts.edits.influence import inverse_curvature_product
from forgetmi.training.seeds import numpy_generator


@dataclass(frozen=True)
class Influence:
    """Influence unlearning with a WoodFisher curvature (Izzo et al. 2021; Jia et al. 2023, arXiv 2304.04934).

        theta <- theta + a (lambda I + H)^-1 v,   v = (1/N) sum_{D_f} g - (|D_f| / (N |D_r|)) sum_{D_r} g,

    with g the gradients of the training loss at theta_0, N = |D|, and H = (1/n) sum g g^T over n retain records. Where
    theta_0 is a minimum over D, v is (1/|D_r|) sum_{D_f} g, and with the Fisher matrix as H the step is Newton's for
    D_r. (In one published code the second sum runs over D_f as well: v is zero there and nothing is unlearned.)

    Our reading: the inverse is exact (:func:`~forgetmi.parts.edits.influence.inverse_curvature_product`) where the
    published recursion is an approximation; it needs all n gradients at once, n times the size of the model.

    Attributes:
        scale: a. 1 is the Newton step.
        damping: lambda, > 0. Published, implicitly: 1. Smaller means larger steps.
        samples: n, at most; drawn from D_r. Published: 1000.
        targets: of H: ``true`` labels, as published, or the ``model``'s own (the Fisher matrix).
        memory_gb: refuse a job whose gradients would need more.
        batch_size: changes speed and memory only.
    """

    scale: float = 1.0
    damping: float = 1.0
    samples: int = 1000
    targets: Literal["true", "model"] = "true"
    memory_gb: float = 8.0
    batch_size: int = 32

    name: ClassVar[str] = "influence"
    paper: ClassVar[str] = "influence unlearning, WoodFisher (Jia et al. 2023, arXiv 2304.04934)"
    needs: ClassVar[Needs] = Needs(all_weights=True)

    def __post_init__(self) -> None:
        checks = {
            "scale must be >= 0": self.scale >= 0,
            "damping must be > 0": self.damping > 0,
            "samples must be >= 1": self.samples >= 1,
            "memory_gb must be > 0": self.memory_gb > 0,
            "batch_size must be >= 1": self.batch_size >= 1,
        }
        if problems := unmet(checks):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after the step."""
        check_job(self, job)
        model = job.copy_of_original()
        weights = trainable(model)
        drawn = numpy_generator(job.seed, self.name, "samples").permutation(job.partition.retain)
        chosen = sorted(
            drawn[: self.samples].tolist()
        )  # where all are taken the seed changes nothing, not even rounding
        self._check_memory(job, sum(weight.numel() for weight in weights.values()), len(chosen))
        rows = self._rows(job, model, chosen)
        # With true targets the rows are gradients of the loss, and these records need not be asked again.
        known = (rows.sum(dim=0), frozenset(chosen)) if self.targets == "true" else None
        step = inverse_curvature_product(rows, self._vector(job, model, known), len(chosen), self.damping)
        with torch.no_grad():
            pieces = step.split([weight.numel() for weight in weights.values()])
            for (name, weight), piece in zip(weights.items(), pieces, strict=True):
                model.get_parameter(name).add_(piece.view_as(weight), alpha=self.scale)
        return model

    def _vector(self, job: UnlearningJob, model: nn.Module, known: tuple[Tensor, Collection[int]] | None) -> Tensor:
        def total(indices: Sequence[int]) -> Tensor:
            found = gradient_sum(
                model, job.task, job.fit_loader(), indices, batch_size=self.batch_size, device=job.trainer.device
            )
            return torch.cat([gradient.flatten() for gradient in found.values()])

        n_f, n_r = len(job.partition.forget), len(job.partition.retain)
        n = n_f + n_r
        summed, asked = known or (torch.zeros(()), ())
        rest = [index for index in job.partition.retain if index not in asked]
        return total(job.partition.forget) / n - n_f / (n * n_r) * (total(rest) + summed.to(job.trainer.device))

    def _rows(self, job: UnlearningJob, model: nn.Module, chosen: Sequence[int]) -> Tensor:
        """[m, P]: the gradients, each times the root of its weight."""
        found = []
        for batch in job.loader.batches(chosen, self.batch_size):
            gradients, chances = per_sample_gradients(
                model, job.task, batch.to(job.trainer.device), targets=self.targets
            )
            flat = torch.cat([g.reshape(*chances.shape, -1) for g in gradients.values()], dim=2)
            found.append((flat * chances.sqrt().to(flat.dtype)[..., None]).flatten(0, 1))
        return torch.cat(found)

    def _check_memory(self, job: UnlearningJob, parameters: int, n: int) -> None:
        outcomes = 1
        if self.targets == "model":
            batch = job.loader.batch(job.partition.retain[:1]).to(job.trainer.device)
            outcomes = job.task.outcomes(job.reference.output(batch)).shape[1]
        needed = parameters * n * outcomes * 4 * 4 / 2**30  # float32, and float64 copies while the system is solved
        if needed > self.memory_gb:
            raise MethodError(
                f"influence would hold {n} gradients of {parameters} weights: about {needed:.1f} GB",
                expected=f"at most memory_gb = {self.memory_gb:g}",
                fix="lower samples, freeze layers, or raise memory_gb",
            )
