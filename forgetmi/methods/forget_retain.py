"""What most methods for language models have in common: a forget term, a retain term, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import UnlearningJob, without_validation
from forgetmi.parts.objectives.ascent import forget_retain_loss
from forgetmi.parts.selection.paired import PairedPlan
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import Plan
from forgetmi.training.reference import Reference

Term = Callable[[nn.Module, dict[str, Batch]], Tensor]
"""A scalar of the model and a step's batches."""


@dataclass(frozen=True)
class ForgetRetain:
    """Options of a method that minimises  gamma L_forget(D_f) + alpha L_retain(D_r).

    A step sees a batch of D_f and, where there is a retain term, as many records of D_r, drawn afresh each epoch; an
    epoch visits D_f once. All such methods see the same batches.

    Attributes:
        retain: ``nll``: the task's own training loss (a language model's mean over answer tokens). ``kl``: the mean
            over records of KL( p_0 || p_theta ), of a language model the mean over the record's answer tokens (TOFU,
            Maini et al. 2024, arXiv 2401.06121; published code takes prompt and padding in). ``none``: D_r is not used.
        gamma, alpha: weights, >= 0, not both 0. A term that weighs nothing is not computed.
        fit: epochs, learning rate and the rest. BatchNorm statistics are frozen (our reading); ``mode: eval`` turns
            dropout off too, so that the original is at distance 0 from itself.
    """

    retain: Literal["none", "nll", "kl"] = "nll"
    gamma: float = 1.0
    alpha: float = 1.0
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        checks = {
            "gamma must be >= 0": self.gamma >= 0,
            "alpha must be >= 0": self.alpha >= 0,
            "gamma and the retain term's alpha cannot both be 0": self.gamma > 0 or self.retains,
        }
        return unmet(checks) + without_validation(self.fit)

    @property
    def retains(self) -> bool:
        """Whether there is a retain term."""
        return self.retain != "none" and self.alpha > 0


def forget_plan(job: UnlearningJob, method: ForgetRetain) -> Plan:
    """D_f in batches ``"forget"`` and, where there is a retain term, as many records of D_r beside them."""
    if not method.retains:
        return job.visits("forget", method.fit.batch_size)
    return paired_plan(job, method.fit)


def paired_plan(job: UnlearningJob, fit: FitOptions) -> PairedPlan:
    """Batches ``"forget"`` and ``"retain"`` of the same size, one order for all methods."""
    return PairedPlan(
        job.fit_loader(),
        job.partition.forget,
        job.partition.retain,
        batch_size=fit.batch_size,
        seed=job.order_seed("pairs"),
    )


def minimise(
    method: ForgetRetain,
    job: UnlearningJob,
    forget: Term,
    teacher: Reference | None = None,
    plan: Plan | None = None,
    asked: Collection[str] | None = None,
) -> nn.Module:
    """Minimise the sum of :class:`ForgetRetain` from theta_0.

    Args:
        method: its options.
        job: what to unlearn.
        forget: L_forget.
        teacher: the frozen original, if L_forget asks it.
        plan: which batches a step has; :func:`forget_plan` by default.
        asked: which of them L_forget asks the model about; by default all but those of D_r.

    Returns:
        The unlearned model.
    """
    if teacher is None and method.retains and method.retain == "kl":
        teacher = job.reference.fresh()

    def retained(model: nn.Module, batch: Batch) -> Tensor:
        if method.retain == "nll" or teacher is None:
            return job.task.loss(model, batch)
        return job.task.divergence(job.task.output(model, batch), teacher.cached(batch), batch).mean()

    def in_turn(model: nn.Module, batches: dict[str, Batch]) -> Loss:
        if not method.gamma:
            return kept(model, batches)
        found = forget(model, batches)
        rest = (lambda: kept(model, batches)) if method.retains else None
        return Loss(
            forget_retain_loss(found, found.new_zeros(()), gamma=method.gamma, alpha=0.0), {"forget": found}, rest
        )

    def kept(model: nn.Module, batches: dict[str, Batch]) -> Loss:
        found = retained(model, batches["retain"])
        return Loss(forget_retain_loss(found.new_zeros(()), found, gamma=0.0, alpha=method.alpha), {"retain": found})

    def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
        if isinstance(job.task, CausalLMTask) and method.gamma:
            seen = [batch for stream, batch in batches.items() if asked is None or stream in {*asked, "retain"}]
            if (joint := job.task.together(model, seen)) is not None:
                with joint:
                    return in_turn(model, batches).whole()
        return in_turn(model, batches)

    model = job.copy_of_original()
    job.trainer.fit(
        model,
        forget_plan(job, method) if plan is None else plan,
        objective,
        method.fit,
        seed=job.seed,
        name=method.name,
        identity=job.identity(method),  # type: ignore[arg-type]  # it is a method: it has a name, a paper, its needs
        memory=teacher,
    )
    return model
