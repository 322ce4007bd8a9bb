"""Many fusion heads trained at once: their weights are stacked, and one vectorised pass serves all of them.

For classifiers whose encoders are frozen and the same in every model (pretrained ones): what an encoder says of a
record is computed once, and K heads (projections, fusion, classifier) are trained on it side by side. Small heads are
bound by the number of kernels, not by arithmetic, so this is several times as fast as one after the other.

Each model has its own records, order, schedule, gradient norm, best epoch and early stop. The weights are those of
:func:`forgetmi.training.recipe.train_by_recipe` up to rounding, except under dropout: each model has masks of its own,
drawn from another stream than there, and they depend on which models are trained together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, TrainingError
from forgetmi.models.classifier import MultimodalClassifier
from forgetmi.models.fusion import masked
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.base import Task
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.features import FeatureLoader
from forgetmi.training.modes import set_fit_mode
from forgetmi.training.options import FitOptions, lr_factor, make_optimizer
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.progress import Progress
from forgetmi.training.seeds import derive_seed, scoped_seed, set_scoped_seed
from forgetmi.training.trainer import FitResult


def can_stack(model: nn.Module, recipe: FitOptions, task: Task) -> str | None:
    """Why models like this one cannot be trained as an ensemble; ``None`` where they can.

    Args:
        model: an untrained one.
        recipe: how they are to be trained.
        task: by whose loss.
    """
    if not isinstance(model, MultimodalClassifier):
        return f"the ensemble stacks the heads of a classifier over frozen encoders, and this is a {_kind(model)}"
    if any(parameter.requires_grad for parameter in model.encoders.parameters()):
        return "its encoders are trained, and only what follows frozen ones is stacked (model.freeze_encoders: true)"
    if not isinstance(task, ClassificationTask) or task.loss_kind != "fused":
        return (
            "its loss is not a mean over records of the fused head's cross-entropy (task.loss_kind: fused): models of "
            "an ensemble have batches of unequal size, and only such a mean is known to be right for them"
        )
    if any(isinstance(module, nn.MultiheadAttention) for name, module in model.named_modules() if not _within(name)):
        return "its fusion is attention, which torch vectorises over models by a loop: nothing would be gained"
    if recipe.mode == "train" and any(isinstance(m, _BatchNorm) for n, m in model.named_modules() if not _within(n)):
        return "its head has BatchNorm, whose running statistics are changed in place (training.mode: frozen_batchnorm)"
    return None


def _kind(model: nn.Module) -> str:
    return str(getattr(model, "kind", type(model).__name__))


def _within(name: str) -> bool:
    return name == "encoders" or name.startswith("encoders.")


@dataclass(frozen=True)
class HeadJob:
    """What one of the stacked heads is trained on.

    Attributes:
        train: positions of its records.
        order_seed: of their order, as in ``train_by_recipe``.
    """

    train: Sequence[int]
    order_seed: int


class _Head(nn.Module):
    """What is stacked. One module-level class: vectorising asks that all models be of the same."""

    def __init__(self, head: MultimodalClassifier) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C]. Rows are masked, not left out: which are there differs from model to model."""
        unimodal = {
            name: masked(projection(features[name]), present[name])
            for name, projection in self.head.projections.items()
        }
        return self.head.fuse(unimodal, present).logits


class _Stack:
    """K heads as one matrix [K, P] of trained weights, and what is not trained as it is.

    Each row is cut into segments that are parameters of their own, so that a model that takes no step keeps its moments
    and its step count, and so does the projection of a modality that no record of a model's batch has: there the
    ordinary loop has no gradient either, and neither decay nor momentum moves what has none.
    """

    def __init__(
        self,
        heads: Sequence[MultimodalClassifier],
        recipe: FitOptions,
        device: torch.device,
        missing: Sequence[str],
    ) -> None:
        """``missing``: modalities that some records lack."""
        modules = [_Head(head).to(device) for head in heads]
        self.heads = heads
        self.base = copy.deepcopy(modules[0])
        named = [dict(module.named_parameters()) for module in modules]

        def segment(name: str) -> tuple[str, bool]:
            """The modality on which a weight's step hangs (none: ""), and whether it decays."""
            of = [m for m in missing if name.startswith(f"head.projections.{m}.")]
            return of[0] if of else "", named[0][name].ndim > 1

        # A fused head's loss does not reach the heads of single modalities: nothing moves them, decay neither.
        idle = "head.unimodal_heads." if heads[0].fusion is not None else "-"
        trained = [name for name, p in named[0].items() if p.requires_grad and not name.startswith(idle)]
        self.names = sorted(trained, key=segment)
        if not self.names:
            raise ConfigError(["no parameter of the heads requires a gradient: there is nothing to train"])
        self.shapes = [named[0][name].shape for name in self.names]
        self.sizes = [named[0][name].numel() for name in self.names]
        self.flat = torch.stack([torch.cat([p[n].detach().flatten() for n in self.names]) for p in named])
        fixed = [
            {**{n: p for n, p in of.items() if n not in self.names}, **dict(module.named_buffers())}
            for of, module in zip(named, modules, strict=True)
        ]
        self.fixed = {name: torch.stack([one[name].detach() for one in fixed]) for name in fixed[0]}
        widths: dict[tuple[str, bool], int] = {}
        for name, size in zip(self.names, self.sizes, strict=True):
            widths[segment(name)] = widths.get(segment(name), 0) + size
        self.hangs_on = [modality for modality, _ in widths]
        self.widths = list(widths.values())
        self.rows = [[nn.Parameter(piece) for piece in row.split(self.widths)] for row in self.flat]
        self.optimizer = make_optimizer(
            [
                {"params": [piece], "weight_decay": recipe.weight_decay if decays else 0.0, "model": k}
                for k, row in enumerate(self.rows)
                for piece, (_, decays) in zip(row, widths, strict=True)
            ],
            recipe,
        )

    def weights(self, row: Tensor) -> dict[str, Tensor]:
        """One model's weights by name, from its row [P]."""
        pieces = zip(self.names, row.split(self.sizes), self.shapes, strict=True)
        return {name: piece.view(shape) for name, piece, shape in pieces}

    def step(self, gradient: Tensor, taken: Mapping[str, Sequence[bool]], lr: Sequence[float]) -> None:
        """One step with gradients [K, P] that are clipped already.

        Args:
            gradient: of all models.
            taken: modality (``""``: any) to whether each model's batch has it.
            lr: of each model.
        """
        for k, (row, of) in enumerate(zip(self.rows, gradient, strict=True)):
            for modality, piece, found in zip(self.hangs_on, row, of.split(self.widths), strict=True):
                piece.grad = found if taken[modality][k] else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr[group["model"]]
        self.optimizer.step()

    @torch.no_grad()
    def write(self, flat: Tensor) -> None:
        """Put rows [K, P] into the heads."""
        for head, row in zip(self.heads, flat, strict=True):
            named = dict(head.named_parameters())
            for name, weight in self.weights(row).items():
                named[name.removeprefix("head.")].copy_(weight)


def fit_heads(
    heads: Sequence[MultimodalClassifier],
    jobs: Sequence[HeadJob],
    *,
    task: ClassificationTask,
    loader: FeatureLoader,
    validation: Sequence[int],
    recipe: FitOptions,
    seed: int,
    name: str = "ensemble",
    progress: bool = False,
) -> list[FitResult]:
    """Fit K heads at once by the task's loss; they are changed in place and stay in their mode.

    Args:
        heads: from :func:`forgetmi.training.features.head_of`, alike but for their weights.
        jobs: what each is trained on.
        task: with ``loss_kind="fused"``.
        loader: knows the features of all records concerned; its device is where the fit runs.
        validation: positions that an epoch is chosen by, where the recipe chooses one.
        recipe: as in ``train_by_recipe``. ``accumulate`` changes nothing: the heads' batches fit into memory.
        seed: of dropout.
        name: for messages.
        progress: show a bar or lines.

    Raises:
        TrainingError: a loss or gradient is not finite, or a loss has diverged: the message names the models, and no
            head is changed. Or the recipe looks at validation records and there are none.
        ConfigError: nothing in the heads is trainable.
    """
    if recipe.validates and not validation:
        raise TrainingError(
            "the recipe chooses an epoch by validation records, and there are none",
            fix="give data.split a validation share, or set training.select: last and no patience",
        )
    every = sorted({index for job in jobs for index in job.train} | set(validation))
    task.check_labels(loader.batch(every))  # inside torch.func nothing can be looked at
    return _EnsembleFit(heads, jobs, task, loader, validation, recipe, seed, name, progress).run()


class _EnsembleFit:
    """One call of :func:`fit_heads`."""

    def __init__(
        self,
        heads: Sequence[MultimodalClassifier],
        jobs: Sequence[HeadJob],
        task: ClassificationTask,
        loader: FeatureLoader,
        validation: Sequence[int],
        recipe: FitOptions,
        seed: int,
        name: str,
        progress: bool,
    ) -> None:
        self.task, self.loader, self.recipe, self.seed, self.name = task, loader, recipe, seed, name
        self.device, self.progress = loader.device, progress
        self.missing = [name for name, mask in loader.masks.items() if not bool(mask.all())]
        self.stack = _Stack(heads, recipe, self.device, self.missing)
        self.plans = [
            ShuffledPlan(loader, job.train, batch_size=recipe.batch_size, seed=job.order_seed) for job in jobs
        ]
        self.validation = torch.as_tensor(list(validation), dtype=torch.long, device=self.device)
        self.results = [FitResult() for _ in heads]
        self.totals = [max(recipe.epochs * math.ceil(len(job.train) / recipe.batch_size), 1) for job in jobs]
        self.best_value = [math.inf] * len(heads)
        self.best = self.stack.flat.clone() if recipe.select == "best" else None
        self._grad = vmap(grad_and_value(self._loss), in_dims=(0, 0, 0, 0, 0, 0), randomness="different")
        self._score = vmap(self._nll, in_dims=(0, 0, None, None, None), randomness="different")

    def _nll(
        self, row: Tensor, fixed: dict[str, Tensor], features: Any, present: dict[str, Tensor], labels: Tensor
    ) -> Tensor:
        """[B] of one model."""
        logits = functional_call(self.stack.base, {**self.stack.weights(row), **fixed}, (features, present))
        return self.task.nll_of(ModelOutput(logits), Batch({}, {}, labels, torch.empty(0)))

    def _loss(
        self, row: Tensor, fixed: dict[str, Tensor], features: Any, present: dict[str, Tensor], labels: Tensor,
        weight: Tensor,
    ) -> Tensor:  # fmt: skip
        """Mean over the records of one model's batch; rows of weight 0 only fill it up."""
        return (self._nll(row, fixed, features, present, labels) * weight).sum() / weight.sum().clamp(min=1.0)

    def run(self) -> list[FitResult]:
        """Fit, and put the chosen weights into the heads."""
        bar = Progress(sum(self.totals), self.name, enabled=self.progress)
        running = [True] * len(self.plans)
        try:
            with scoped_seed(self.seed, self.device), torch.no_grad():
                for epoch in range(self.recipe.epochs):
                    running = [on and not self._stop_early(k, epoch) for k, on in enumerate(running)]
                    if not any(running):
                        break
                    self._epoch(epoch, running, bar)
        finally:
            bar.close()
        for result in self.results:
            if self.best is None:
                result.best_epoch = result.epochs - 1
        self.stack.write(self.stack.flat if self.best is None else self.best)
        return self.results

    def _stop_early(self, k: int, epoch: int) -> bool:
        patience = self.recipe.patience
        return patience is not None and epoch - self.results[k].best_epoch > patience

    def _epoch(self, epoch: int, running: Sequence[bool], bar: Progress) -> None:
        indices, weights = _table(self.plans, epoch, running)
        sizes = torch.as_tensor(weights.sum(axis=2), device=self.device)  # [K, steps]
        taken = {"": np.asarray(weights.any(axis=2))}
        for modality in self.missing:
            taken[modality] = np.asarray((self.loader.has(modality, indices) & (weights > 0)).any(axis=2))
        index_table = torch.as_tensor(indices, device=self.device)
        weight_table = torch.as_tensor(weights, device=self.device)
        set_fit_mode(self.stack.base, self.recipe.mode)
        limit = math.inf if self.recipe.clip_norm is None else self.recipe.clip_norm
        sums = torch.zeros(len(self.plans), device=self.device)
        bad = torch.zeros(len(self.plans), dtype=torch.bool, device=self.device)
        for number in range(indices.shape[1]):
            set_scoped_seed(derive_seed(self.seed, epoch, number), self.device)
            features, present, labels = self.loader.take(index_table[:, number])
            weight = weight_table[:, number]
            gradient, loss = self._grad(self.stack.flat, self.stack.fixed, features, present, labels, weight)
            norm = torch.linalg.vector_norm(gradient, dim=1)
            # Looked at once an epoch: a GPU need not wait for each step, and no head has been written yet.
            bad |= ~((loss.abs() <= self.recipe.max_loss) & norm.isfinite())
            gradient *= (limit / (norm + 1e-6)).clamp(max=1.0)[:, None]  # a norm of its own for each model
            active = {modality: found[:, number].tolist() for modality, found in taken.items()}
            lr = [
                self.recipe.lr * lr_factor(self.recipe, result.steps, total)
                for result, total in zip(self.results, self.totals, strict=True)
            ]
            self.stack.step(gradient, active, lr)
            for result, on in zip(self.results, active[""], strict=True):
                result.steps += on
            sums += loss * sizes[:, number]
            bar.advance({}, sum(active[""]))
        if wrong := bad.nonzero()[:, 0].tolist():
            raise TrainingError(
                f"{self.name}: in epoch {epoch} the loss or the gradient of models {wrong[:16]} is not finite, or the "
                "loss has diverged",
                expected=f"a finite loss below max_loss = {self.recipe.max_loss:g}",
                fix="lower lr or set clip_norm",
            )
        means = (sums / sizes.sum(dim=1).clamp(min=1.0)).tolist()
        measured = self._validate() if self.recipe.validates else None
        for k, result in enumerate(self.results):
            if running[k]:
                result.epochs = epoch + 1
                result.history.append({"loss": means[k], **({} if measured is None else {"validation": measured[k]})})
                if measured is not None:
                    self._choose(k, epoch, measured[k])

    def _choose(self, k: int, epoch: int, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.name}: validation of model {k} gave {value} after epoch {epoch}",
                expected="a finite number",
                fix="lower lr or set clip_norm",
            )
        if value < self.best_value[k] or self.results[k].best_epoch < 0:
            self.best_value[k], self.results[k].best_epoch = value, epoch
            if self.best is not None:
                self.best[k] = self.stack.flat[k]

    def _validate(self) -> list[float]:
        """The mean loss of each model over the validation records."""
        self.stack.base.eval()
        parts = []
        for part in self.validation.split(max(self.recipe.batch_size, 256)):
            features, present, labels = self.loader.take(part)
            parts.append(self._score(self.stack.flat, self.stack.fixed, features, present, labels))
        means: list[float] = torch.cat(parts, dim=1).mean(dim=1).tolist()
        return means


def _table(plans: Sequence[ShuffledPlan], epoch: int, running: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """An epoch's steps of all models: positions [K, steps, B], and 1 for each that counts.

    Models have batches and numbers of steps of their own; what fills them up weighs nothing.
    """
    steps = [plan.steps(epoch) if on else [] for plan, on in zip(plans, running, strict=True)]
    longest = max(len(found) for found in steps)
    widest = max(len(step[plan.stream]) for plan, found in zip(plans, steps, strict=True) for step in found)
    indices = np.zeros((len(plans), longest, widest), dtype=np.int64)
    weights = np.zeros((len(plans), longest, widest), dtype=np.float32)
    for k, (plan, found) in enumerate(zip(plans, steps, strict=True)):
        indices[k] = plan.indices[0]
        for number, step in enumerate(found):
            chosen = step[plan.stream]
            indices[k, number, : len(chosen)] = chosen
            weights[k, number, : len(chosen)] = 1.0
    return indices, weights
