"""Give the forget records to a class of their own, and take that class away."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.edits.layers import layers
from forgetmi.parts.selection.relabelled import RelabelledPlan
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import torch_generator


@dataclass(frozen=True)
class BoundaryExpand:
    """Boundary expand (Chen et al., CVPR 2023, arXiv 2303.11570): a class C+1 for D_f, dropped afterwards.

    The last layer gets one more output, with random weights; the model is trained to give D_f that label; then the
    output is taken away, so that the model has the original's form and is measured like any other.

    Our reading: BatchNorm statistics are frozen; the model must end in one linear layer.

    Attributes:
        fit: epochs, learning rate and the rest.
    """

    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str] = "boundary_expand"
    paper: ClassVar[str] = "Boundary unlearning (Chen et al. 2023, arXiv 2303.11570)"
    needs: ClassVar[Needs] = Needs(retain=False, tasks=("classification",))

    def __post_init__(self) -> None:
        if problems := without_validation(self.fit):
            raise ConfigError(problems)

    def check(self, job: UnlearningJob) -> None:
        """Each record must have one class, and the model a last layer to which a class can be added."""
        _head(job, job.copy_of_original(), _classes(job).n_classes)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model, with as many outputs as the original."""
        check_job(self, job)
        task, model = _classes(job), job.copy_of_original()
        path, head = _head(job, model, task.n_classes)
        bound = head.in_features**-0.5
        draw = torch_generator(job.seed, self.name, "head")
        row = (torch.rand(1, head.in_features + 1, generator=draw) * 2 - 1) * bound
        extra = row.to(head.weight)
        model.set_submodule(
            path,
            _linear(
                torch.cat([head.weight, extra[:, :-1]]),
                None if head.bias is None else torch.cat([head.bias, extra[:, -1]]),
            ),
        )
        wider: Any = replace(task, n_classes=task.n_classes + 1)
        forget = job.partition.forget
        labels = torch.full((len(forget),), task.n_classes)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            return Loss(wider.loss(model, batches["forget"]), {})

        job.trainer.fit(
            model,
            RelabelledPlan(job.visits("forget", self.fit.batch_size), wider, forget, lambda epoch: labels),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
        )
        wide = cast(nn.Linear, model.get_submodule(path))
        narrow = _linear(wide.weight[:-1], None if wide.bias is None else wide.bias[:-1])
        model.set_submodule(path, narrow.train(head.training))
        return model


def _classes(job: UnlearningJob) -> ClassificationTask:
    if not isinstance(job.task, ClassificationTask) or job.task.kind == "multilabel":
        raise MethodError("boundary_expand adds a class, and independent labels exclude no other")
    return job.task


def _head(job: UnlearningJob, model: nn.Module, n_classes: int) -> tuple[str, nn.Linear]:
    """The linear layer whose output is the model's logits, and where it stands."""
    loader, device = job.fit_loader(), job.trainer.device
    last = layers(model, job.task, loader, job.partition.forget, device=device)[0]
    path = last.weights[0].rpartition(".")[0]
    head = model.get_submodule(path) if path else model
    given: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: given.append(output))
    try:
        with torch.no_grad():
            logits = job.task.output(model, loader.batch(job.partition.forget[:2]).to(device)).logits
    finally:
        handle.remove()
    if (
        not isinstance(head, nn.Linear)
        or not path
        or head.out_features != n_classes
        or len(given) != 1
        or given[0] is not logits
    ):
        raise MethodError(
            f"boundary_expand adds an output to the last layer, and {path or 'the model'!r} is not one linear layer "
            f"that gives the {n_classes} logits",
            fix="build the model with heads: fused or both and train it with loss_kind: fused, or use boundary_shrink",
        )
    return path, head


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made
