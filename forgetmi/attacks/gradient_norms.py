"""How steep the loss is at each record: what a model was trained on lies near the bottom of its loss.

The score of an attack with white-box access (the norm of a record's gradient; small = member). A pass over B records
gives the norms of all of them, see :mod:`forgetmi.attacks.record_gradients`. Of every batch one record is also done by
itself; where the two disagree, or a layer is not fed record by record, all records are done one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from forgetmi.attacks.record_gradients import norms_of_all, norms_of_one
from forgetmi.batch import Batch
from forgetmi.errors import AuditError, ConfigError, ModelError, unmet
from forgetmi.metrics.roc import Floats
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.lora import copy_sharing
from forgetmi.tasks.base import Task
from forgetmi.tasks.causal_lm import CausalLMTask

MAX_VALUES = 2**27
"""How many values of gradients are held at a time: 512 MiB in float32 (or one record's, of one weight)."""


@dataclass(frozen=True)
class GradientOptions:
    """What the norm of a gradient is.

    Attributes:
        p: of the p-norm: 1, 2, ..., or ``inf``.
        aggregate: ``global``: one norm of all weights. ``mean_of_tensors``: the mean of the norms of the weight
            tensors, as in published code; a bias of ten numbers then weighs as much as an embedding. Published values
            are made with dropout on, so that two runs differ; ours never are.
        weights: ``all``: every weight, frozen or not, with an adapter merged first: models that were trained in
            different ways are then asked the same. ``trained``: those that require a gradient; of a model with an
            adapter, the adapter's alone.
    """

    p: float = 2.0
    aggregate: Literal["global", "mean_of_tensors"] = "global"
    weights: Literal["all", "trained"] = "all"

    def __post_init__(self) -> None:
        checks = {
            f"p must be at least 1, not {self.p}": self.p >= 1,
            f"aggregate must be global or mean_of_tensors, not {self.aggregate!r}": self.aggregate
            in ("global", "mean_of_tensors"),
            f"weights must be all or trained, not {self.weights!r}": self.weights in ("all", "trained"),
        }
        if problems := unmet(checks):
            raise ConfigError(problems)


def gradient_norms(
    model: nn.Module,
    task: Task | CausalLMTask,
    batches: Iterable[Batch],
    device: torch.device,
    options: GradientOptions | None = None,
    *,
    max_values: int = MAX_VALUES,
) -> Floats:
    """The norm of the gradient of each record's loss [N]: of a language model, its mean over the record's tokens.

    Args:
        model: where ``device`` is. It is left in its mode, no gradient is left on it, and no weight is copied but
            those that an adapter is merged into.
        task: scores it.
        batches: N records in all; how they are batched changes speed and memory only.
        device: where the model is.
        options: see :class:`GradientOptions`.
        max_values: of gradients held at a time.

    Raises:
        ModelError: its weights cannot have gradients (4 bits), or none requires one.
        AuditError: a norm is not finite.
    """
    options = options or GradientOptions()
    work, by_itself = _differentiable(model, options.weights), False
    weights = {name: weight for name, weight in work.named_parameters() if weight.requires_grad}
    packs = ""
    if isinstance(task, CausalLMTask):  # the head sees all rows of a batch at once, or it could not be followed
        task = replace(task, max_logits=2**62)
        packs = task.modality if isinstance(model, CausalLM) and model.settings.packing else ""
    found: list[Tensor] = []
    with torch.enable_grad():
        for batch in batches:
            task.check_labels(batch)
            moved, norms = (_unpacked(batch, packs) if packs else batch).to(device), None
            if len(batch) > 1 and not by_itself:
                norms = norms_of_all(work, task, moved, weights, options.p, max_values)
                by_itself = norms is None
            if norms is None:
                norms = torch.stack(
                    [norms_of_one(work, task, moved, i, weights, options.p) for i in range(len(batch))], 1
                )
            found.append(_aggregated(norms, options).cpu())
    values: Floats = torch.cat(found).double().numpy()
    if wrong := int((~np.isfinite(values)).sum()):
        raise AuditError(
            f"the gradients of {wrong} of {values.size} records are not finite",
            fix="score in float32: the model overflows",
        )
    return values


def _unpacked(batch: Batch, modality: str) -> Batch:
    """With its positions written out, which keeps a model from putting several texts into a row."""
    given: Any = batch.inputs[modality]
    positions = (given["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return replace(batch, inputs={**batch.inputs, modality: {"position_ids": positions, **given}})


def _aggregated(norms: Tensor, options: GradientOptions) -> Tensor:
    """[weights, B] norms of tensors to one a record [B]. The p-norm of p-norms of pieces is that of the whole."""
    return (
        norms.mean(dim=0) if options.aggregate == "mean_of_tensors" else torch.linalg.vector_norm(norms, options.p, 0)
    )


def _differentiable(model: nn.Module, which: str) -> nn.Module:
    """The same model over the same numbers, with parameters of its own, in eval mode."""
    if which == "all" and isinstance(model, CausalLM) and model.is_quantised:
        raise ModelError(
            "weights that are kept in 4 bits have no gradient", fix="set weights: trained, for the adapter's gradients"
        )
    if which == "all" and isinstance(model, CausalLM) and model.has_adapter:
        work: nn.Module = model.without_adapter(merge=True)
    else:
        work = copy_sharing(model, everything=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for name, weight in work.named_parameters():
        if weight.is_floating_point():
            weight.requires_grad_(which == "all" or name in trained)
    if not any(weight.requires_grad for weight in work.parameters()):
        raise ModelError("no weight of the model requires a gradient", fix="set weights: all")
    return work.eval()
