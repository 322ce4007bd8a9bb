"""Who's Harry Potter: train on what a model would say that had never read the text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.objectives.harry_potter import generic_labels, generic_logits
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.losses import Loss, task_objective
from forgetmi.training.modes import scoring
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class WHP:
    """WHP (Eldan & Russinovich 2023, arXiv 2310.02238), in two stages.

        1. a reinforced model: the original trained further on D_f
        2. labels = argmax( v_0 - alpha ReLU( v_reinforced - v_0 ) ) at each answer token; min CE(labels) on D_f

    The labels are made once, of the original's and the reinforced model's logits. With ``alpha: 0`` they are what the
    original finds likeliest. The reinforced model knows the texts even better: it is dropped, and so are its checkpoint
    and the labels.

    Our reading: the paper also replaces names by generic ones with the help of another language model, which is left
    out; so is MUSE's form, which answers with v itself and keeps both models.

    Attributes:
        alpha: >= 0. Published: 5 (MUSE: chosen by validation).
        reinforce: fit of the first stage. Published: 3 epochs, 3e-6.
        fit: of the second. Published: 2 epochs, 1e-6.
    """

    alpha: float = 5.0
    reinforce: FitOptions = field(default_factory=lambda: FitOptions(epochs=3, batch_size=8, lr=3e-6))
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=2, batch_size=8, lr=1e-6))

    name: ClassVar[str] = "whp"
    paper: ClassVar[str] = "Who's Harry Potter (Eldan & Russinovich 2023, arXiv 2310.02238)"
    needs: ClassVar[Needs] = Needs(retain=False, tasks=("causal_lm",))

    def __post_init__(self) -> None:
        problems = [] if self.alpha >= 0 else [f"alpha must be >= 0, not {self.alpha}"]
        problems += [problem.replace("fit.", "reinforce.") for problem in without_validation(self.reinforce)]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after the second stage."""
        check_job(self, job)
        task, labels, model = _tokens(job), self._labels(job), job.copy_of_original()

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            batch = batches["forget"]
            wanted = torch.cat([labels[index] for index in batch.indices.tolist()])
            return Loss(task.loss(model, task.retargeted(batch, wanted)), {})

        plan = job.visits("forget", self.fit.batch_size)
        job.trainer.fit(model, plan, objective, self.fit, seed=job.seed, name=self.name, identity=job.identity(self))
        job.trainer.discard(self._reinforced)
        job.trainer.log.event("discarded", what="the reinforced model, its checkpoint, and the labels that it made")
        return model

    @property
    def _reinforced(self) -> str:
        return f"{self.name}-reinforced"

    def _labels(self, job: UnlearningJob) -> dict[int, Tensor]:
        """Position of a forget record to the generic label of each of its answer tokens, on the CPU."""
        task, device, seed = _tokens(job), job.trainer.device, job.seed
        reinforced, objective = job.copy_of_original(), task_objective(job.task, "forget")
        plan = job.visits("forget", self.reinforce.batch_size)
        same = job.identity(self)
        job.trainer.fit(reinforced, plan, objective, self.reinforce, seed=seed, name=self._reinforced, identity=same)

        def label(baseline: Tensor, further: Tensor, truth: Tensor) -> Tensor:
            return generic_labels(generic_logits(baseline, further, self.alpha), truth)

        found: dict[int, Tensor] = {}
        changed = total = 0
        for clean in job.fit_loader().batches(job.partition.forget, self.fit.batch_size):
            batch = clean.to(device)
            with scoring(reinforced):
                output = task.output(reinforced, batch)
                labels, mask = task.over_tokens(label, batch, job.reference.output(batch), output)
                kept, _ = task.over_tokens(lambda logits, truth: truth, batch, output)
            changed += int((labels != kept)[mask].sum())
            total += int(mask.sum())
            rows = labels[mask].cpu().clone().split(mask.sum(dim=1).tolist())
            found.update(zip(batch.indices.tolist(), rows, strict=True))
        job.trainer.log.event("generic_labels", changed=changed, of=total)
        return found


def _tokens(job: UnlearningJob) -> CausalLMTask:
    if not isinstance(job.task, CausalLMTask):
        raise MethodError(f"whp works on tokens, and the task {job.task.name!r} has none")
    return job.task
