"""Disobey the original on the forget records, obey it on the others; and rewind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch, Loader
from forgetmi.errors import ConfigError, MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.selection.relabelled import labels_of
from forgetmi.parts.selection.sequences import InTurnPlan
from forgetmi.training.losses import Loss, Objective
from forgetmi.training.modes import scoring
from forgetmi.training.options import FitOptions
from forgetmi.training.reference import Reference
from forgetmi.training.remembered import RememberedTogether

PUBLISHED_FIT = FitOptions(epochs=5, lr=5e-4, weight_decay=5e-4, mode="frozen_batchnorm")


@dataclass(frozen=True)
class Scrub:
    """SCRUB (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880).

    With KL_T = T^2 mean KL( p_0(x / T) || p_theta(x / T) ) and p_0 the frozen original, each epoch is

        one pass over D_f minimising  -KL_T               (the first ``max_epochs`` epochs only),
        one pass over D_r minimising  gamma L + alpha KL_T.

    At theta_0 the divergence and its gradient are zero: the very first step of a forget pass does nothing, except
    through dropout and weight decay. ``first: retain`` (our addition) begins each epoch with the retain pass instead.
    With ``max_epochs=0``, ``alpha=0`` and ``gamma=1`` it is fine-tuning, exactly.

    Our reading: BatchNorm statistics are frozen; one learning-rate schedule for both passes.

    Attributes:
        alpha: weight of the divergence on D_r, >= 0. Published: .5, .001 or .1.
        gamma: weight of the training loss on D_r, >= 0. Published: 1 or .99.
        temperature: T > 0. Published: 2 or 4.
        max_epochs: epochs that have a forget pass, >= 0. Published: 2 or 3 ("msteps").
        first: which pass an epoch begins with. Published: forget.
        fit: epochs, learning rate and the rest. Published: 3 to 10 epochs, 5e-4.
    """

    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 4.0
    max_epochs: int = 3
    first: Literal["forget", "retain"] = "forget"
    fit: FitOptions = field(default_factory=lambda: PUBLISHED_FIT)

    name: ClassVar[str] = "scrub"
    paper: ClassVar[str] = "SCRUB (Kurmanji et al. 2023, arXiv 2302.09880)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        checks = {
            "alpha must be >= 0": self.alpha >= 0,
            "gamma must be >= 0": self.gamma >= 0,
            "alpha and gamma cannot both be 0": self.alpha > 0 or self.gamma > 0,
            "temperature must be > 0": self.temperature > 0,
            "max_epochs must be >= 0": self.max_epochs >= 0,
        }
        problems = unmet(checks)
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model of the last epoch."""
        check_job(self, job)
        return self._fit(job, None)

    def _fit(self, job: UnlearningJob, snapshots: _Snapshots | None) -> nn.Module:
        model, teacher = job.copy_of_original(), job.reference.fresh()
        parts = ("forget", "retain") if self.first == "forget" else ("retain", "forget")
        plan = InTurnPlan(
            {part: job.visits(part, self.fit.batch_size) for part in parts}, epochs={"forget": self.max_epochs}
        )
        kept = {"teacher": teacher} | ({} if snapshots is None else {"snapshots": snapshots})
        job.trainer.fit(
            model,
            plan,
            self._objective(job, teacher),
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
            memory=RememberedTogether(**kept),
            validate=None if snapshots is None else snapshots.take,
        )
        return model

    def _objective(self, job: UnlearningJob, teacher: Reference) -> Objective:
        def divergence(output: Any, batch: Batch) -> Tensor:
            kl = job.task.divergence(output, teacher.cached(batch), batch, self.temperature)
            return self.temperature**2 * kl.mean()

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            ((stream, batch),) = batches.items()
            output = job.task.output(model, batch)
            if stream == "forget":
                kl = divergence(output, batch)
                return Loss(-kl, {"forget_kl": kl})
            parts = {"retain": job.task.loss_of(output, batch)}
            total = self.gamma * parts["retain"]
            if self.alpha:
                parts["retain_kl"] = divergence(output, batch)
                total = total + self.alpha * parts["retain_kl"]
            return Loss(total, parts)

        return objective


@dataclass(frozen=True)
class ScrubR(Scrub):
    """SCRUB+R: SCRUB, and then the epoch whose error on D_f is closest to what it ought to be.

    That is the *last* epoch's error on validation records of the same classes as D_f, which no model was trained on:
    an error on D_f beyond it would give the forgotten away. Every epoch's weights are kept until the end (and in
    checkpoints).

    Our reading: the original itself is no candidate; of two epochs that are as close, the later one is taken; where
    records have no single class (several labels, texts), all validation records count.
    """

    name: ClassVar[str] = "scrub_r"
    paper: ClassVar[str] = "SCRUB+R (Kurmanji et al. 2023, arXiv 2302.09880)"

    def check(self, job: UnlearningJob) -> None:
        """There must be validation records like the forget records."""
        _of_the_same_classes(job)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model of the chosen epoch."""
        check_job(self, job)
        like_forget = _of_the_same_classes(job)
        snapshots = _Snapshots(job, self.fit.batch_size)
        model = self._fit(job, snapshots)
        if snapshots.states:
            wanted = snapshots.error(model, like_forget)
            chosen = closest(snapshots.errors, wanted)
            model.load_state_dict(snapshots.states[chosen])
            job.trainer.log.event("rewound", fit=self.name, epoch=chosen, errors=snapshots.errors, wanted=wanted)
        return model


def closest(errors: Sequence[float], wanted: float) -> int:
    """The epoch whose error is closest to the one that is wanted; the last of several."""
    return min(range(len(errors)), key=lambda epoch: (abs(errors[epoch] - wanted), -epoch))


class _Snapshots:
    """Each epoch's weights and its error on D_f."""

    def __init__(self, job: UnlearningJob, batch_size: int) -> None:
        self.job, self.batch_size = job, batch_size
        self.loader: Loader = job.fit_loader()
        self.states: list[dict[str, Tensor]] = []
        self.errors: list[float] = []

    def take(self, model: nn.Module, epoch: int) -> float:
        """Keep an epoch; its error on D_f."""
        self.states.append({key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()})
        self.errors.append(self.error(model, self.job.partition.forget))
        return self.errors[-1]

    def error(self, model: nn.Module, indices: Sequence[int]) -> float:
        """The mean error over these records."""
        task, total = self.job.task, 0.0
        with scoring(model):
            for batch in self.loader.batches(indices, self.batch_size):
                moved = batch.to(self.job.trainer.device)
                total += float(task.errors_of(task.output(model, moved), moved).sum())
        return total / len(indices)

    def state_dict(self) -> dict[str, Any]:
        return {"states": list(self.states), "errors": list(self.errors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.states, self.errors = list(state["states"]), list(state["errors"])


def _of_the_same_classes(job: UnlearningJob) -> list[int]:
    forget, validation = job.partition.forget, list(job.partition.validation)
    labels = job.loader.labels(validation) if validation else None
    if labels is not None and labels.ndim == 1:
        same = torch.isin(labels, labels_of(job.loader, forget))
        validation = [index for index, is_same in zip(validation, same.tolist(), strict=True) if is_same]
    if not validation:
        raise MethodError(
            "scrub_r needs validation records of the classes of the forget records, and there are none",
            fix="give data.split a validation share, or use scrub",
        )
    return validation
