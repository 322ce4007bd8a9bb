"""The winner of SemEval-2025 task 4: chunk after chunk, ascent held or followed by descent on the retain set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Batch, Loader
from forgetmi.errors import ConfigError, MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.edits.blocks import blocks, only_training
from forgetmi.parts.objectives.sequence import sequence_means
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.losses import Loss, task_objective
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan, Step
from forgetmi.training.seeds import derive_seed, numpy_generator


@dataclass(frozen=True)
class AILS:
    """AILS-NTUA (Premptis et al., SemEval-2025 task 4, arXiv 2503.02443), in two variants.

    The forget set is unlearned in chunks, one after another, each with a fresh optimiser and learning-rate schedule.

    - ``interleaved``: a step sees n forget records and ``retain_per_forget`` times as many of D_r, in order, D_r going
      round and round; L = mean_i c_i L_i, L_i a record's mean over its answer tokens, c_i = -1 for forget records and
      ``positive_factor`` for the others. Only the last ``last_blocks`` blocks are trained.
    - ``annealing``: of each chunk, first plain ascent, then training on a random ``anneal_share`` of D_r (after every
      ``anneal_every`` chunks); at the end training on all of D_r.

    Our reading: chunks and the order of D_r are drawn by the seed (published: as in the file). Published for
    ``annealing``: chunks of 64, ``fit`` and ``anneal`` of 3 epochs, 5e-5, batches of 16, LoRA of rank 16 on the
    attention's q, v and the MLP's up and down (``unlearning.lora``), and no ``last_blocks``.

    Attributes:
        variant: see above.
        chunk: forget records of one chunk, >= 1. Published: 32.
        retain_per_forget: >= 1. Published: 7.
        positive_factor: >= 0. Published: .5.
        last_blocks: of a language model's blocks, those that are trained: embeddings, head and last norm are frozen;
            ``None`` trains all weights (classifiers, which are no stack of blocks). Published: 8.
        anneal_share: in (0, 1].
        anneal_every: chunks, >= 1.
        fit: of a chunk; ``batch_size`` counts forget records. Published: 7 epochs, steps of 1 + 7, 1e-5.
        anneal: of the training on D_r.
    """

    variant: Literal["interleaved", "annealing"] = "interleaved"
    chunk: int = 32
    retain_per_forget: int = 7
    positive_factor: float = 0.5
    last_blocks: int | None = 8
    anneal_share: float = 0.25
    anneal_every: int = 1
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=7, batch_size=1, lr=1e-5, mode="eval"))
    anneal: FitOptions = field(default_factory=lambda: FitOptions(epochs=3, batch_size=16, lr=5e-5, mode="eval"))

    name: ClassVar[str] = "ails"
    paper: ClassVar[str] = "AILS-NTUA at SemEval-2025 task 4 (Premptis et al. 2025, arXiv 2503.02443)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        checks = {
            "chunk must be >= 1": self.chunk >= 1,
            "retain_per_forget must be >= 1": self.retain_per_forget >= 1,
            "positive_factor must be >= 0": self.positive_factor >= 0,
            "last_blocks must be >= 1, or null for all weights": self.last_blocks is None or self.last_blocks >= 1,
            "anneal_share must be in (0, 1]": 0 < self.anneal_share <= 1,
            "anneal_every must be >= 1": self.anneal_every >= 1,
        }
        problems = unmet(checks) + [problem.replace("fit.", "anneal.") for problem in without_validation(self.anneal)]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def check(self, job: UnlearningJob) -> None:
        """The last blocks must be there."""
        if self.last_blocks is not None and not isinstance(job.task, CausalLMTask):
            raise MethodError(
                f"last_blocks are a language model's, and the task is {job.task.name!r}",
                fix="set last_blocks: null, which trains all weights",
            )
        self._trained(job.model)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after the last chunk, and the last annealing."""
        check_job(self, job)
        model = job.copy_of_original()
        order = numpy_generator(job.seed, self.name, "chunks").permutation(job.partition.forget)
        chunks = np.array_split(order, range(self.chunk, len(order), self.chunk))
        stream = numpy_generator(job.seed, self.name, "retain").permutation(job.partition.retain).tolist()
        with only_training(model, self._trained(model)):
            first = 0  # the next retain record's place in the stream
            for number, chunk in enumerate(chunks):
                plan = _Interleaved(job.fit_loader(), chunk.tolist(), stream, first, self)
                self._chunk(job, model, plan, number)
                first += len(chunk) * self.retain_per_forget
                if self.variant == "annealing" and (number + 1) % self.anneal_every == 0:
                    self._anneal(job, model, number, self.anneal_share)
            if self.variant == "annealing":
                self._anneal(job, model, len(chunks), 1.0)
        return model

    def _chunk(self, job: UnlearningJob, model: nn.Module, plan: _Interleaved, number: int) -> None:
        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            forget = self._losses(job, model, batches["forget"])
            if self.variant == "annealing":
                return Loss(-forget.mean(), {"forget": forget.mean()})
            retain = self._losses(job, model, batches["retain"])
            total = torch.cat([-forget, self.positive_factor * retain]).mean()
            return Loss(total, {"forget": forget.mean(), "retain": retain.mean()})

        seed = derive_seed(job.seed, self.name, number)
        name = f"{self.name}-{number}"
        job.trainer.fit(model, plan, objective, self.fit, seed=seed, name=name, identity=job.identity(self))

    def _losses(self, job: UnlearningJob, model: nn.Module, batch: Batch) -> torch.Tensor:
        return sequence_means(*job.task.token_nll(model, batch))

    def _anneal(self, job: UnlearningJob, model: nn.Module, number: int, share: float) -> None:
        retain = numpy_generator(job.seed, self.name, "anneal", number).permutation(job.partition.retain)
        some = sorted(retain[: max(1, round(share * len(retain)))].tolist())
        seed = derive_seed(job.seed, self.name, "anneal", number)
        plan = ShuffledPlan(job.loader, some, batch_size=self.anneal.batch_size, seed=seed)
        objective, name = task_objective(job.task, "records"), f"{self.name}-{number}-anneal"
        job.trainer.fit(model, plan, objective, self.anneal, seed=seed, name=name, identity=job.identity(self))

    def _trained(self, model: nn.Module) -> set[str]:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.last_blocks is None:
            return set(names)
        last = tuple(f"{name}." for name, _ in blocks(model)[-self.last_blocks :])
        return {name for name in names if name.startswith(last)}


class _Interleaved:
    """A chunk in its order, and beside each step's records so many times as many of an endless retain stream."""

    def __init__(self, loader: Loader, forget: Sequence[int], retain: Sequence[int], first: int, method: AILS) -> None:
        self.loader, self.forget, self.retain, self.first, self.method = loader, forget, retain, first, method

    def steps(self, epoch: int) -> list[Step]:
        """The same in each epoch."""
        size, times = self.method.fit.batch_size, self.method.retain_per_forget
        found: list[Step] = []
        for start in range(0, len(self.forget), size):
            forget = tuple(self.forget[start : start + size])
            step: dict[str, tuple[int, ...]] = {"forget": forget}
            if self.method.variant == "interleaved":
                places = range(self.first + start * times, self.first + (start + len(forget)) * times)
                step["retain"] = tuple(self.retain[place % len(self.retain)] for place in places)
            found.append(step)
        return found

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """Clean batches."""
        return {stream: self.loader.batch(indices) for stream, indices in step.items()}
