"""Saliency unlearning: any method, moving the weights only that matter for the forget records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.wrapper import NOT_MASKED, Wrapper
from forgetmi.parts.edits.importance import gradient_sum, squared_gradients
from forgetmi.parts.updates.mask import WeightMask, largest


@dataclass(frozen=True)
class SalUn(Wrapper):
    """SalUn (Fan et al., ICLR 2024, arXiv 2310.12508): a mask over any method.

        m = top share of | sum_{D_f} grad L(theta_0) |,  ranked over all weights together, in eval mode;
        then the method, with m * gradient for the gradient and weights outside m held at theta_0.

    Weights outside the mask are put back after each step, exactly (the published code let weight decay move them until
    2026). Masked are the weights that may move at all; statistics of BatchNorm layers are no weights and move as the
    method lets them. With ``share=1`` it is the method itself, with ``share=0`` the weights are the original's.

    Attributes:
        share: of the entries of all weights that may move, in [0, 1]. Published: .5.
        inner: the method that is masked. Published: random_labels.
        options: its options.
        saliency: ``sum``: the absolute value of the summed gradient, as published. ``per_record``: the root mean
            square of the records' own gradients, in which records that pull apart do not cancel (our addition).
        batch_size: of the pass that makes the mask; changes speed and memory only.
    """

    share: float = 0.5
    inner: str = "random_labels"
    saliency: Literal["sum", "per_record"] = "sum"
    batch_size: int = 32

    name: ClassVar[str] = "salun"
    paper: ClassVar[str] = "SalUn (Fan et al. 2024, arXiv 2310.12508)"
    needs: ClassVar[Needs] = Needs()
    not_around = NOT_MASKED

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return unmet(
            {
                f"share must be in [0, 1], not {self.share}": 0 <= self.share <= 1,
                f"batch_size must be >= 1, not {self.batch_size}": self.batch_size >= 1,
            }
        )

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The masked method's model."""
        check_job(self, job)
        original = job.copy_of_original()
        mask = WeightMask(largest(self._saliency(job, original), self.share), original)
        model = self.wrapped().unlearn(replace(job, trainer=mask.constrain(job.trainer)))
        mask.restore(model)
        return model

    def _saliency(self, job: UnlearningJob, model: nn.Module) -> dict[str, Tensor]:
        over = (model, job.task, job.fit_loader(), job.partition.forget)
        kind = gradient_sum if self.saliency == "sum" else squared_gradients
        found = kind(*over, batch_size=self.batch_size, device=job.trainer.device)
        return {name: score.abs() for name, score in found.items()}  # roots keep the order of squares
