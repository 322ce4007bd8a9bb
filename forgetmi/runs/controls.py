"""Models that are made to stand beside: one that is destroyed, and one that forgot a random share of the request."""

from __future__ import annotations

import copy

import torch
from torch import nn

from forgetmi.config import Config
from forgetmi.errors import ConfigError
from forgetmi.methods.random_share import RandomShare


def destroyed_copy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy whose weights are noise of the same mean and standard deviation, tensor by tensor: it knows nothing.

    Vectors (biases, scales of normalisation) stay as they are, so that the copy still computes finite numbers.

    Args:
        model: any; not changed.
        generator: of the noise, on the host.
    """
    noisy = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in noisy.parameters():  # tied ones come once
            if parameter.dim() < 2 or not parameter.is_floating_point():
                continue
            values = parameter.float()
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_((noise.to(values.device) * values.std() + values.mean()).to(parameter.dtype))
    return noisy


def random_share_method(config: Config, share: float) -> RandomShare | str:
    """The configured method on a random share of the request; or why there is no such control."""
    try:
        return RandomShare(share=share, inner=config.method.name, options=config.method_options)
    except ConfigError as error:
        return "; ".join(error.problems)
