"""Noise where the retain set does not care."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.parts.edits.importance import squared_gradients
from forgetmi.parts.edits.layers import layers
from forgetmi.parts.edits.noise import noise_variance
from forgetmi.training.seeds import torch_generator


@dataclass(frozen=True)
class FisherForgetting:
    """Fisher forgetting (Golatkar et al., CVPR 2020, arXiv 1911.04933): theta <- theta + sigma * N(0, 1).

        sigma^2 = alpha / F,   F = E_{D_r} sum_y p(y|x) (d nll(y|x) / d theta)^2,

    F the diagonal of the Fisher matrix on D_r, with the model's own targets; 1/F is capped at ``cap`` (``cap_last`` in
    the last layer) and averaged over dimension 1 (:func:`~forgetmi.parts.edits.noise.noise_variance`); the variance of
    the last layer and of parameters of one dimension at most is multiplied by 10, as published. D_f is not used.

    Our reading: the last layer is the last that the loss reaches; what the paper adds for whole classes (the class's
    row of the last layer made anew) is left out, since requests here name patients. Where targets are too many to list
    (texts), ``targets: true`` takes the true ones.

    Attributes:
        alpha: scale of the variance, >= 0; 0 changes nothing. Published: 1e-6, 1e-7.
        targets: ``model`` (the Fisher matrix) or ``true`` (the mean squared gradient of the training loss).
        cap, cap_last: largest 1/F, > 0.
        max_sd: largest standard deviation of the noise, or ``None``. A later implementation: 1e-3.
        batch_size: of the pass over D_r; changes speed and memory only.
    """

    alpha: float = 1e-6
    targets: Literal["model", "true"] = "model"
    cap: float = 1e3
    cap_last: float = 1e2
    max_sd: float | None = None
    batch_size: int = 32

    name: ClassVar[str] = "fisher_forgetting"
    paper: ClassVar[str] = "Fisher forgetting (Golatkar et al. 2020, arXiv 1911.04933)"
    needs: ClassVar[Needs] = Needs(forget=False, all_weights=True)

    def __post_init__(self) -> None:
        checks = {
            "alpha must be >= 0": self.alpha >= 0,
            "cap and cap_last must be > 0": self.cap > 0 and self.cap_last > 0,
            "max_sd must be > 0": self.max_sd is None or self.max_sd > 0,
            "batch_size must be >= 1": self.batch_size >= 1,
        }
        if problems := unmet(checks):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model with noise."""
        check_job(self, job)
        model = job.copy_of_original()
        retain, device = job.partition.retain, job.trainer.device
        fisher = squared_gradients(
            model, job.task, job.loader, retain, batch_size=self.batch_size, device=device, targets=self.targets
        )
        last = layers(model, job.task, job.loader, retain, device=device)[0].weights
        draw = torch_generator(job.seed, self.name)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name not in fisher:
                    continue
                variance = noise_variance(
                    fisher[name], alpha=self.alpha, cap=self.cap_last if name in last else self.cap
                )
                if name in last or parameter.ndim <= 1:
                    variance = 10.0 * variance
                sd = variance.sqrt() if self.max_sd is None else variance.sqrt().clamp(max=self.max_sd)
                parameter.add_(sd * torch.randn(parameter.shape, generator=draw).to(parameter))
        return model
