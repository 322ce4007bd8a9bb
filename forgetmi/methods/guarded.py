"""Any method, its steps kept from harming the retain set, with noise, or in chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from forgetmi.errors import MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.stages import stage_job
from forgetmi.methods.wrapper import Wrapper
from forgetmi.parts.edits.importance import per_sample_gradients
from forgetmi.parts.updates.projected import Smoothed, noise, on_flat, orthonormal, outside, without
from forgetmi.parts.updates.streamed import gradient_now
from forgetmi.training.seeds import numpy_generator
from forgetmi.training.trainer import Hook, Named, Trainer


@dataclass(frozen=True)
class Guarded(Wrapper):
    """A wrapper: what a gradient becomes, and how much is forgotten at once, for any method. Ours, from known parts.

    Four parts, each off by default; with all off it is the method itself, exactly:

    - ``rectify``: at each step, the gradient r of the training loss on ``retain_batch`` retain records, drawn afresh,
      is taken at the current weights, and the step's gradient loses its component along r: where the two conflict, or
      always (:func:`~forgetmi.parts.updates.projected.without`; PCGrad, Yu et al. 2020, arXiv 2001.06782).
    - ``protect``: the step's gradient is projected off the space that the gradients of so many retain records span at
      theta_0, so that their losses do not change to first order (gradient projection unlearning, Hoang et al. 2024,
      arXiv 2312.04095, with record gradients for its layer-wise spaces: our reading).
    - ``noise``: Gaussian noise of this standard deviation on every step's gradient.
    - ``chunks``: the forget set in so many parts, one after another, each from the model that the last one left.

    They work on every fit of the unlearned model; edits without training are not changed by the first three.

    Attributes:
        inner, options: what is wrapped: a method and its options.
        rectify: ``none``, ``conflict``, ``always``.
        retain_batch: records for r, >= 1; one more forward and backward pass over them a step.
        smoothing: s in [0, 1): r is the mean (1 - s) r + s r_before over the fit's steps. Gradient-rectified unlearning
            (GRU, Wang et al. 2025, arXiv 2503.09117) is ``rectify: conflict`` with s = .2.
        protect: number of retain records, >= 0; takes that many times the model's memory.
        noise: standard deviation, >= 0; gradients are clipped after it.
        chunks: >= 1.
    """

    inner: str = "gradient_ascent"
    rectify: Literal["none", "conflict", "always"] = "none"
    retain_batch: int = 16
    smoothing: float = 0.0
    protect: int = 0
    noise: float = 0.0
    chunks: int = 1

    name: ClassVar[str] = "guarded"
    paper: ClassVar[str] = "a wrapper of known parts (arXiv 2001.06782, 2312.04095, 2503.09117)"
    needs: ClassVar[Needs] = Needs()

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        checks = {
            "retain_batch must be >= 1": self.retain_batch >= 1,
            "smoothing must be in [0, 1)": 0 <= self.smoothing < 1,
            "protect must be >= 0": self.protect >= 0,
            "noise must be >= 0": self.noise >= 0,
            "chunks must be >= 1": self.chunks >= 1,
        }
        return unmet(checks)

    def check(self, job: UnlearningJob) -> None:
        """The wrapped method must be able to do it, and noise must have its true scale."""
        super().check(job)
        if self.noise and job.trainer.precision == "fp16":
            raise MethodError("noise on gradients needs their true scale, and fp16 scales them", fix="precision: bf16")

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The wrapped method's model."""
        check_job(self, job)
        inner = self.wrapped()
        guarded = replace(job, trainer=self._constrained(job))
        if self.chunks == 1:
            return inner.unlearn(guarded)
        order = numpy_generator(job.seed, self.name, "chunks").permutation(job.partition.forget)
        model: nn.Module | None = None
        for stage, part in enumerate(np.array_split(order, min(self.chunks, len(order)))):
            model = inner.unlearn(stage_job(guarded, model, sorted(part.tolist()), stage=stage, name=self.name))
        return job.copy_of_original() if model is None else model

    def _constrained(self, job: UnlearningJob) -> Trainer:
        original = job.copy_of_original().requires_grad_(True).eval()
        names = {name for name, _ in original.named_parameters()}
        hooks: list[Hook] = []
        smoothed = Smoothed(self.smoothing)
        if self.rectify != "none":
            hooks.append(self._rectifier(job, original, smoothed))
        if self.protect:
            hooks.append(self._protector(job))
        if self.noise:
            hooks.append(noise(self.noise))

        def update(named: Named) -> None:
            if all(name in names for name, _ in named):  # a fit of another model (a gate) is left alone
                for hook in hooks:
                    hook(named)

        said = f"{self.name} {self.rectify} {self.retain_batch} {self.smoothing} {self.protect} {self.noise}"
        return job.trainer.constrained(update=update, kept=smoothed, identity=said) if hooks else job.trainer

    def _rectifier(self, job: UnlearningJob, original: nn.Module, smoothed: Smoothed) -> Hook:
        """Takes r by the original's architecture with the weights of the moment."""
        retain = job.partition.retain

        def change(flat: Tensor, named: Named) -> Tensor:
            places = torch.randint(len(retain), (min(self.retain_batch, len(retain)),)).tolist()
            batch = job.loader.batch([retain[place] for place in places]).to(job.trainer.device)
            found = gradient_now(original, named, job.task, batch)
            retained = smoothed.update(torch.cat([gradient.flatten() for gradient in found]))
            return without(flat, retained.to(flat), "always" if self.rectify == "always" else "conflict")

        return on_flat(change)

    def _protector(self, job: UnlearningJob) -> Hook:
        model = job.copy_of_original()
        drawn = numpy_generator(job.seed, self.name, "protect").permutation(job.partition.retain)
        batch = job.loader.batch(drawn[: self.protect].tolist()).to(job.trainer.device)
        gradients, _ = per_sample_gradients(model, job.task, batch)
        spaces: dict[tuple[str, ...], Tensor] = {}

        def change(flat: Tensor, named: Named) -> Tensor:
            key = tuple(name for name, _ in named)
            if key not in spaces:  # the trained parameters may be some of the model's only
                spaces[key] = orthonormal(torch.cat([gradients[name].reshape(len(batch), -1) for name in key], dim=1))
            return outside(flat, spaces[key].to(flat))

        return on_flat(change)
