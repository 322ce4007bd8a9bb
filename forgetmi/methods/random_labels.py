"""Random labels for the forget records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.selection.relabelled import RelabelledPlan, labels_of
from forgetmi.parts.selection.sequences import InTurnPlan
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import Plan, ShuffledPlan
from forgetmi.training.seeds import torch_generator


@dataclass(frozen=True)
class RandomLabels:
    """Train on D_r and on D_f with random labels: min L(D_r u (x_f, y~)), from theta_0.

    Amnesiac unlearning (Graves et al., AAAI 2021, arXiv 2010.10981) and the relabelling that SalUn masks (Fan et al.,
    ICLR 2024, arXiv 2310.12508). The published variants are settings:

    - ``order: in_turn``, ``exclude_true: false``, ``redraw: true``: SalUn's code for small data sets;
    - ``order: together``, ``exclude_true: false``, ``redraw: true``: SalUn's code for large ones;
    - ``order: together``, ``exclude_true: true``, ``redraw: false``: amnesiac unlearning in SSD's comparison.

    Attributes:
        order: in each epoch all forget records and then all retain records (``in_turn``), or both shuffled together.
        exclude_true: draw from the other labels only; else the true one comes up as often as any.
        redraw: draw afresh each epoch; else once. (Drawing for each batch, as published, is the same: an epoch has
            each record in one batch.)
        fit: epochs, learning rate and the rest.
    """

    order: Literal["in_turn", "together"] = "together"
    exclude_true: bool = True
    redraw: bool = True
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=3, lr=1e-4))

    name: ClassVar[str] = "random_labels"
    paper: ClassVar[str] = "Amnesiac unlearning (Graves et al. 2021, arXiv 2010.10981)"
    needs: ClassVar[Needs] = Needs(tasks=("classification",))

    def __post_init__(self) -> None:
        if problems := without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model trained on random labels."""
        check_job(self, job)
        model = job.copy_of_original()
        forget = job.partition.forget
        labels = labels_of(job.fit_loader(), forget)

        def drawn(epoch: int) -> Tensor:
            generator = torch_generator(job.seed, self.name, epoch if self.redraw else 0)
            return job.task.random_labels(labels, generator, exclude_true=self.exclude_true)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            ((stream, batch),) = batches.items()
            loss = job.task.loss(model, batch)
            return Loss(loss, {stream: loss})

        job.trainer.fit(
            model,
            RelabelledPlan(self._visits(job), job.task, forget, drawn),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
        )
        return model

    def _visits(self, job: UnlearningJob) -> Plan:
        size = self.fit.batch_size
        if self.order == "in_turn":
            return InTurnPlan({part: job.visits(part, size) for part in ("forget", "retain")})
        both = (*job.partition.forget, *job.partition.retain)
        return ShuffledPlan(job.fit_loader(), both, batch_size=size, seed=job.order_seed("both"))
