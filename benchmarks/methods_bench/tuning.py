"""The same small budget for every method: four settings, one is chosen on forget and validation records alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from forgetmi.errors import ModelError
from forgetmi.methods.base import UnlearningJob
from forgetmi.methods.validation import forgetting_gap
from forgetmi.training.scoring import collect_signals
from methods_bench.grids import candidates
from methods_bench.models import SCORING_BATCH, Request, one_line

TOLERANCE = 0.02
"""Validation accuracy that may be lost for nothing: the audit's ``utility_margin``."""


def criterion(job: UnlearningJob) -> Callable[[nn.Module], float]:
    """What is made small: how far the model is from treating forget records like validation records
    (:func:`~forgetmi.methods.validation.forgetting_gap`), and the validation accuracy that this cost beyond
    :data:`TOLERANCE`. No retrained model and no test record is looked at.
    """
    gap = forgetting_gap(job, batch_size=SCORING_BATCH)
    validation = job.partition.validation
    labels = job.loader.labels(validation)
    assert labels is not None  # every record of this benchmark has a label

    def accuracy(model: nn.Module) -> float:
        logits = collect_signals(
            model, job.task, job.loader, validation, batch_size=SCORING_BATCH, device=job.trainer.device
        )["logits"]
        return float((logits.argmax(axis=1) == labels.numpy()).mean())

    original = accuracy(job.reference.model)

    def value(model: nn.Module) -> float:
        return gap(model, 0) + max(0.0, original - accuracy(model) - TOLERANCE)

    return value


def tune(request: Request, original: nn.Module, method: str) -> dict[str, Any]:
    """Try every setting.

    Returns:
        ``options`` (those with the smallest criterion; ``None`` where the method refuses the job or every setting
        breaks), ``tried`` (each with its ``criterion``, or the ``reason`` why there is none) and ``seconds``.
    """
    partition = request.without_test()
    measure = criterion(request.job(original, partition, request.seed))
    tried: list[dict[str, Any]] = []
    for options in candidates(method, request.place.setup.recipe):
        model, cost = request.unlearn(original, method, options, partition)
        entry: dict[str, Any] = {"options": options, "criterion": None, **cost}
        if model is not None:
            try:
                entry["criterion"] = round(measure(model), 5)
            except ModelError as error:
                entry |= {"status": "diverged", "reason": one_line(error)}
        tried.append(entry)
        if entry["status"] == "refused":
            break
    usable = [entry for entry in tried if entry["criterion"] is not None]
    best = min(usable, key=lambda entry: entry["criterion"], default=None)
    return {
        "options": None if best is None else best["options"],
        "status": tried[-1]["status"] if best is None else "done",
        "reason": tried[-1].get("reason") if best is None else None,
        "tried": tried,
        "cpu_seconds": round(sum(entry.get("cpu_seconds", 0.0) for entry in tried), 3),
    }
