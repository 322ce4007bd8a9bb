"""Unlearning a forget set part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from forgetmi.methods.base import UnlearningJob
from forgetmi.training.reference import Reference
from forgetmi.training.seeds import derive_seed


def stage_job(
    job: UnlearningJob, model: nn.Module | None, part: Sequence[int], *, stage: int, name: str
) -> UnlearningJob:
    """The job of one stage: a part of the forget records, from the model that the stage before left.

    The other forget records are used on neither side. The first stage has the job's own seed, so that a single stage
    is the job itself; each has checkpoints of its own.

    Args:
        job: of the whole.
        model: what the stage before left; ``None`` at first.
        part: positions.
        stage: its number.
        name: of the method that works in stages.
    """
    others = tuple(index for index in job.partition.forget if index not in part)
    return replace(
        job,
        model=job.model if model is None else model,
        partition=replace(job.partition, forget=tuple(part), excluded=(*job.partition.excluded, *others)),
        trainer=job.trainer.constrained(prefix=f"{name}-{stage}-"),
        seed=job.seed if stage == 0 else derive_seed(job.seed, name, stage),
        lora=job.lora if model is None else None,  # later stages train the adapter that is there
        reference=job.reference if model is None else Reference(model, job.task, job.trainer.device),
    )
