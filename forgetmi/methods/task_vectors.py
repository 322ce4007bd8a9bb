"""Task vectors: the original, less what training on the forget set adds to it; with stopping rules, TA and TAU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.methods.sga import PUBLISHED_FIT, Memorisation, ascend_selectively, target_problems
from forgetmi.parts.edits.importance import trainable
from forgetmi.parts.edits.task_vectors import extrapolated
from forgetmi.parts.selection.memorised import mean_below
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class TaskVectors:
    """Negated task vector (Ilharco et al., ICLR 2023, arXiv 2212.04089): theta_0 - alpha (theta_ft - theta_0).

    theta_ft is the original after training (descending) on D_f. ``alpha: 0`` is the original, ``alpha: -1`` is
    theta_ft; the weights are linear in alpha. The retain set is not used. Statistics of BatchNorm layers stay the
    original's.

    Attributes:
        alpha: how far to go to the other side. Published: chosen by validation, .1 to 1.
        fit: of the training on D_f; BatchNorm statistics are frozen.
    """

    alpha: float = 1.0
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str] = "task_vectors"
    paper: ClassVar[str] = "task arithmetic (Ilharco et al. 2023, arXiv 2212.04089)"
    needs: ClassVar[Needs] = Needs(retain=False, all_weights=True)

    def __post_init__(self) -> None:
        if problems := without_validation(self.fit) + _statistics(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The edited model."""
        check_job(self, job)
        model = job.copy_of_original()
        _go_beyond(job, model, self.fit, -self.alpha, None, name=self.name, identity=job.identity(self))
        return model


@dataclass(frozen=True)
class TA:
    """TA of "To Each Its Own" (Barbulescu & Triantafillou 2024, arXiv 2405.03097): theta_0 + c (theta_t - theta_0).

    theta_t is the original after t epochs of training (descending) on D_f, and training stops after the first epoch at
    whose end the *edited* model's mean g(D_f) is below the target (g: see :class:`~forgetmi.methods.sga.SGA`). ``c: 0``
    is the original, ``c: 1`` theta_t. What comes back is the edited model; the published code puts the unedited weights
    back after each validation.

    Attributes:
        c: scale. Published: -3.
        stop_below: the target, in [0, 1]; ``None`` takes all epochs. Published: .33.
        fit: epochs (at most), learning rate and the rest.
    """

    c: float = -3.0
    stop_below: float | None = 0.33
    fit: FitOptions = field(default_factory=lambda: PUBLISHED_FIT)

    name: ClassVar[str] = "ta"
    paper: ClassVar[str] = "TA, To Each (Textual Sequence) Its Own (Barbulescu & Triantafillou 2024, arXiv 2405.03097)"
    needs: ClassVar[Needs] = Needs(retain=False, all_weights=True)

    def __post_init__(self) -> None:
        problems = target_problems("stop_below", self.stop_below) + without_validation(self.fit)
        if problems := problems + _statistics(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The edited model."""
        check_job(self, job)
        model = job.copy_of_original()
        _go_beyond(job, model, self.fit, self.c, self.stop_below, name=self.name, identity=job.identity(self))
        return model


@dataclass(frozen=True)
class TAU:
    """TAU of "To Each Its Own" (arXiv 2405.03097): SGA until mean g(D_f) < ``switch``, then TA from there.

    Our reading: where the mean is below ``switch`` from the start, as with ``switch: 1`` (unless all is known by
    heart), it is TA; where it never gets there, as with ``switch: 0``, it is SGA.

    Attributes:
        threshold: gamma of SGA. Published: .7.
        switch: in [0, 1]. Published: .5.
        c: scale of TA. Published: -1.
        stop_below: see the two; ``None`` takes all epochs of the second stage.
        fit: of each stage.
    """

    threshold: float = 0.7
    switch: float = 0.5
    c: float = -1.0
    stop_below: float | None = 0.33
    fit: FitOptions = field(default_factory=lambda: PUBLISHED_FIT)

    name: ClassVar[str] = "tau"
    paper: ClassVar[str] = "TAU, To Each (Textual Sequence) Its Own (Barbulescu & Triantafillou 2024, arXiv 2405.03097)"
    needs: ClassVar[Needs] = Needs(retain=False, all_weights=True)

    def __post_init__(self) -> None:
        problems = [] if self.threshold >= 0 else [f"threshold must be >= 0, not {self.threshold}"]
        problems += [] if 0 <= self.switch <= 1 else [f"switch must be in [0, 1], not {self.switch}"]
        problems += target_problems("stop_below", self.stop_below) + without_validation(self.fit)
        if problems := problems + _statistics(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after both stages."""
        check_job(self, job)
        model = job.copy_of_original()
        same = job.identity(self)
        measured = Memorisation(job)
        if not measured.update(model, self.switch, stage="start", epoch=-1):
            stop = max(self.switch, self.stop_below or 0.0)
            ascend_selectively(job, model, self.fit, self.threshold, stop, name=f"{self.name}-ascent", identity=same)
            if not measured.update(model, self.switch, stage="switch", epoch=-1):
                return model
        now = torch.tensor(list(measured.known.values()))
        if self.stop_below is None or not mean_below(now, self.stop_below):
            _go_beyond(job, model, self.fit, self.c, self.stop_below, name=f"{self.name}-vector", identity=same)
        return model


def _statistics(fit: FitOptions) -> list[str]:
    if fit.mode == "train":
        return ["fit.mode: train would move statistics too, which a vector of weights does not hold: frozen_batchnorm"]
    return []


def _go_beyond(
    job: UnlearningJob,
    model: nn.Module,
    fit: FitOptions,
    scale: float,
    stop_below: float | None,
    *,
    name: str,
    identity: str,
) -> None:
    """Train on D_f and set the model to start + scale (end - start), in place."""
    start = {key: value.clone() for key, value in trainable(model).items()}
    measured = Memorisation(job)

    def enough(model: nn.Module, epoch: int) -> bool:
        end = _move(model, start, scale)
        reached = measured.update(model, stop_below, stage=name, epoch=epoch)
        for key, value in end.items():
            model.get_parameter(key).copy_(value)
        return reached

    plan, objective = job.visits("forget", fit.batch_size), task_objective(job.task, "forget")
    until = None if stop_below is None else enough
    job.trainer.fit(model, plan, objective, fit, seed=job.seed, name=name, identity=identity, until=until)
    _move(model, start, scale)


@torch.no_grad()
def _move(model: nn.Module, start: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Set start + scale (now - start), one parameter at a time; what the weights were is returned."""
    end = {}
    for key, first in start.items():
        parameter = model.get_parameter(key)
        end[key] = parameter.detach().clone()
        parameter.copy_(extrapolated({key: first}, {key: end[key]}, scale)[key])
    return end
