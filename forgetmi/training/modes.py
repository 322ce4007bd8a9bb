"""Models are left in the mode that they were found in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def preserved_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule's train/eval flag back at the end."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, for the length of the block."""
    with preserved_mode(model), torch.inference_mode():
        model.eval()
        yield


def set_fit_mode(model: nn.Module, mode: Literal["train", "frozen_batchnorm", "eval"]) -> None:
    """The mode of :class:`~forgetmi.training.options.FitOptions`.

    A BatchNorm whose weights are all frozen keeps its running statistics in every mode: what is frozen does not move,
    and statistics are no parameters, so ``requires_grad`` alone would not hold them.
    """
    model.train(mode != "eval")
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            weights = list(module.parameters(recurse=False))
            if mode == "frozen_batchnorm" or (weights and not any(weight.requires_grad for weight in weights)):
                module.eval()


def same_device(wanted: torch.device, given: torch.device) -> bool:
    """Whether a tensor on ``given`` is where ``wanted`` says; ``cuda`` without an index is any CUDA device."""
    return wanted.type == given.type and (wanted.index is None or wanted.index == (given.index or 0))
