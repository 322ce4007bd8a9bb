"""Which of a model's weights are rounded, and the copy in which they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from forgetmi.errors import ModelError, did_you_mean
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.lora import lora_layers
from forgetmi.models.weights import is_conv1d

HEADS = ("head", "heads", "unimodal_heads", "lm_head", "classifier", "score", "fc")
"""Names by which a classifier's last layer goes; of a language model, its output embedding is the head."""


@dataclass(frozen=True)
class Selection:
    """The weights that are rounded: matrices of linear layers (GPT-2's ``Conv1D`` too), convolutions, attention and
    recurrent layers. Biases and norms never are.

    Attributes:
        embeddings: tables of tokens and positions too. A table that is also the output embedding (tied) is rounded
            where either of the two is asked for, and stays one table.
        head: the last layer too: the output embedding, or a layer with a part of its name in :data:`HEADS`. As
            published, and as bitsandbytes does, it is left out.
        exclude: patterns of names of further layers that are left out (``encoders.film.*``).
    """

    embeddings: bool = False
    head: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Matrix:
    """One weight that is rounded.

    Attributes:
        name: of the parameter.
        weight: itself.
        transposed: its first axis is the input's (``Conv1D``, transposed convolutions).
    """

    name: str
    weight: nn.Parameter
    transposed: bool

    @property
    def rows(self) -> Tensor:
        """Its values [out, all else], one row an output channel."""
        return self._turned(self.weight.detach()).flatten(1)

    def fill(self, rows: Tensor) -> None:
        """Write values [out, all else] into it, in place."""
        shape = self._turned(self.weight).shape
        with torch.no_grad():
            self.weight.copy_(self._turned(rows.reshape(shape)))

    def _turned(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1) if self.transposed else tensor


def matrices(model: nn.Module, selection: Selection) -> list[Matrix]:
    """The weights that are rounded, each once.

    Raises:
        ModelError: a pattern fits no layer, or nothing is left to round.
    """
    unused, found, seen = set(selection.exclude), [], set()
    heads, names = _output_embeddings(model), []
    for name, module in model.named_modules():
        weights = list(_weights(module, selection))
        if not weights:
            continue
        names.append(name)
        matched = {pattern for pattern in selection.exclude if fnmatchcase(name, pattern)}
        unused -= matched
        is_head = not isinstance(module, nn.Embedding) and (
            module in heads if heads else bool(set(HEADS) & set(name.split(".")))
        )
        if matched or (is_head and not selection.head):
            continue
        for key, weight in weights:
            if id(weight) not in seen:
                seen.add(id(weight))
                found.append(Matrix(f"{name}.{key}".lstrip("."), weight, _is_transposed(module)))
    if unused:
        pattern = sorted(unused)[0]
        raise ModelError(f"exclude: {pattern!r} fits none of the layers. {did_you_mean(pattern, names)}")
    if not found:
        raise ModelError(
            "none of the model's weights is left to be rounded",
            expected="linear layers, convolutions, attention or recurrent layers",
            fix="leave out less of it (embeddings, head, exclude)",
        )
    return found


def merged(model: nn.Module) -> nn.Module:
    """The model itself or, where a language model has an adapter, one with the adapter in its weights.

    Raises:
        ModelError: its weights are kept as integers already, or an adapter cannot be merged.
    """
    if any(not weight.is_floating_point() for weight in model.parameters()):
        raise ModelError(
            "the model's weights are kept as integers already; rounding them again would measure something else",
            fix="give the model with floating-point weights",
        )
    if isinstance(model, CausalLM) and model.has_adapter:
        return model.without_adapter(merge=True)
    if any(lora_layers(module) for module in model.modules()):
        raise ModelError("the model has an adapter", fix="merge it first: what is passed on is the merged model")
    return model


def quantised_copy(model: nn.Module, values: Callable[[Tensor], Tensor], selection: Selection) -> nn.Module:
    """A copy in which the selected weights are replaced by rounded ones; the model itself is left as it is.

    Args:
        model: any module.
        values: [out, in] to what it is rounded to, [out, in].
        selection: which weights.

    Raises:
        ModelError: as :func:`matrices` and :func:`merged`, or a weight is not finite.
    """
    made = copy.deepcopy(merged(model))
    for matrix in matrices(made, selection):
        rows = matrix.rows
        if not bool(rows.isfinite().all()):
            raise ModelError(f"{matrix.name} has weights that are not finite", fix="the model is broken; retrain it")
        if rows.numel():
            matrix.fill(values(rows))
    return made


def _weights(module: nn.Module, selection: Selection) -> Iterator[tuple[str, nn.Parameter]]:
    kinds: tuple[Any, ...] = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)
    if selection.embeddings:
        kinds = (*kinds, nn.Embedding)
    if isinstance(module, kinds) or is_conv1d(module):
        for key, weight in module.named_parameters(recurse=False):
            if weight.ndim > 1 and not key.startswith("bias"):
                yield key, weight


def _output_embeddings(model: nn.Module) -> set[nn.Module]:
    owners: list[Any] = [module for module in model.modules() if hasattr(module, "get_output_embeddings")]
    found = (owner.get_output_embeddings() for owner in owners)
    return {module for module in found if isinstance(module, nn.Module)}


def _is_transposed(module: nn.Module) -> bool:
    return is_conv1d(module) or isinstance(module, _ConvTransposeNd)
