"""Representation misdirection: what is to be forgotten is steered away inside of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, joint_of, without_validation
from forgetmi.methods.forget_retain import paired_plan
from forgetmi.models.ragged import spread
from forgetmi.parts.edits.blocks import activations, blocks, only_training
from forgetmi.parts.objectives.ascent import forget_retain_loss
from forgetmi.parts.objectives.rmu import activation_loss, control_vector
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.losses import Loss
from forgetmi.training.modes import scoring
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import torch_generator


@dataclass(frozen=True)
class RMU:
    """RMU (Li et al., ICML 2024, arXiv 2403.03218): min || h(x_f) - c u ||^2 + alpha || h(x_r) - h_0(x_r) ||^2.

    h is what one layer says of each answer token, h_0 the original's, u one random unit vector, drawn once from the
    seed (:mod:`forgetmi.parts.objectives.rmu`). Layers above the chosen one are neither run nor changed.

    Our reading: where ``layer`` is not given, it is the one at 7/32 of the depth, as published for Zephyr 7B. A
    classifier's h is its joint embedding, which all its encoders and its fusion are trained to steer.

    Attributes:
        c: length of the target, > 0. Published: 6.5 (Zephyr 7B); 2 in a later implementation.
        alpha: weight of the retain term, >= 0. Published: 1200; 1 in a later implementation.
        layer: number of the transformer block, from 0. Published: 7.
        weights: patterns of the names of the weights that are trained (``*.[5-7].mlp.down_proj.weight``, as published);
            ``None`` trains every weight up to the layer, as a later implementation does.
        fit: epochs, learning rate and the rest. Published: 150 steps of 4, 5e-5.
    """

    c: float = 6.5
    alpha: float = 100.0
    layer: int | None = None
    weights: Sequence[str] | None = None
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, batch_size=4, lr=5e-5, mode="eval"))

    name: ClassVar[str] = "rmu"
    paper: ClassVar[str] = "RMU (Li et al. 2024, arXiv 2403.03218)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        checks = {
            "c must be > 0": self.c > 0,
            "alpha must be >= 0": self.alpha >= 0,
            "layer must be >= 0": self.layer is None or self.layer >= 0,
            "weights must name one pattern at least": self.weights is None or len(self.weights) > 0,
        }
        if problems := unmet(checks) + without_validation(self.fit):
            raise ConfigError(problems)

    def check(self, job: UnlearningJob) -> None:
        """The layer must be there, and some weight that may move."""
        if isinstance(job.task, CausalLMTask):
            self._block(job.model)
        elif self.layer is not None:
            raise MethodError(
                f"layer numbers the blocks of a language model, and the task is {job.task.name!r}", fix="leave it out"
            )
        if self.weights is not None and not self._named(job.copy_of_original()):
            raise MethodError(
                f"no weight that may move has a name like {', '.join(self.weights)}",
                fix="take the names from the model: [name for name, _ in model.named_parameters()]",
            )

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The steered model."""
        check_job(self, job)
        model, original = job.copy_of_original(), job.reference.model
        target = self._target(job, original)
        plan = paired_plan(job, self.fit)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            forget = _loss(self._states(job, model, batches["forget"]), target)
            if not self.alpha:
                return Loss(forget, {"forget": forget})
            with scoring(original):
                held = self._states(job, original, batches["retain"])[0].clone()
            retain = _loss(self._states(job, model, batches["retain"]), held)
            total = forget_retain_loss(forget, retain, alpha=self.alpha)
            return Loss(total, {"forget": forget, "retain": retain})

        with only_training(model, self._named(model)):
            job.trainer.fit(
                model, plan, objective, self.fit, seed=job.seed, name=self.name, identity=job.identity(self)
            )
        return model

    def _named(self, model: nn.Module) -> set[str]:
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        return {n for n in names if self.weights is None or any(fnmatchcase(n, pattern) for pattern in self.weights)}

    def _block(self, model: nn.Module) -> nn.Module:
        found = blocks(model)
        number = round(len(found) * 7 / 32) if self.layer is None else self.layer
        if number >= len(found):
            raise MethodError(f"layer {number}: the model has {len(found)}", expected=f"0 to {len(found) - 1}")
        return found[number][1]

    def _states(self, job: UnlearningJob, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What h is [B, T, D], and the mask [B, T] of positions that count."""
        if not isinstance(job.task, CausalLMTask):
            joint = joint_of(job.task.output(model, batch))[:, None]
            return joint, torch.ones(joint.shape[:2], dtype=torch.bool, device=joint.device)
        states, mask = activations(model, self._block(model), job.task, batch), job.task.answer_mask(batch)
        there = job.task.text_mask(batch)
        if states.shape[:2] == (1, int(there.sum())):  # the model packs its texts
            states = spread(states[0], there)
        if states.shape[:2] != mask.shape:
            raise MethodError(
                f"a layer speaks of {list(states.shape[:2])} positions, the batch has {list(mask.shape)}",
                expected="a block that speaks of each token",
                fix="choose another layer",
            )
        return states, mask

    def _target(self, job: UnlearningJob, model: nn.Module) -> Tensor:
        """The vector c u, of the width that h has."""
        batch = job.fit_loader().batch(job.partition.forget[:1]).to(job.trainer.device)
        with scoring(model):
            states = self._states(job, model, batch)[0]
        drawn = control_vector(states.shape[-1], self.c, torch_generator(job.seed, self.name, "direction"))
        return drawn.to(states)


def _loss(states: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return activation_loss(states[0], target, states[1])
