"""Give the forget records to the nearest other class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.edits.adversarial import pushed
from forgetmi.parts.selection.relabelled import RelabelledPlan
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class BoundaryShrink:
    """Boundary shrink (Chen et al., CVPR 2023, arXiv 2303.11570): min L(x_f, y_adv) on D_f.

        x_adv = x_f + step * sign(grad_x L(x_f, y_f; theta_0)),   y_adv = argmax_{k != y_f} f_0(x_adv)_k

    Where a push does not change the answer, the published y_adv is the true label, which reinforces what is to be
    forgotten; our reading takes the most likely *other* class (which is the same wherever the push did change it).

    Our reading: inputs are not clipped or rounded (the published clip to [0, 1] is for images only, and only labels are
    taken from x_adv); only continuous inputs are pushed; BatchNorm statistics are frozen.

    Attributes:
        step: of the push, >= 0, in the units of the prepared inputs. Published: .1 of an image's range. At 0 the
            label is the original's second choice.
        true_label_may_stay: the published y_adv, true labels among them.
        fit: epochs, learning rate and the rest.
    """

    step: float = 0.1
    true_label_may_stay: bool = False
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str] = "boundary_shrink"
    paper: ClassVar[str] = "Boundary unlearning (Chen et al. 2023, arXiv 2303.11570)"
    needs: ClassVar[Needs] = Needs(retain=False, tasks=("classification",))

    def __post_init__(self) -> None:
        problems = [] if self.step >= 0 else [f"step must be >= 0, not {self.step}"]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        model = job.copy_of_original()
        labels = self._labels(job)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            return Loss(job.task.loss(model, batches["forget"]), {})

        visits = job.visits("forget", self.fit.batch_size)
        job.trainer.fit(
            model,
            RelabelledPlan(visits, job.task, job.partition.forget, lambda epoch: labels),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
        )
        return model

    def _labels(self, job: UnlearningJob) -> Tensor:
        """y_adv of the forget records, in their order; from the frozen original."""
        found, stayed = [], 0
        for batch in job.fit_loader().batches(job.partition.forget, self.fit.batch_size):
            moved = batch.to(job.trainer.device)
            output = job.reference.output(pushed(job.reference.model, job.task, moved, self.step))
            others = job.task.without_truth(output, moved).logits.argmax(dim=1)
            answer = output.logits.argmax(dim=1)
            stayed += int((answer != others).sum())
            found.append((answer if self.true_label_may_stay else others).cpu())
        job.trainer.log.event("pushed", method=self.name, records=len(job.partition.forget), answer_stayed=stayed)
        return torch.cat(found)
