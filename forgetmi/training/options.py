"""How a model is fitted: optimiser, schedule, precision of the loop; and the optimiser that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from forgetmi.errors import ConfigError, unmet


@dataclass(frozen=True)
class FitOptions:
    """Options of one call of :meth:`~forgetmi.training.trainer.Trainer.fit`.

    Attributes:
        epochs: passes over the plan.
        batch_size: records a step (of each stream, when steps are paired).
        lr: peak learning rate.
        optimizer: ``adamw``, ``adam`` or ``sgd``.
        weight_decay: not applied to biases and normalisation parameters.
        momentum: of ``sgd``; of the other two the decay of the first moment, beta_1.
        schedule: after ``warmup`` (a share of all steps), ``constant``, ``linear`` to 0 or ``cosine`` to 0.
        clip_norm: largest gradient norm; ``None`` does not clip.
        accumulate: pieces that a step's batch is split into, to save memory, each weighing as its share of the
            records. A loss that is a mean over records keeps its value and gradient; one that is not (a mean over a
            language model's tokens, over the records that have a modality; a ranking within the batch; BatchNorm in
            ``train`` mode) is taken piece by piece. The same holds for several processes.
        select: which weights are kept: of the ``last`` epoch or of the ``best`` by validation.
        patience: stop after this many epochs without a better validation; ``None`` never stops early.
        mode: of the model while it trains. ``frozen_batchnorm``: BatchNorm uses and keeps its running statistics, so
            that what is trained on does not leak into them. ``eval``: no dropout either.
        checkpoint_every: steps between checkpoints; 0 saves at the end of each epoch.
        max_loss: a loss whose absolute value is above this has diverged.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    clip_norm: float | None = 1.0
    accumulate: int = 1
    select: Literal["last", "best"] = "last"
    patience: int | None = None
    mode: Literal["train", "frozen_batchnorm", "eval"] = "train"
    checkpoint_every: int = 0
    max_loss: float = 1e6

    @property
    def validates(self) -> bool:
        """Whether weights are chosen, or training is stopped, by validation."""
        return self.select == "best" or self.patience is not None

    def __post_init__(self) -> None:
        checks = {
            "epochs must be >= 0": self.epochs >= 0,
            "batch_size must be >= 1": self.batch_size >= 1,
            "lr must be >= 0": self.lr >= 0,
            "weight_decay must be >= 0": self.weight_decay >= 0,
            "momentum must be in [0, 1)": 0 <= self.momentum < 1,
            "warmup must be in [0, 1]": 0 <= self.warmup <= 1,
            "clip_norm must be > 0": self.clip_norm is None or self.clip_norm > 0,
            "accumulate must be >= 1": self.accumulate >= 1,
            "patience must be >= 1": self.patience is None or self.patience >= 1,
            "checkpoint_every must be >= 0": self.checkpoint_every >= 0,
            "max_loss must be > 0": self.max_loss > 0,
        }
        if problems := unmet(checks):
            raise ConfigError(problems)


def build_optimizer(model: nn.Module, options: FitOptions) -> torch.optim.Optimizer:
    """The optimiser over the parameters that require gradients; those that do not are not even in it, so that weight
    decay and momentum cannot move them.

    Raises:
        ConfigError: no parameter requires a gradient.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError(["no parameter of the model requires a gradient: there is nothing to train"])
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return make_optimizer([group for group in groups if group["params"]], options)


def make_optimizer(groups: list[dict[str, Any]], options: FitOptions) -> torch.optim.Optimizer:
    """The optimiser over groups of parameters, each with its ``weight_decay``."""
    # One pass over the weights instead of ten; a step's last bits may differ from the plain implementation's.
    fused = all(
        p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for group in groups for p in group["params"]
    )
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, fused=fused)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=options.lr, betas=(options.momentum, 0.999), fused=fused)


def lr_factor(options: FitOptions, step: int, total: int) -> float:
    """The schedule's factor on ``lr`` at a step (0-based) of ``total``."""
    warmup = round(options.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant" or total <= warmup:
        return 1.0
    done = (step - warmup) / (total - warmup)
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
