"""Inverted labels: another target than the one a record has."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from forgetmi.errors import MethodError
from forgetmi.tasks.base import Task

Inversion = Literal["random_other", "complement", "least_likely", "runner_up"]


def likeliest_labels(logits: Tensor, like: Tensor) -> Tensor:
    """What a model says of records, as labels of the form of ``like``: classes [B], or (multilabel) zeros and ones."""
    return (logits > 0).to(like) if like.is_floating_point() else logits.argmax(dim=1)


def inverted_labels(rule: Inversion, task: Task, labels: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    """Labels none of which is the one given. What "invert" means for more than two classes is not published.

    ================  ===============================================================================================
    ``random_other``  drawn uniformly from the others
    ``complement``    C - 1 - y; an involution. Independent labels: 1 - y each
    ``least_likely``  what the model thinks least likely of the others
    ``runner_up``     what the model thinks most likely of the others
    ================  ===============================================================================================

    Independent labels (multilabel) have 2^L targets: the likeliest says of each label what the model thinks, the least
    likely one the opposite; where that is the record's own, the label that the model is least sure of differs (next in
    line). Labels that are not known stay so.

    Args:
        rule: see above.
        task: draws random labels.
        labels: class indices [B], or (multilabel) [B, L] with NaN where unknown.
        logits: the model's, [B, C] or [B, L]; ``random_other`` and ``complement`` do not look at them.
        generator: of the draws.

    Raises:
        MethodError: ``complement`` with an odd number of classes: the one in the middle would stay what it is.
    """
    if rule == "random_other":
        return task.random_labels(labels, generator, exclude_true=True)
    if labels.is_floating_point():
        return _inverted_multilabel(rule, labels, logits)
    if rule == "complement":
        if (n := logits.shape[1]) % 2:
            raise MethodError(
                f"inversion: complement leaves the middle one of {n} classes as it is",
                expected="an even number of classes",
                fix="choose random_other, least_likely or runner_up",
            )
        return logits.shape[1] - 1 - labels
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    if rule == "least_likely":
        return logits.masked_fill(own, torch.inf).argmin(dim=1)
    return logits.masked_fill(own, -torch.inf).argmax(dim=1)


def _inverted_multilabel(rule: Inversion, labels: Tensor, logits: Tensor) -> Tensor:
    if rule == "complement":
        return 1 - labels
    known = ~labels.isnan()
    wanted = likeliest_labels(logits if rule == "runner_up" else -logits, labels)
    same = ((wanted == labels) | ~known).all(dim=1)
    doubtful = logits.abs().masked_fill(~known, torch.inf).argmin(dim=1)
    next_in_line = torch.zeros_like(known).scatter_(1, doubtful[:, None], True) & same[:, None]
    return torch.where(known, torch.where(next_in_line, 1 - wanted, wanted), labels)
