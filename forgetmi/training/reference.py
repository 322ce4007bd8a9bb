"""The frozen original as a source of targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.base import Task
from forgetmi.training.modes import scoring
from forgetmi.training.runlog import RunLog


class Reference:
    """Outputs of the frozen original: eval mode, no gradients, weights and buffers untouched.

    Records whose input is deterministic go through the model once: :meth:`cached` keeps their outputs by position in
    the dataset. Inputs that change (noise, augmentation) go through :meth:`output` each time.

    Args:
        model: the original. It is used as it is where it already stands on ``device``; else a copy is moved there.
        task: how the model is asked.
        device: where batches are.
        log: is told which way was taken.
    """

    def __init__(self, model: nn.Module, task: Task, device: torch.device, log: RunLog | None = None) -> None:
        here = all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))
        self.model = model if here else copy.deepcopy(model).to(device)
        self.task = task
        self._rows: dict[str, Tensor] = {}
        self._slot: dict[int, int] = {}
        self._nll: dict[int, float] = {}
        if log is not None:
            log.event("reference", kind="the original itself" if here else "a frozen copy on the device")

    def output(self, batch: Batch) -> ModelOutput:
        """The original's output for a batch, computed now."""
        with scoring(self.model):
            output = self.task.output(self.model, batch)
        # Tensors made in inference mode cannot enter autograd, not even as constants of a product.
        return _map(output, lambda tensor: tensor.clone())

    def cached(self, batch: Batch) -> ModelOutput:
        """The same for clean batches, each record computed once. Embeddings and logits only, kept on the CPU.

        Sequence logits (a language model's [B, T, V]) depend on the batch's padding and are not kept: they are
        computed each time.
        """
        keys: Sequence[int] = batch.indices.tolist()
        if not all(key in self._slot for key in keys):
            output = self.output(batch)
            if output.logits.ndim > 2:
                return output
            self._store(keys, _flatten(output))
            return output
        slots = torch.tensor([self._slot[key] for key in keys])
        device = next(iter(batch.present.values())).device if batch.present else batch.indices.device
        return _unflatten({name: rows[slots].to(device) for name, rows in self._rows.items()})

    def nll(self, batch: Batch) -> Tensor:
        """[B]: the original's negative log-likelihood of clean records, each computed once; for every task."""
        keys = batch.indices.tolist()
        if not all(key in self._nll for key in keys):
            with scoring(self.model):
                values = self.task.nll(self.model, batch).tolist()
            self._nll.update(zip(keys, values, strict=True))
        device = next(iter(batch.present.values())).device if batch.present else batch.indices.device
        return torch.tensor([self._nll[key] for key in keys], device=device)

    @property
    def n_cached(self) -> int:
        """How many records' outputs are kept."""
        return len(self._slot)

    def _store(self, keys: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        start = len(self._slot)
        fresh = [k for k, key in enumerate(keys) if key not in self._slot]
        for name, tensor in tensors.items():
            rows = tensor[fresh].cpu()
            kept = self._rows.get(name)
            if kept is None or len(kept) < start + len(fresh):
                # Room is doubled, so that filling the cache costs one copy of each row on average.
                grown = torch.empty((max(2 * (start + len(fresh)), 256), *rows.shape[1:]), dtype=rows.dtype)
                if kept is not None:
                    grown[:start] = kept[:start]
                self._rows[name] = grown
            self._rows[name][start : start + len(fresh)] = rows
        self._slot.update({keys[k]: start + n for n, k in enumerate(fresh)})


def _map(output: ModelOutput, function: object) -> ModelOutput:
    return _unflatten({name: function(tensor) for name, tensor in _flatten(output).items()})  # type: ignore[operator]


def _flatten(output: ModelOutput) -> dict[str, Tensor]:
    tensors = {"logits": output.logits}
    if output.joint is not None:
        tensors["joint"] = output.joint
    for group in ("unimodal", "unimodal_logits", "present"):
        tensors.update({f"{group}/{name}": tensor for name, tensor in getattr(output, group).items()})
    return tensors


def _unflatten(tensors: Mapping[str, Tensor]) -> ModelOutput:
    groups: dict[str, dict[str, Tensor]] = {"unimodal": {}, "unimodal_logits": {}, "present": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        if name:
            groups[group][name] = tensor
    return replace(ModelOutput(tensors["logits"], joint=tensors.get("joint")), **groups)
