"""Selective gradient ascent: what is still memorised is forgotten, what is not is left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.selection.memorised import count_outliers, mean_below, still_memorised
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.scoring import score_batches

PUBLISHED_FIT = FitOptions(epochs=150, batch_size=8, lr=5e-5, optimizer="adam", weight_decay=0.0, mode="eval")


@dataclass(frozen=True)
class SGA:
    """SGA of "To Each (Textual Sequence) Its Own" (Barbulescu & Triantafillou, ICML 2024, arXiv 2405.03097).

        each step:  max L on { i in the batch : g(x_i) >= gamma } and the batch's most memorised record
        stop after the first epoch at whose end  mean g(D_f) < target

    g(x) in [0, 1] is the share of answer tokens that are the likeliest one (of a class: whether it is), measured on all
    of D_f at the end of each epoch; in the first epoch every record counts as memorised. ``threshold: 0`` is gradient
    ascent, ``threshold`` above 1 climbs the most memorised record of each batch alone. The mean can hide records that
    are as well known as before: the log counts those with g >= .6 and those with g <= .15, who stand out as well.

    Our reading: answer tokens count, where the paper, on plain texts, counts all; a step is one batch (published: all
    forgotten sequences, 8 at a time); the authors' second decay rate of Adam, .98, is .999 here.

    Attributes:
        threshold: gamma, >= 0. Published: .7.
        stop_below: target, in [0, 1]; ``None`` takes all epochs. Published: .33.
        fit: epochs (at most), learning rate and the rest. Published: 150 epochs, 5e-5, no dropout.
    """

    threshold: float = 0.7
    stop_below: float | None = 0.33
    fit: FitOptions = field(default_factory=lambda: PUBLISHED_FIT)

    name: ClassVar[str] = "sga"
    paper: ClassVar[str] = "SGA, To Each (Textual Sequence) Its Own (Barbulescu & Triantafillou 2024, arXiv 2405.03097)"
    needs: ClassVar[Needs] = Needs(retain=False)

    def __post_init__(self) -> None:
        problems = [] if self.threshold >= 0 else [f"threshold must be >= 0, not {self.threshold}"]
        if problems := problems + target_problems("stop_below", self.stop_below) + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after the ascent."""
        check_job(self, job)
        model = job.copy_of_original()
        ascend_selectively(
            job, model, self.fit, self.threshold, self.stop_below, name=self.name, identity=job.identity(self)
        )
        return model


def ascend_selectively(
    job: UnlearningJob,
    model: nn.Module,
    fit: FitOptions,
    threshold: float,
    stop_below: float | None,
    *,
    name: str,
    identity: str,
) -> None:
    """The algorithm of :class:`SGA`, on a model that is changed in place."""
    measured = Memorisation(job)

    def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
        batch = batches["forget"]
        kept = still_memorised(measured.of(batch, threshold), threshold).nonzero()[:, 0]
        loss = job.task.loss(model, batch.rows(kept.tolist()))
        return Loss(-loss, {"forget": loss})

    def enough(model: nn.Module, epoch: int) -> bool:
        return measured.update(model, stop_below, stage=name, epoch=epoch)

    plan = job.visits("forget", fit.batch_size)
    job.trainer.fit(
        model, plan, objective, fit, seed=job.seed, name=name, identity=identity, memory=measured, until=enough
    )


class Memorisation:
    """g of each forget record, as it was measured last.

    Args:
        job: its forget records are measured, by its task.
    """

    def __init__(self, job: UnlearningJob) -> None:
        self.job = job
        self.known: dict[int, float] = {}

    def of(self, batch: Batch, unmeasured: float) -> Tensor:
        """[B], on the CPU; ``unmeasured`` for records that were not measured yet."""
        return torch.tensor([self.known.get(index, unmeasured) for index in batch.indices.tolist()])

    def update(self, model: nn.Module, target: float | None, *, stage: str, epoch: int) -> bool:
        """Measure, write to the log, and say whether the mean is below the target (no target is never reached)."""
        forget, device = self.job.partition.forget, self.job.trainer.device
        batches = self.job.fit_loader().batches(forget, 32)
        found = torch.from_numpy(score_batches(model, self.job.task, batches, device, correct=True)["correct"])
        self.known = dict(zip(forget, found.tolist(), strict=True))
        enough = target is not None and mean_below(found, target)
        self.job.trainer.log.event(
            "memorisation", stage=stage, epoch=epoch, mean=float(found.mean()), outliers=count_outliers(found),
            of=len(found), enough=enough,
        )  # fmt: skip
        return enough

    def state_dict(self) -> dict[str, Any]:
        """What is known."""
        return {"known": dict(self.known)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self.known = dict(state["known"])


def target_problems(option: str, target: float | None) -> list[str]:
    """What is wrong with a mean memorisation to be reached."""
    return [] if target is None or 0 <= target <= 1 else [f"{option} must be in [0, 1] or null, not {target}"]
