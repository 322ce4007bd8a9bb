"""Forgetting layers taken out again: their factors go into the weights beside them, and the model is the same function.

A factor a unit is a scaling of the rows of the affine layer that makes the unit, bias and all::

    phi * (W h + b) = (phi * W) h + phi * b          (* along the units)

or of the columns of the one that takes it in, W (phi * h) = (W * phi) h. Which of the two is possible depends on what
stands between: through a ReLU a factor may pass either way, through a normalisation not, and where a unit goes to two
places its consumer's columns are not enough. Nothing of this is guessed from the kinds of modules. Each place near a
layer is tried, with factors drawn at random, and kept only where the model's whole output on real records stays what it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.models.weights import is_conv1d
from forgetmi.parts.edits.forgetting_layers import ForgettingLayer
from forgetmi.training.modes import scoring

Ask = Callable[[nn.Module, Batch], ModelOutput]

SAME = 1e-2
"""Largest difference, as a share of what the layer changes, of a fold that is right; a wrong one is of order 1."""
VISIBLE = 1e-4
"""Least change, as a share of the largest output, that a layer must make to be tried at all."""


@dataclass(frozen=True)
class Fold:
    """Where a layer's factors go.

    Attributes:
        layer: the module behind which the forgetting layer stands.
        into: the module whose weights take the factors in.
        side: ``rows`` scales what that module makes (with its bias), ``columns`` what it takes.
    """

    layer: str
    into: str
    side: Literal["rows", "columns"]


def scale_rows(module: nn.Module, phi: Tensor) -> None:
    """Multiply what an affine module makes by ``phi`` [n], one factor a unit: weight and bias, in place."""
    weight, dim = cast(Tensor, module.weight), _rows_of(module)
    if dim is None:
        raise MethodError(f"a {type(module).__name__} has no row a unit that could be scaled")
    with torch.no_grad():
        shape = [1] * weight.ndim
        shape[dim] = -1
        weight.copy_(weight * phi.to(weight).view(shape))
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            bias.copy_(bias * phi.to(bias))


def scale_columns(module: nn.Module, phi: Tensor) -> None:
    """Make an affine module read ``phi * h`` where it is given h, in place.

    A linear layer that reads n channels of k positions each, flattened, has k columns a unit.
    """
    weight, dim = cast(Tensor, module.weight), _columns_of(module)
    if dim is None:
        raise MethodError(f"a {type(module).__name__} has no column a unit that could be scaled")
    with torch.no_grad():
        shape = [1] * weight.ndim
        shape[dim] = -1
        each = phi.to(weight).repeat_interleave(weight.shape[dim] // len(phi))
        weight.copy_(weight * each.view(shape))


def run_order(model: nn.Module, batches: Sequence[Batch], ask: Ask) -> list[str]:
    """Names of the modules that these records reach, in the order in which they are done first; in eval mode."""
    order: dict[str, None] = {}
    names = {module: name for name, module in model.named_modules() if name}
    handles = [
        module.register_forward_hook(lambda module, args, output: order.setdefault(names[module])) for module in names
    ]
    try:
        with scoring(model):
            for batch in batches:
                ask(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def hidden_layers(model: nn.Module, order: Sequence[str], n_outputs: int) -> list[str]:
    """The linear and convolutional layers among these that may take factors in, less those as wide as the output.

    Where a norm of as many units comes next, it stands for the layer: it would take the factors' effect away again.
    """
    leaves = [name for name in order if not list(model.get_submodule(name).children())]
    leaves = [name for name in leaves if not isinstance(model.get_submodule(name), nn.Identity | _DropoutNd)]
    found = []
    for name, following in zip(leaves, [*leaves[1:], None], strict=True):
        module = model.get_submodule(name)
        if not (isinstance(module, nn.Linear | _ConvNd) or is_conv1d(module)):
            continue
        wide = _width(module, _rows_of(module))
        if following is not None and _is_norm(norm := model.get_submodule(following)):
            name = following if _width(norm, _rows_of(norm)) == wide else name
        if wide is not None and wide != n_outputs and _obstacle(model, name) is None:
            found.append(name)
    return list(dict.fromkeys(found))


def find_folds(
    model: nn.Module,
    layers: Mapping[str, ForgettingLayer],
    order: Sequence[str],
    batches: Sequence[Batch],
    ask: Ask,
    generator: torch.Generator,
) -> tuple[list[Fold], dict[str, str]]:
    """For each layer a place for its factors, or the reason why there is none. All is left as it was.

    Args:
        model: with the layers in it; no time may have gone by.
        layers: name to layer, from :func:`~forgetmi.parts.edits.forgetting_layers.insert_forgetting`.
        order: from :func:`run_order`.
        batches: records to try on; together they must have every modality.
        ask: ``task.output``.
        generator: of the factors tried.

    Returns:
        The folds, in the layers' order, and name to reason for those that have none.
    """
    folds: list[Fold] = []
    refused: dict[str, str] = {}
    with scoring(model):
        plain = _answers(model, batches, ask)
        for name, layer in layers.items():
            if name not in order or layer.units is None:
                refused[name] = f"none of the {sum(map(len, batches))} records tried reaches it"
                continue
            phi = 0.2 + 0.6 * torch.rand(layer.units, dtype=torch.float64, generator=generator)
            layer.decay = -torch.log(phi)
            try:
                faded = _answers(model, batches, ask)
            finally:
                layer.decay = None
            change = _distance(plain, faded)
            if change <= VISIBLE * _largest(plain):
                refused[name] = "fading it changes nothing in the model's output on the records tried"
                continue
            reasons = []
            for fold in _places(model, name, order, layer.units):
                obstacle = _obstacle(model, fold.into)
                if obstacle is None:
                    with _tried(model, fold, phi):
                        off = _distance(faded, _answers(model, batches, ask))
                    if off <= SAME * change:
                        folds.append(fold)
                        break
                    obstacle = f"the output would be another ({off / change:.0%} of the layer's effect)"
                reasons.append(f"the {fold.side} of {fold.into}: {obstacle}")
            else:
                refused[name] = "; ".join(reasons) or "there is no linear, convolutional or norm layer beside it"
    return folds, refused


def fold_factors(
    model: nn.Module,
    folds: Sequence[Fold],
    layers: Mapping[str, ForgettingLayer],
    batches: Sequence[Batch],
    ask: Ask,
) -> None:
    """Put each layer's factors into the weights, in place; the layers are the identity afterwards.

    Raises:
        MethodError: the model says something else of these records than it did with the layers in it: training moved
            something (a norm's statistics) that a factor was to pass through. The model is not to be used then.
    """
    with scoring(model):
        faded = _answers(model, batches, ask)
        for fold in folds:
            layer = layers[fold.layer]
            if layer.decay is not None:
                (scale_rows if fold.side == "rows" else scale_columns)(model.get_submodule(fold.into), layer.phi())
                layer.decay = None
        off = _distance(faded, _answers(model, batches, ask)) / _largest(faded)
    if off > SAME:
        raise MethodError(
            f"folding the forgetting layers away changed the model's output by {off:.1%}",
            fix="put the layers behind linear or convolutional layers themselves",
        )


def _places(model: nn.Module, name: str, order: Sequence[str], n: int) -> Iterator[Fold]:
    """Where a layer's factors could go, the likeliest first: into the module itself or its last affine part, into what
    ran before it, into what ran after it.
    """
    inside = [f"{name}.{part}" if part else name for part, _ in model.get_submodule(name).named_modules()]
    last = order.index(name)
    before = [other for other in order[:last] if other not in inside]
    makers = [*reversed(inside), *reversed(before)]
    takers = order[last + 1 :]
    rows = [other for other in makers if _width(model.get_submodule(other), _rows_of(model.get_submodule(other))) == n]
    yield from (Fold(name, other, "rows") for other in rows[:3])
    columns = []
    for other in takers:
        width = _width(module := model.get_submodule(other), _columns_of(module))
        if width is not None and width % n == 0:
            columns.append(other)
    yield from (Fold(name, other, "columns") for other in columns[:3])


def _rows_of(module: nn.Module) -> int | None:
    """Which dimension of a module's weight holds its units; ``None`` where it is no affine layer."""
    if isinstance(module, nn.Embedding) or is_conv1d(module):
        return 1
    if isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)):
        return 0
    return 0 if _is_norm(module) else None


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a norm with a weight and a bias for each unit."""
    norm = isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm)
    return norm and isinstance(module.weight, Tensor) and module.weight.ndim == 1


def _columns_of(module: nn.Module) -> int | None:
    """Which dimension of a module's weight holds what it takes in."""
    if is_conv1d(module):
        return 0
    plain = isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and module.groups == 1
    return 1 if plain or isinstance(module, nn.Linear) else None


def _width(module: nn.Module, dim: int | None) -> int | None:
    return None if dim is None else cast(Tensor, module.weight).shape[dim]


def _obstacle(model: nn.Module, name: str) -> str | None:
    """Why a module's weights may not be scaled."""
    mine = {id(p) for p in model.get_submodule(name).parameters(recurse=False)}
    if not all(p.requires_grad for p in model.get_submodule(name).parameters(recurse=False)):
        return "its weights are frozen"
    for other, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in mine and other.rpartition(".")[0] != name:
            return f"it shares its weights with {other.rpartition('.')[0]}"
    return None


@contextmanager
def _tried(model: nn.Module, fold: Fold, phi: Tensor) -> Iterator[None]:
    module = model.get_submodule(fold.into)
    kept = [(p, p.detach().clone()) for p in module.parameters(recurse=False)]
    try:
        (scale_rows if fold.side == "rows" else scale_columns)(module, phi)
        yield
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


def _answers(model: nn.Module, batches: Sequence[Batch], ask: Ask) -> list[Tensor]:
    """Everything that the model says of these records."""
    said: list[Any] = []
    for batch in batches:
        output = ask(model, batch)
        said += [output.logits, output.joint, *output.unimodal.values(), *output.unimodal_logits.values()]
    return [part.float() for part in said if part is not None]


def _distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True) if a.numel())


def _largest(answers: Sequence[Tensor]) -> float:
    return max(float(part.abs().max()) for part in answers if part.numel())
