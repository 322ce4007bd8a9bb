"""Scores of a model over many records: batched, in eval mode, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Batch, Loader
from forgetmi.errors import ModelError
from forgetmi.tasks.base import Task
from forgetmi.training.modes import scoring


def collect_signals(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], *, batch_size: int, device: torch.device
) -> dict[str, np.ndarray]:
    """The task's signals for these records, in their order.

    Args:
        model: scored where it stands; left in the mode it came in.
        task: says what the signals are.
        loader: makes clean batches.
        indices: positions, N of them.
        batch_size: changes speed and memory, not the result.
        device: where the model is.

    Returns:
        Signal name to array [N] or [N, ...]; always ``"nll"``.

    Raises:
        DataError: a label is missing, of the wrong kind or out of range.
        ModelError: a signal is not finite: the model is broken, and no figure may be computed from it.
    """
    return score_batches(model, task, loader.batches(indices, batch_size), device)


def score_batches(
    model: nn.Module, task: Task, batches: Iterable[Batch], device: torch.device, *, correct: bool = False
) -> dict[str, np.ndarray]:
    """The task's signals for the records of some batches, in their order.

    Args:
        model: scored where it stands; left in the mode it came in.
        task: says what the signals are.
        batches: N records in all; made one at a time.
        device: where the model is.
        correct: also give ``"correct"`` [N], the task's answer right (1) or wrong (0), or the share that is right.

    Returns:
        As :func:`collect_signals`.

    Raises:
        DataError, ModelError: as :func:`collect_signals`.
    """
    columns: dict[str, list[np.ndarray]] = {}
    with scoring(model):
        for batch in batches:
            task.check_labels(batch)
            moved = batch.to(device)
            output = task.output(model, moved)
            found = dict(task.signals(output, moved))
            if correct:
                found["correct"] = 1.0 - task.errors_of(output, moved)
            for name, values in found.items():
                columns.setdefault(name, []).append(values.float().cpu().numpy())
    signals = {name: np.concatenate(parts) for name, parts in columns.items()}
    broken = [name for name, values in signals.items() if not np.isfinite(values).all()]
    if broken:
        raise ModelError(
            f"the model's {', '.join(broken)} are not finite for some records",
            expected="finite scores",
            fix="the model is broken (diverged training, damaged weights): do not use it or its audit",
        )
    return signals
