"""Choosing a checkpoint with validation data only: never the retrained model, the test split or the audit."""

from __future__ import annotations

import numpy as np
from torch import nn

from forgetmi.errors import MethodError
from forgetmi.methods.base import UnlearningJob
from forgetmi.metrics.roc import auc
from forgetmi.partition import Partition
from forgetmi.training.scoring import collect_signals
from forgetmi.training.trainer import Validation


def require_validation(partition: Partition) -> None:
    """Raise :class:`MethodError` where there are no validation records to choose a checkpoint by."""
    if not partition.validation:
        raise MethodError(
            "a checkpoint is to be chosen on validation records, and there are none",
            fix="give data.split a validation share, or set select: last",
        )


def forgetting_gap(job: UnlearningJob, *, tolerance: float = 0.1, batch_size: int = 64) -> Validation:
    """How far a model is from treating forget records like validation records, which it never saw; to be made small.

        gap = | AUC(forget against validation, by loss) - 1/2 | + max(0, L_val / L_val_original - 1 - tolerance)

    Our reading: the papers do not say how a checkpoint is chosen (the published Forget-MI code looks at the retrained
    model, which a hospital does not have). The first term is 0 when an attacker who thresholds the loss cannot tell
    the two apart, in either direction; the second refuses models that paid for it with more than ``tolerance`` of the
    original's validation loss.

    Args:
        job: its partition must have validation records.
        tolerance: share of the validation loss.
        batch_size: of scoring.

    Raises:
        MethodError: there are no validation records.
    """
    partition = job.partition
    require_validation(partition)
    loader = job.fit_loader()

    def losses(model: nn.Module, indices: tuple[int, ...]) -> np.ndarray:
        signals = collect_signals(model, job.task, loader, indices, batch_size=batch_size, device=job.trainer.device)
        return signals["nll"]

    original = float(losses(job.reference.model, partition.validation).mean())

    def gap(model: nn.Module, epoch: int) -> float:
        forget, validation = losses(model, partition.forget), losses(model, partition.validation)
        scores = -np.concatenate([forget, validation])
        member = np.arange(len(scores)) < len(forget)
        worse = float(validation.mean()) / max(original, 1e-12) - 1.0 - tolerance
        return abs(auc(scores, member) - 0.5) + max(0.0, worse)

    return gap
