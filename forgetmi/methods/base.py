"""What every unlearning method is given and returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from forgetmi.batch import Loader
from forgetmi.errors import MethodError
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.lora import LoraOptions
from forgetmi.models.output import ModelOutput
from forgetmi.partition import Partition
from forgetmi.tasks.base import Task
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.reference import Reference
from forgetmi.training.seeds import derive_seed
from forgetmi.training.trainer import Trainer


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without.

    Attributes:
        retain: retain records.
        forget: forget records (a method that only trains on the retain set must not touch them).
        embeddings: unimodal embeddings from the task's output.
        fresh_model: a function that builds an untrained model of the same kind, and the original's recipe (retraining).
        all_weights: it changes any of the original's weights itself, not only those that a fit trains.
        tasks: names of the tasks that it can serve; empty means all.
    """

    retain: bool = True
    forget: bool = True
    embeddings: bool = False
    fresh_model: bool = False
    all_weights: bool = False
    tasks: tuple[str, ...] = ()


class FreshModel(Protocol):
    """Builds an untrained model of the original's kind from a seed."""

    def __call__(self, seed: int) -> nn.Module:
        """The model, with weights drawn from the seed."""
        ...


@dataclass(frozen=True)
class UnlearningJob:
    """Everything that a method may use.

    Attributes:
        model: the original. It is never mutated; :meth:`copy_of_original` gives the model to work on.
        partition: forget, retain, validation, test.
        task: how the model is scored.
        loader: makes batches of records by position; see :meth:`fit_loader`.
        trainer: the loop.
        seed: every draw depends on it.
        reference: the frozen original as a source of targets.
        fresh_model: for retraining.
        recipe: the options that the original was trained with.
        lora: unlearn in a low-rank adapter on the original, a language model, whose weights stay as they are.
        start: on the trainer's device; what a method starts from in the original's stead (with noise in its weights,
            say), while the reference stays the original.
    """

    model: nn.Module
    partition: Partition
    task: Task
    loader: Loader
    trainer: Trainer
    seed: int
    reference: Reference
    fresh_model: FreshModel | None = None
    recipe: FitOptions | None = None
    lora: LoraOptions | None = None
    start: nn.Module | None = None

    def copy_of_original(self) -> nn.Module:
        """A trainable copy on the trainer's device: what a method works on and returns.

        Of a language model with an adapter, or that is given one (``lora``), only the adapter is a copy: all frozen
        weights share the reference's memory, which is what the model says with its adapter off.
        """
        frozen = self.reference.model if self.start is None else self.start
        if isinstance(frozen, CausalLM) and self.lora is not None:
            self.trainer.log.event("copy", kind="a new adapter; all other weights are the original's own")
            return frozen.adapted(self.lora, derive_seed(self.seed, "lora"))
        if isinstance(frozen, CausalLM) and frozen.has_adapter:
            self.trainer.log.event("copy", kind="the adapter; all other weights are the original's own")
            return frozen.sharing_copy()
        model = copy.deepcopy(self.model if self.start is None else self.start).to(self.trainer.device)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            model.requires_grad_(True)
        return model

    def fit_loader(self) -> Loader:
        """The loader with forget records as the request sees them (some modalities only, at level ``modality``)."""
        if self.partition.modalities is None:
            return self.loader
        return self.loader.restricted_to(self.partition.forget_records())

    def order_seed(self, part: str) -> int:
        """The seed of the order in which a part's records are visited: one for all methods, so that methods that are
        limits of one another see the same batches.
        """
        return derive_seed(self.seed, "order", part)

    def visits(self, part: str, batch_size: int) -> ShuffledPlan:
        """Each epoch every record of ``"forget"`` or ``"retain"`` once, shuffled; the stream has the part's name."""
        return ShuffledPlan(
            self.fit_loader(),
            self.partition.indices(part),
            batch_size=batch_size,
            seed=self.order_seed(part),
            stream=part,
        )

    def identity(self, method: UnlearningMethod) -> str:
        """What makes a fit of this method on this job the one that it is: see ``Trainer.fit``."""
        return repr((method, self.task, self.partition.level, self.partition.modalities))


class UnlearningMethod(Protocol):
    """A named unlearning algorithm: a frozen dataclass of options with this interface."""

    name: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[Needs]

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model: a new module on the trainer's device, in the mode of the original."""
        ...


@runtime_checkable
class ChecksItsJob(Protocol):
    """A method that asks more of a job than its :class:`Needs` say; :func:`check_job` calls it."""

    def check(self, job: UnlearningJob) -> None:
        """Raise :class:`MethodError` for a job that the method cannot do.

        It must be cheap, and true of any weights: before the original is trained, an untrained model stands in for it.
        """
        ...


@runtime_checkable
class PerturbsInputs(Protocol):
    """A method that makes noisy versions of records.

    Attributes:
        input_noise: kind of modality to noise options, a kind that is not named having its default; ``None`` where
            the method's other options make no noise.
    """

    @property
    def input_noise(self) -> Mapping[str, Mapping[str, Any]] | None:
        """See the class."""
        ...


def without_validation(fit: FitOptions) -> list[str]:
    """The problem of a fit that would choose or stop by a validation that its method does not measure, if it is one."""
    if fit.validates:
        return ["fit.select and fit.patience: this method measures no validation; leave them out"]
    return []


def joint_of(output: ModelOutput) -> Tensor:
    """The model's own joint embedding [B, D].

    Raises:
        MethodError: it has none.
    """
    if output.joint is None:
        raise MethodError("the model gave no joint embedding")
    return output.joint


def check_job(method: UnlearningMethod, job: UnlearningJob) -> None:
    """Refuse, with the reason, a job that a method cannot do. The weights of the job's model play no part.

    Raises:
        MethodError: the task is not served, or something that the method needs is missing.
    """
    needs = method.needs
    if needs.tasks and job.task.name not in needs.tasks:
        raise MethodError(
            f"{method.name} cannot serve the task {job.task.name!r}", expected=f"one of {', '.join(needs.tasks)}"
        )
    if needs.embeddings and not job.task.embeddings:
        raise MethodError(
            f"{method.name} works on the embeddings of each modality, and the task {job.task.name!r} has none",
            fix="choose a method that needs losses only: forgetmi ls methods",
        )
    if needs.fresh_model and (job.fresh_model is None or job.recipe is None):
        raise MethodError(
            f"{method.name} trains from scratch and was not told how the original was built and trained",
            fix="give the job fresh_model and recipe",
        )
    _check_weights(method, job)
    job.partition.check()
    if isinstance(method, ChecksItsJob):
        method.check(job)


def _check_weights(method: UnlearningMethod, job: UnlearningJob) -> None:
    """Refuse weights that the method cannot change."""
    if job.lora is not None and not isinstance(job.model, CausalLM):
        raise MethodError(
            "an adapter (unlearning.lora) was asked for, and the model is no language model of kind causal_lm",
            fix="leave unlearning.lora out",
        )
    if job.lora is not None and job.model.has_adapter:
        raise MethodError(
            "an adapter (unlearning.lora) was asked for, and the original has one already",
            fix="leave unlearning.lora out: the original's own adapter is trained; or merge it first",
        )
    adapter = job.lora is not None or (isinstance(job.model, CausalLM) and job.model.has_adapter)
    afresh = method.needs.fresh_model and not method.needs.forget
    if (method.needs.all_weights and adapter) or (afresh and job.lora is not None):
        what = "trains weights from the start" if afresh else "changes the weights themselves"
        raise MethodError(
            f"{method.name} {what}, and beside an adapter they are frozen (task {job.task.name!r})",
            fix="merge the original's adapter and leave unlearning.lora out, or choose a method that trains",
        )
    quantised = [name for name, parameter in job.model.named_parameters() if not parameter.is_floating_point()]
    if quantised and (method.needs.all_weights or not adapter):
        raise MethodError(
            f"{len(quantised)} of the model's weights are quantised, and {method.name} would have to change them",
            expected="weights in float32 or bfloat16, or an adapter over quantised ones",
            fix="load the model unquantised, or set unlearning.lora",
        )
