"""The four losses of Forget-MI (MICCAI 2025, arXiv 2506.23145, Eqs. 1-5), as pure functions of embeddings.

Notation of the paper and the arguments here::

    F_ul(I), F_ul(T)   unimodal embeddings of the model being unlearned   student[name]   [B, D_name]
    F_og(I~), F_og(T~) the original's embeddings of the noisy input       teacher[name]   [B, D_name]
    F(I, T)            joint embedding                                    student, teacher [B, D]
    Dist               Euclidean norm, averaged over the batch            distance

    L_UU = -+ Dist([F_ul(I_f); F_ul(T_f)], [F_og(I~_f); F_og(T~_f)])      unimodal unlearning
    L_MU = -+ Dist( F_ul(I_f, T_f)       ,  F_og(I~_f, T~_f)       )      multimodal unlearning
    L_UR =  + Dist([F_ul(I_r); F_ul(T_r)], [F_og(I_r); F_og(T_r)]  )      unimodal retention
    L_MR =  + Dist( F_ul(I_r, T_r)       ,  F_og(I_r, T_r)         )      multimodal retention
    L    = w_uu L_UU + w_mu L_MU + w_ur L_UR + w_mr L_MR,  the w sum to 1

The sign of the unlearning losses is not settled: the equations say minus (``repel``: away from the noisy original
embedding), the published code with noise says plus (``attract_noisy``: towards it). Both are here, by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from forgetmi.errors import ConfigError, MethodError, did_you_mean

EPS = 1e-8  # inside the root: identical rows are 1e-4 apart, their gradient is zero and finite
Reduction = Literal["mean", "none"]
Direction = Literal["attract_noisy", "repel"]
DIRECTIONS = ("attract_noisy", "repel")


def distance(
    a: Tensor, b: Tensor, eps: float = EPS, present: Tensor | None = None, *, reduction: Reduction = "mean"
) -> Tensor:
    """``Dist``: the mean over the batch of ``sqrt(||a_i - b_i||^2 + eps)``.

    The published code has no ``eps``; its gradient at equal rows is NaN. Nothing is subtracted, so the smallest value
    is ``sqrt(eps)``. Half precision is computed in float32: squares of large embeddings overflow it.

    Args:
        a, b: [B, D].
        eps: positive.
        present: [B] mask. Absent rows count as equal, and nothing depends on what stands in them.
        reduction: ``"none"`` gives [B].

    Raises:
        MethodError: shapes differ, or ``eps`` is not positive.
    """
    return _root(_squares(a, b, present), eps, reduction)


def unimodal_distance(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None = None,
    eps: float = EPS,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """``Dist`` of the concatenations ``[z_1; ...; z_M]`` of all modalities: one root over all of them.

    Args:
        student, teacher: name to [B, D_name], the same names in any order; row i of both is the same record.
        present: name to mask [B]; a missing modality contributes zero. A name that it lacks is present throughout.
        eps, reduction: as in :func:`distance`.

    Raises:
        MethodError: names or shapes differ, there is no modality, or ``eps`` is not positive.
    """
    if not student or set(student) != set(teacher):
        raise MethodError(
            f"embeddings of {sorted(student)} cannot be compared with those of {sorted(teacher)}",
            expected="the same modalities on both sides, at least one",
        )
    masks = present or {}
    squares = [_squares(student[name], teacher[name], masks.get(name)) for name in student]
    return _root(torch.stack(squares).sum(dim=0), eps, reduction)


@dataclass(frozen=True)
class ForgetMIWeights:
    """Weights of the four losses, normalised to sum 1 when they are made, and never rounded.

    Attributes:
        uu, ur, mu, mr: w_uu (unimodal unlearning), w_ur (unimodal retention), w_mu, w_mr (multimodal).

    Raises:
        ConfigError: a weight is negative or not finite, or all are zero.
    """

    uu: float
    ur: float
    mu: float
    mr: float

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        problems = [
            f"weight {name} must be finite and at least 0, got {value}"
            for name, value in given.items()
            if not (math.isfinite(value) and value >= 0)
        ]
        total = math.fsum(given.values())
        if not problems and total <= 0:
            problems.append("all four weights are 0")
        if problems:
            raise ConfigError(problems)
        for name, value in given.items():
            object.__setattr__(self, name, value / total)

    @classmethod
    def from_published(
        cls, alpha: float = 1.0, beta: float = 1.0, theta: float = 2.0, gamma: float = 2.0
    ) -> ForgetMIWeights:
        """From the published configuration: alpha weighs L_UR, beta L_UU, theta L_MU, gamma L_MR.

        Its defaults are 1, 1, 2, 2; the published code rounds them to .17, .17, .33, .33, which match no preset.
        """
        return cls(uu=beta, ur=alpha, mu=theta, mr=gamma)


@dataclass(frozen=True)
class Preset:
    """One row of the paper's Table 2.

    Attributes:
        weights: of the four losses.
        noise: whether the original sees noisy forget records. Without noise and with ``student == teacher`` every
            gradient is zero, so a noiseless run moves only once something else tells the two models apart.
    """

    weights: ForgetMIWeights
    noise: bool = True


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "no_noise": Preset(ForgetMIWeights(uu=0.25, ur=0.25, mu=0.25, mr=0.25), noise=False),
        "equal": Preset(ForgetMIWeights(uu=0.25, ur=0.25, mu=0.25, mr=0.25)),
        "multimodal": Preset(ForgetMIWeights(uu=0.1, ur=0.1, mu=0.4, mr=0.4)),
        "unimodal": Preset(ForgetMIWeights(uu=0.4, ur=0.4, mu=0.1, mr=0.1)),
        "retention": Preset(ForgetMIWeights(uu=0.1, ur=0.4, mu=0.1, mr=0.4)),
    }
)


@dataclass(frozen=True)
class ForgetMILoss:
    """The loss, and what it is made of.

    Attributes:
        total: scalar, to be minimised.
        parts: ``"uu"``, ``"ur"``, ``"mu"``, ``"mr"`` to the signed, unweighted losses L_UU, L_UR, L_MU, L_MR, without
            gradient.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def forget_mi_loss(
    d_uu: Tensor,
    d_mu: Tensor,
    d_ur: Tensor,
    d_mr: Tensor,
    *,
    weights: ForgetMIWeights,
    direction: Direction,
    repel_cap: float | None = None,
) -> ForgetMILoss:
    """``L = w_ur d_ur + w_mr d_mr + s (w_uu d_uu + w_mu d_mu)``, s = +1 for ``attract_noisy``, -1 for ``repel``.

    Args:
        d_uu, d_mu, d_ur, d_mr: distances, scalar or [B]; [B] is averaged.
        weights: of the four.
        direction: the sign.
        repel_cap: with ``repel``, distances above it are no longer pushed: zero gradient beyond the cap, full gradient
            below. Our addition (the repelling loss is unbounded below); the published hinge cut the gradient on the
            wrong side. Give [B] distances with it, so that the cap acts on each record and not on the batch's mean.

    Raises:
        ConfigError: unknown direction, a cap that is not positive, or a cap with ``attract_noisy``.
    """
    problems = []
    if direction not in DIRECTIONS:
        problems.append(f"unknown direction {direction!r}. {did_you_mean(str(direction), DIRECTIONS)}")
    elif repel_cap is not None and direction != "repel":
        problems.append("repel_cap only works with direction 'repel'; leave it out")
    if repel_cap is not None and not repel_cap > 0:
        problems.append(f"repel_cap must be positive, got {repel_cap}")
    if problems:
        raise ConfigError(problems)
    sign = 1.0 if direction == "attract_noisy" else -1.0
    if repel_cap is not None:
        d_uu, d_mu = d_uu.clamp(max=repel_cap), d_mu.clamp(max=repel_cap)
    losses = {"uu": sign * d_uu.mean(), "ur": d_ur.mean(), "mu": sign * d_mu.mean(), "mr": d_mr.mean()}
    total = torch.stack([getattr(weights, name) * loss for name, loss in losses.items()]).sum()
    return ForgetMILoss(total, {name: loss.detach() for name, loss in losses.items()})


def _squares(a: Tensor, b: Tensor, present: Tensor | None) -> Tensor:
    """``||a_i - b_i||^2``, [B], at least in float32; zero where absent."""
    if a.ndim != 2 or a.shape != b.shape:
        raise MethodError(
            f"embeddings of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared",
            expected="[B, D] on both sides, the same B and D",
        )
    precision = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    difference = a.to(precision) - b.to(precision)
    if present is not None:
        difference = difference.masked_fill(~present[:, None], 0.0)
    return difference.square().sum(dim=1)


def _root(squares: Tensor, eps: float, reduction: Reduction) -> Tensor:
    if not eps > 0:
        raise MethodError(f"eps must be positive, got {eps}", fix="without it the gradient of equal embeddings is NaN")
    rows = torch.sqrt(squares + eps)
    return rows.mean() if reduction == "mean" else rows
