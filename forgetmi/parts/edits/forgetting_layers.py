"""Forgetting layers: units that fade along an Ebbinghaus curve, put behind any layer of any model and taken out again.

Forgetting neural networks (Hatua et al., arXiv 2410.22374; the theory: Cano-Cordoba, Sarma and Subirana 2017, CBMM
Memo 071). A layer after a hidden layer with units i multiplies each by a factor of its own::

    y_i = phi_i(t) h_i,    phi_i(t) = exp(-t / tau_i)          h_i: what the unit says; t: time; tau_i > 0

Our reading, where the paper is not specific or could not be read: what decays is the activation (of an affine layer
that is the same as decaying its weights and bias); time goes on by rounds, and where the time constants change between
rounds the exponents add up, as phi(t1) phi(t2) = phi(t1 + t2) has it; the kinds are

==============  ===================================================================================================
``fixed``       tau_i = tau
``random``      tau_i ~ U(tau_min, tau_max), drawn once
``rank``        a_i = mean over D_f of abs(h_i); rank r_i = 0 for the largest of n; tau_i = tau_min + (tau_max -
                tau_min) r_i / (n - 1): what the forget records use most fades first
``contrastive``  ours: the same with a_i(D_f) - a_i(D_r), so that units which the retain records use as much are spared
==============  ===================================================================================================

and, ours too, for the two ranked kinds a ``top_share``: only that share of the units, by rank, fades at all.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from forgetmi.batch import Batch
from forgetmi.errors import MethodError, did_you_mean
from forgetmi.models.weights import is_conv1d
from forgetmi.training.modes import scoring

Ask = Callable[[nn.Module, Batch], Any]
"""Runs a model on a batch: ``task.output``."""


def fixed_taus(n: int, tau: float) -> Tensor:
    """[n]: the same time constant for every unit."""
    return torch.full((n,), tau, dtype=torch.float64)


def random_taus(n: int, tau_min: float, tau_max: float, generator: torch.Generator) -> Tensor:
    """[n]: tau_i ~ U(tau_min, tau_max)."""
    return tau_min + (tau_max - tau_min) * torch.rand(n, dtype=torch.float64, generator=generator)


def ranked_taus(score: Tensor, tau_min: float, tau_max: float, top_share: float = 1.0) -> Tensor:
    """[n]: the unit with the highest score has tau_min, the one with the lowest tau_max, evenly spaced by rank.

    Args:
        score: [n]. Of equal scores the unit that stands first ranks first.
        tau_min, tau_max: 0 < tau_min <= tau_max.
        top_share: share of the units that fade, rounded up; the others have an infinite time constant.
    """
    n = len(score)
    rank = torch.empty(n, dtype=torch.float64, device=score.device)
    rank[torch.argsort(score, descending=True, stable=True)] = torch.arange(n, dtype=torch.float64, device=score.device)
    taus = tau_min + (tau_max - tau_min) * rank / max(n - 1, 1)
    return torch.where(rank < math.ceil(top_share * n), taus, math.inf).cpu()


class ForgettingLayer(nn.Module):
    """``y_i = phi_i h_i`` along one dimension. It has no parameter and nothing in the state dict.

    Args:
        dim: which dimension the units are: a number, or a function of what comes in.

    Attributes:
        decay: [n], float64: the sum over the time that has gone by of t / tau_i. ``None`` before any has: the layer is
            the identity then.
        units: n, of the last input; ``None`` before the first.
    """

    def __init__(self, dim: int | Callable[[Tensor], int] = -1) -> None:
        super().__init__()
        self.find_dim: Callable[[Tensor], int] = dim if callable(dim) else lambda h: dim
        self.decay: Tensor | None = None
        self.units: int | None = None
        self.watch: Activations | None = None

    def fade(self, tau: Tensor, t: float) -> None:
        """Let time go by.

        Args:
            tau: time constants [n], > 0; ``inf`` never fades.
            t: time, >= 0.
        """
        gone = t / tau.double().cpu()
        self.decay = gone if self.decay is None else self.decay + gone

    def phi(self) -> Tensor:
        """[n], float64: exactly 1 where no time has gone by and where tau is infinite."""
        if self.decay is None:
            raise MethodError("a forgetting layer was asked for its factors before any time had gone by")
        return torch.exp(-self.decay)

    def forward(self, h: Tensor) -> Tensor:
        """The same shape."""
        dim = self.find_dim(h)
        self.units = h.shape[dim]
        if self.watch is not None:
            self.watch.add(h.detach(), dim)
        if self.decay is None:
            return h
        shape = [1] * h.ndim
        shape[dim] = -1
        return h * self.phi().to(h).view(shape)


class Activations:
    """Running mean of abs(h_i) over records, and over positions within each; in float64."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, h: Tensor, dim: int) -> None:
        """Add a batch [B, ...] whose units are dimension ``dim``."""
        rows = h.movedim(dim, 1).flatten(2) if h.ndim > 2 else h[:, :, None]
        sums = rows.double().abs().mean(dim=2).sum(dim=0)
        self.total = sums if self.total is None else self.total + sums
        self.count += len(h)

    @property
    def mean(self) -> Tensor | None:
        """[n]; ``None`` where nothing came by."""
        return None if self.total is None else self.total / self.count


def insert_forgetting(model: nn.Module, names: Sequence[str]) -> dict[str, ForgettingLayer]:
    """Put a forgetting layer behind each of these modules; in place.

    No hook and no wrapper: the module stays the object that it was, under its name and with its parameters' names, and
    gets a forward that ends in the layer. So the state dict has the same keys with and without, attributes of the
    module stay, and a copy of the model has copies of the layers.

    Raises:
        MethodError: a module has a layer already.
    """
    layers = {}
    for name in names:
        module = model.get_submodule(name)
        if "forgetting" in module.__dict__:
            raise MethodError(f"module {name!r} has a forgetting layer already")
        layers[name] = ForgettingLayer(units_dimension(model, name))
        # Not a submodule: a Sequential would run it as one of its steps.
        module.__dict__["forgetting"] = layers[name]
        module.__class__ = _fading(type(module))  # type: ignore[arg-type]  # of a class, not of its instances
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(
            "forgetting" in m.__dict__ for m in module.modules() if m is not module
        ):
            # Without gradients torch computes this block in one fused operation that looks at the weights and calls no
            # submodule: the layers would be passed by. It does so for known activations only.
            module.__dict__["fused_activation"] = module.activation_relu_or_gelu
            module.activation_relu_or_gelu = 0
    return layers


def remove_forgetting(model: nn.Module) -> None:
    """Take every forgetting layer out; in place."""
    for module in model.modules():
        if "forgetting" in module.__dict__:
            del module.__dict__["forgetting"]
            module.__class__ = type(module).__mro__[1]
        if "fused_activation" in module.__dict__:
            module.activation_relu_or_gelu = module.__dict__.pop("fused_activation")


def matching_modules(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the modules that any of the patterns names, in the model's order.

    In a pattern ``*`` is any part of one name, ``**`` any number of names: ``encoders.*`` are the encoders,
    ``encoders.**.body.1`` second steps in any depth. Lists and dicts of modules, which have no output, are not matched
    by ``*``.

    Raises:
        MethodError: a pattern matches nothing; the message names the closest.
    """
    known = [name for name, module in model.named_modules() if name and _has_output(module)]
    found: set[str] = set()
    for pattern in patterns:
        expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", r"[^.]*")
        matches = [name for name in known if re.fullmatch(expression, name)]
        if not matches:
            raise MethodError(
                f"no layer of the model is named {pattern!r}",
                expected="names of modules, or patterns with * and **",
                fix=did_you_mean(pattern, known)[:2000],
            )
        found.update(matches)
    return [name for name in known if name in found]


def mean_activations(
    model: nn.Module, layers: Mapping[str, ForgettingLayer], batches: Iterable[Batch], ask: Ask
) -> dict[str, Tensor | None]:
    """Layer name to mean abs(h_i) over these records [n], in eval mode; ``None`` for a layer that none of them reaches.

    Batches must hold no padding (:func:`~forgetmi.parts.selection.alike.alike_batches`): what stands there would count.
    """
    watches = {name: Activations() for name in layers}
    try:
        for name, layer in layers.items():
            layer.watch = watches[name]
        with scoring(model):
            for batch in batches:
                ask(model, batch)
    finally:
        for layer in layers.values():
            layer.watch = None
    return {name: watch.mean for name, watch in watches.items()}


@functools.cache
def _fading(kind: type[nn.Module]) -> type[nn.Module]:
    """The class with a forward that ends in the module's forgetting layer."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = kind.forward(self, *args, **kwargs)
        layer: ForgettingLayer = self.__dict__["forgetting"]
        if isinstance(output, tuple):  # some blocks return caches and attentions beside their states
            return (layer(output[0]), *output[1:])
        return layer(output)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _has_output(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict)


_COUNTS = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "nf")


def units_dimension(model: nn.Module, name: str) -> Callable[[Tensor], int]:
    """Which dimension of a module's output is its units: channels of a convolution, the last one of a linear layer.

    A module that is neither (an activation, a norm, a block) is asked after its nearest surroundings that hold one of
    the two: channels come first in outputs with as many dimensions as a convolution's there. Where the number of units
    is known, the dimension that has it is taken.
    """
    module, units = model.get_submodule(name), None
    for count in _COUNTS:
        if isinstance(value := getattr(module, count, None), int):
            units = value
            break
    if isinstance(module, nn.LayerNorm):
        units = module.normalized_shape[-1]
    parts = name.split(".")
    around: list[nn.Module] = []
    while not around:
        inside = model.get_submodule(".".join(parts)).modules()
        around = [m for m in inside if isinstance(m, _ConvNd | nn.Linear) or is_conv1d(m)]
        if not parts:
            break
        parts = parts[:-1]
    channels_first = {len(inner.kernel_size) + 2 for inner in around if isinstance(inner, _ConvNd)}

    def find(h: Any) -> int:
        if not isinstance(h, Tensor) or h.ndim < 2 or not h.is_floating_point():
            raise MethodError(
                f"the output of module {name!r} has no units that could fade: it is no tensor [B, ..., n] of floats",
                fix="name a layer whose output is one",
            )
        order = (1, h.ndim - 1) if h.ndim in channels_first else (h.ndim - 1, 1)
        return next((dim for dim in order if h.shape[dim] == units), order[0])

    return find
