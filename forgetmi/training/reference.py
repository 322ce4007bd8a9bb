"""The frozen original as a source of targets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ModelError
from forgetmi.models.output import ModelOutput, SequenceOutput
from forgetmi.models.weights import weights_sha256
from forgetmi.tasks.base import Task
from forgetmi.tasks.divergence import wide
from forgetmi.training.modes import preserved_mode, same_device, scoring
from forgetmi.training.runlog import RunLog

Key = tuple[int, tuple[bool, ...], str | None]
"""A record's position, which modalities it has, and how it was changed."""


class Reference:
    """Outputs of the frozen original: eval mode, no gradients, weights and buffers untouched.

    Records whose input is deterministic go through the model once: :meth:`cached` keeps their outputs by position in
    the dataset, :meth:`nll` and :meth:`token_nll` their likelihoods, on the host. Inputs that change (noise,
    augmentation) go through :meth:`output` each time.

    Args:
        model: the original. It is used as it is where it already stands on ``device``; else a copy is moved there. A
            model with an adapter that is trained (LoRA) shares its frozen weights with the original, or *is* the
            original with the adapter off (:meth:`~forgetmi.models.causal_lm.CausalLM.without_adapter`): nothing is
            held twice.
        task: how the model is asked.
        device: where batches are.
        log: is told which way was taken.
    """

    def __init__(self, model: nn.Module, task: Task, device: torch.device, log: RunLog | None = None) -> None:
        here = all(same_device(device, tensor.device) for tensor in (*model.parameters(), *model.buffers()))
        self.model = model if here else copy.deepcopy(model).to(device)
        self.task, self.device = task, device
        self._rows: dict[str, Tensor] = {}
        self._slot: dict[Key, int] = {}
        self._nll: dict[Key, float] = {}
        self._tokens: dict[Key, Tensor] = {}
        self._digest: str | None = None
        if log is not None:
            log.event("reference", kind="the original itself" if here else "a frozen copy on the device")

    def output(self, batch: Batch) -> ModelOutput:
        """The original's output for a batch, computed now."""
        with scoring(self.model):
            output = self.task.output(self.model, batch)
        if isinstance(output, SequenceOutput):
            return SequenceOutput(output.hidden.clone(), self._frozen(output.read))
        # Tensors made in inference mode cannot enter autograd, not even as constants of a product.
        return _map(output, lambda tensor: tensor.clone())

    def cached(self, batch: Batch) -> ModelOutput:
        """The same for clean batches, each record computed once. Embeddings and logits only, kept on the CPU.

        A record is known by its position and by which modalities it has here: a request for one modality leaves a
        record with less than the dataset holds. One that is changed otherwise (sections of a text) needs a reference
        of its own, see :meth:`fresh`. Sequence logits (a language model's [B, T, V]) depend on the batch's
        padding and are not kept: they are computed each time.
        """
        keys = _keys(batch)
        if missing := _first_places(keys, self._slot):
            output = self.output(batch if len(missing) == len(keys) else batch.rows(missing))
            if output.is_sequence:
                return output if len(missing) == len(keys) else self.output(batch)
            self._store([keys[k] for k in missing], _flatten(output))
            if len(missing) == len(keys):
                return output
        slots = torch.tensor([self._slot[key] for key in keys])
        return _unflatten({name: rows[slots].to(batch.device) for name, rows in self._rows.items()})

    def nll(self, batch: Batch) -> Tensor:
        """[B]: the original's negative log-likelihood of clean records, each computed once; for every task."""
        keys = _keys(batch)
        if missing := _first_places(keys, self._nll):
            part = batch.rows(missing)
            with scoring(self.model):
                values = self.task.nll(self.model, part).tolist()
            self._nll.update(zip((keys[k] for k in missing), values, strict=True))
        dtype = wide(next(self.model.parameters())[:0]).dtype  # a model in float64 is compared in float64
        return torch.tensor([self._nll[key] for key in keys], dtype=dtype, device=batch.device)

    def token_nll(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """([B, T-1] values, [B, T-1] mask): the original's -log p of each answer token, each record computed once.

        Only what was asked for is kept: 4 bytes an answer token, in the host's memory, whatever the vocabulary.
        A classifier's label is a token.
        """
        keys = _keys(batch)
        if missing := _first_places(keys, self._tokens):
            part = batch.rows(missing)
            with scoring(self.model):
                values, there = self.task.token_nll(self.model, part)
            rows = values[there].cpu().clone().split(there.sum(dim=1).tolist())
            self._tokens.update(zip((keys[k] for k in missing), rows, strict=True))
        mask = self.task.token_mask(batch)
        found = torch.cat([self._tokens[key] for key in keys]).to(batch.device)
        return found.new_zeros(mask.shape).masked_scatter(mask, found), mask

    def keep_tokens(self, batches: Iterable[Batch]) -> None:
        """Compute :meth:`token_nll` of these records beforehand, say before the original's memory is given up."""
        for batch in batches:
            self.token_nll(batch.to(self.device))

    def _frozen(self, read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The original's head, without gradients: its rows are asked for later, inside somebody's graph."""

        def reader(hidden: Tensor) -> Tensor:
            with preserved_mode(self.model), torch.no_grad():
                self.model.eval()
                return read(hidden)

        return reader

    def fresh(self) -> Reference:
        """The same frozen original with nothing kept yet.

        A row's last bits depend on the batch that it was computed in, so a fit that is to give the same weights each
        time starts with its own.
        """
        return Reference(self.model, self.task, self.device)

    def state_dict(self) -> dict[str, Any]:
        """What is kept: a resumed fit must see the same bits as an unbroken one."""
        return {
            "rows": {name: rows[: len(self._slot)].clone() for name, rows in self._rows.items()},
            "keys": list(self._slot),
            "nll": list(self._nll.items()),
            "tokens": dict(self._tokens),
            "model": self._model_digest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what :meth:`state_dict` gave, and nothing else.

        Raises:
            ModelError: it is of another model.
        """
        if state["model"] != self._model_digest():
            raise ModelError(
                "the kept outputs are those of another original: its weights differ",
                fix="start again without --resume; an original that changes meanwhile is no reference",
            )
        self._rows = dict(state["rows"])
        self._slot = {key: slot for slot, key in enumerate(state["keys"])}
        self._nll = dict(state["nll"])
        self._tokens = dict(state["tokens"])

    def _model_digest(self) -> str:
        """SHA-256 of the original's weights, computed once: it is frozen."""
        if self._digest is None:
            self._digest = weights_sha256(self.model)
        return self._digest

    @property
    def n_cached(self) -> int:
        """How many records' outputs are kept."""
        return len(self._slot)

    def _store(self, keys: Sequence[Key], tensors: Mapping[str, Tensor]) -> None:
        start, end = len(self._slot), len(self._slot) + len(keys)
        for name, tensor in tensors.items():
            kept = self._rows.get(name)
            if kept is None or len(kept) < end:
                # Room is doubled, so that filling the cache costs one copy of each row on average.
                grown = torch.empty((max(2 * end, 256), *tensor.shape[1:]), dtype=tensor.dtype)
                if kept is not None:
                    grown[:start] = kept[:start]
                self._rows[name] = grown
            self._rows[name][start:end] = tensor.cpu()
        self._slot.update({key: start + n for n, key in enumerate(keys)})


def _keys(batch: Batch) -> list[Key]:
    indices, variants = batch.indices.tolist(), batch.variants or (None,) * len(batch)
    if not batch.present:
        return [(index, (), variant) for index, variant in zip(indices, variants, strict=True)]
    masks = torch.stack(list(batch.present.values()), dim=1).tolist()
    return [(index, tuple(mask), v) for index, mask, v in zip(indices, masks, variants, strict=True)]


def _first_places(keys: Sequence[Key], known: Container[Key]) -> list[int]:
    """Where each key that is not known stands first."""
    return list({key: k for k, key in reversed(list(enumerate(keys))) if key not in known}.values())[::-1]


def _map(output: ModelOutput, function: Callable[[Tensor], Tensor]) -> ModelOutput:
    return _unflatten({name: function(tensor) for name, tensor in _flatten(output).items()})


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
    return ModelOutput(
        tensors["logits"],
        unimodal=groups["unimodal"],
        joint=tensors.get("joint"),
        unimodal_logits=groups["unimodal_logits"],
        present=groups["present"],
    )
