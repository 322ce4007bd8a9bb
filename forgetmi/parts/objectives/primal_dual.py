"""PDU: forgetting as flat logits, keeping as a constraint with a price that is learned."""

from __future__ import annotations

from torch import Tensor

from forgetmi.tasks.divergence import wide


def flatness_tokens(logits: Tensor) -> Tensor:
    """The logit margin of Entesari et al. 2025 (arXiv 2506.05314): ( max_v z_v - mean_v z_v )^2.

    0 exactly where all logits are equal, i.e. where the token could be any. Published code reads the logits that
    follow an answer token; those that predict it stand one place before, as everywhere here.

    Args:
        logits: z [..., V].

    Returns:
        [...].
    """
    logits = wide(logits)
    return (logits.amax(dim=-1) - logits.mean(dim=-1)).square()


def lagrangian(forget: Tensor, retain: Tensor, multiplier: float, epsilon: float) -> Tensor:
    """L_forget + lambda ( L_retain - epsilon ), minimised over the weights and maximised over lambda >= 0.

    Args:
        forget, retain: scalars.
        multiplier: lambda, a constant here.
        epsilon: what the retain loss may be.
    """
    return forget + multiplier * (retain - epsilon)


def dual_step(multiplier: float, retain: float, epsilon: float, step: float) -> float:
    """The price lambda <- max( 0, lambda + eta ( L_retain - epsilon ) ): dearer while the constraint is broken.

    Args:
        multiplier: lambda >= 0. Published start: 50 or 100.
        retain: L_retain, of a step or the mean of an epoch.
        epsilon: what it may be. Published (TOFU): .3.
        step: eta > 0. Published: 5.
    """
    return max(0.0, multiplier + step * (retain - epsilon))
