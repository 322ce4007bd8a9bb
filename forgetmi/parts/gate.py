"""The gate that joins unimodal embeddings in Forget-MI's multimodal losses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetmi.errors import ConfigError, MethodError
from forgetmi.models.fusion import masked


class AdaptationGate(nn.Module):
    """Joint embedding of one main modality x and the concatenation y of the others (Forget-MI, arXiv 2506.23145).

    ::

        g = sigmoid(W1 [x; y] + b1)             one number a record
        h = W2 [x; g y] + b2                    shift, of x's width
        a = min(beta ||x|| / ||h||, 1)          norms of each record by itself
        z = LayerNorm(x + a h)

    One gate, with fixed weights, serves both the model being unlearned and the original; its output for a record does
    not depend on the batch, the mode or the device's random state. The published code draws two new gates each batch,
    with dropout, takes one norm over the whole batch and lets beta be negative, so that identical models differ; here
    there is no dropout, and ``beta = softplus(raw_beta) > 0``.

    Our reading where the source is silent: a missing modality counts as zeros; where the main one is missing the bound
    has no meaning (it would be 0 and hide the others), so ``a = 1`` and ``z = LayerNorm(h)``.

    Args:
        dims: modality name to width. The first is the main one; their order is kept whatever the order of the inputs.
        beta_init: starting value of beta.
        generator: draws the weights, uniform in +- 1/sqrt(fan in) as torch's linear layers; the global random state is
            not touched.

    Weights ask for no gradient until ``gate.requires_grad_(True)``.

    Raises:
        ConfigError: fewer than two modalities, or ``beta_init`` is not positive.
    """

    def __init__(self, dims: Mapping[str, int], *, generator: torch.Generator, beta_init: float = 1.0) -> None:
        super().__init__()
        problems = []
        if len(dims) < 2:
            problems.append(f"a gate joins at least two modalities, got {', '.join(dims) or 'none'}")
        if not (math.isfinite(beta_init) and beta_init > 0):
            problems.append(f"beta_init must be positive, got {beta_init}")
        if problems:
            raise ConfigError(problems)
        self.dims = dict(dims)
        self.names = tuple(dims)
        self.out_dim = self.dims[self.names[0]]
        total = sum(self.dims.values())
        self.weigh = _linear(total, 1, generator)
        self.shift = _linear(total, self.out_dim, generator)
        # The inverse of softplus, in a form that neither overflows nor cancels.
        self.raw_beta = nn.Parameter(torch.tensor(beta_init + math.log(-math.expm1(-beta_init))))
        self.norm = nn.LayerNorm(self.out_dim)
        self.requires_grad_(False)

    @property
    def beta(self) -> Tensor:
        """The largest length of the shift relative to x; a positive scalar."""
        return F.softplus(self.raw_beta)

    def forward(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Joint embeddings [B, width of the main modality].

        Args:
            unimodal: name to [B, D_name], in any order.
            present: name to mask [B]; a name that it lacks is present throughout.

        Raises:
            MethodError: other modalities or widths than those the gate was made for.
        """
        widths = {name: embedding.shape[-1] for name, embedding in unimodal.items()}
        if widths != self.dims:
            raise MethodError(f"a gate made for {self.dims} was given embeddings of {widths}")
        masks = present or {}
        x, *others = [masked(unimodal[name], masks[name]) if name in masks else unimodal[name] for name in self.names]
        y = torch.cat(others, dim=1)
        g = torch.sigmoid(self.weigh(torch.cat([x, y], dim=1)))
        h = self.shift(torch.cat([x, g * y], dim=1))
        length = torch.linalg.vector_norm(h, dim=1, keepdim=True)
        # The floor only keeps 0/0 away: where h is zero, a is of no consequence.
        a = (self.beta * torch.linalg.vector_norm(x, dim=1, keepdim=True) / length.clamp(min=1e-6)).clamp(max=1.0)
        if self.names[0] in masks:
            a = torch.where(masks[self.names[0]][:, None], a, 1.0)
        return self.norm(x + a * h)


class GateWithHead(nn.Module):
    """A gate and a linear head, for training the gate once on retain records with the original frozen.

    Args:
        gate: is trained in place once its gradients are switched on.
        n_outputs: classes or labels.
        generator: draws the head's weights.
    """

    def __init__(self, gate: AdaptationGate, n_outputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.gate = gate
        self.head = _linear(gate.out_dim, n_outputs, generator)

    def forward(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits [B, n_outputs]."""
        return self.head(self.gate(unimodal, present))


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
