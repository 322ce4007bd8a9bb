"""Low-rank adapters (LoRA, through PEFT) in a model of transformers: put in, switched off, merged."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from forgetmi.errors import ConfigError, ModelError

ADAPTER = "default"
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class LoraOptions:
    """A low-rank adapter, Hu et al. 2021 (arXiv 2106.09685): W + (alpha / r) B A, of which only A and B are trained.

    Attributes:
        r: rank.
        alpha: scale.
        dropout: before A, in [0, 1).
        targets: names (or ends of names) of the layers; by default every linear layer but the output embedding.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.r < 1:
            problems.append(f"lora.r must be at least 1, not {self.r}")
        if not self.alpha > 0:
            problems.append(f"lora.alpha must be positive, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            problems.append(f"lora.dropout must be in [0, 1), not {self.dropout}")
        if self.targets is not None and not self.targets:
            problems.append("lora.targets: name at least one layer, or leave it out")
        if problems:
            raise ConfigError(problems)

    def to_config(self) -> dict[str, Any]:
        """JSON-able."""
        targets = None if self.targets is None else list(self.targets)
        return {"r": self.r, "alpha": self.alpha, "dropout": self.dropout, "targets": targets}


def add_lora(model: nn.Module, options: LoraOptions) -> None:
    """Put an adapter into a model of transformers, in place: B = 0, so that it says what it said before.

    All other weights are frozen. A is drawn from torch's global generator; adapters are kept in float32.

    Raises:
        ConfigError: no layer has one of the names.
        ModelError: there is an adapter already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if lora_layers(model):
        raise ModelError("the model has an adapter already", fix="merge it first, or train the one that is there")
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # PEFT only divides it by r
        lora_dropout=options.dropout,
        target_modules="all-linear" if options.targets is None else list(options.targets),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # GPT-2's layers; PEFT sets it as they need it
            inject_adapter_in_model(config, model)
    except ValueError as error:
        weights = [name.split(".")[-2] for name, weight in model.named_parameters() if weight.ndim == 2]
        linear = sorted(set(weights))
        raise ConfigError([f"lora.targets: {error}. The model's layers: {', '.join(linear)}"]) from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers of a model of transformers that have an adapter, and their names."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def remove_lora(model: nn.Module, *, merge: bool) -> None:
    """Put the plain layers back, in place, with or without what the adapter says. Merged layers get weights of their
    own: those of a model that shares them stay as they are.
    """
    for name, layer in lora_layers(model):
        plain = layer.get_base_layer()
        if merge:
            plain = copy.copy(plain)
            plain._parameters = dict(plain._parameters)
            delta = layer.get_delta_weight(ADAPTER)
            with torch.no_grad():
                plain.weight = nn.Parameter(plain.weight + delta.to(plain.weight.dtype))
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, plain)
    if hasattr(model, "peft_config"):
        del model.peft_config


def copy_sharing(model: ModelT, *, everything: bool = False) -> ModelT:
    """A deep copy whose frozen weights (or all of them) share the model's memory: parameters of their own, which may be
    moved or replaced, over the same numbers. Nothing may write into those.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if everything or not parameter.requires_grad:
            plain = type(parameter) is nn.Parameter
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
    return copy.deepcopy(model, memo)
