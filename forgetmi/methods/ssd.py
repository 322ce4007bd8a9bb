"""Selective synaptic dampening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.parts.edits.dampening import dampened
from forgetmi.parts.edits.importance import Tensors, squared_gradients


@dataclass(frozen=True)
class SSD:
    """SSD (Foster et al., AAAI 2024, arXiv 2308.07707): dampen weights that matter more for D_f than for all of D.

        theta <- min( (lambda I_D / I_f)^p, b ) theta   where I_f > alpha I_D

    No training. I is the mean of the squared gradients of the records' training loss at theta_0, in eval mode; D is
    D_f and D_r together. For forget sets that are like the rest it often changes nothing.

    Our reading: ``gradients: per_sample`` squares each record's own gradient, so that I does not depend on a batch
    size, and each record is asked once: I_D = (|D_f| I_f + |D_r| I_r) / |D|. The published code squares the gradient
    of a batch's mean loss (``batch``), with one batch size for both.

    Attributes:
        alpha: selection threshold, >= 0. Published: 10.
        lam: lambda, >= 0. Published: 1.
        exponent: p, > 0. Published: 1.
        bound: b, in (0, 1]. Published: 1.
        gradients: see above.
        batch_size: with ``per_sample`` it changes speed and memory only; with ``batch`` it is part of the method.
    """

    alpha: float = 10.0
    lam: float = 1.0
    exponent: float = 1.0
    bound: float = 1.0
    gradients: Literal["per_sample", "batch"] = "per_sample"
    batch_size: int = 32

    name: ClassVar[str] = "ssd"
    paper: ClassVar[str] = "SSD (Foster et al. 2024, arXiv 2308.07707)"
    needs: ClassVar[Needs] = Needs(all_weights=True)

    def __post_init__(self) -> None:
        checks = {
            "alpha must be >= 0": self.alpha >= 0,
            "lam must be >= 0": self.lam >= 0,
            "exponent must be > 0": self.exponent > 0,
            "bound must be in (0, 1]": 0 < self.bound <= 1,
            "batch_size must be >= 1": self.batch_size >= 1,
        }
        if problems := unmet(checks):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The dampened model."""
        check_job(self, job)
        model = job.copy_of_original()
        forget, everything = self._importances(job, model)
        named = {name: p for name, p in model.named_parameters() if name in forget}
        with torch.no_grad():
            changed = dampened(
                named,
                forget,
                everything,
                alpha=self.alpha,
                lam=self.lam,
                exponent=self.exponent,
                bound=self.bound,
            )
            selected = sum(int((forget[name] > self.alpha * everything[name]).sum()) for name in named)
            for name, parameter in named.items():
                parameter.copy_(changed[name])
        job.trainer.log.event(
            "dampened", method=self.name, selected=selected, of=sum(p.numel() for p in named.values())
        )
        return model

    def _importances(self, job: UnlearningJob, model: nn.Module) -> tuple[Tensors, Tensors]:
        def importance(indices: tuple[int, ...]) -> Tensors:
            return squared_gradients(
                model,
                job.task,
                job.fit_loader(),
                indices,
                batch_size=self.batch_size,
                device=job.trainer.device,
                gradients=self.gradients,
            )

        part = job.partition
        forget = importance(part.forget)
        if self.gradients == "batch":  # a mean over batches is not made of the parts' means
            return forget, importance((*part.forget, *part.retain))
        share = len(part.forget) / (len(part.forget) + len(part.retain))
        retain = importance(part.retain)
        return forget, {name: share * forget[name] + (1 - share) * retain[name] for name in forget}
