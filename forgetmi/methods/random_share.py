"""A control: any method, shown a random share of the forget set only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.stages import stage_job
from forgetmi.methods.wrapper import Wrapper
from forgetmi.training.seeds import numpy_generator


@dataclass(frozen=True)
class RandomShare(Wrapper):
    """The coreset effect (Pal et al. 2025, arXiv 2504.10185): unlearn a random 5 % of D_f, and measure all of it.

    Where that does as well as unlearning all of D_f, the figures say little about the forget set: they found so for NPO
    and RMU on WMDP and MUSE. The other forget records are used on neither side. ``share: 1`` is the method itself,
    exactly.

    Attributes:
        share: of the forget records, in (0, 1]; at least one record.
        inner, options: the method and its options. An epoch is then a pass over the share: train longer, as the paper
            does.
    """

    share: float = 0.05
    inner: str = "npo"

    name: ClassVar[str] = "random_share"
    paper: ClassVar[str] = "a control for the coreset effect (Pal et al. 2025, arXiv 2504.10185)"
    needs: ClassVar[Needs] = Needs()
    not_around: ClassVar[Mapping[str, str]] = {
        name: f"{name} trains without the forget records, whichever they are" for name in ("retrain", "sisa")
    }

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        return unmet({f"share must be in (0, 1], not {self.share}": 0 < self.share <= 1})

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The method's model."""
        check_job(self, job)
        order = numpy_generator(job.seed, self.name).permutation(job.partition.forget)
        some = sorted(order[: max(1, round(self.share * len(order)))].tolist())
        job.trainer.log.event("random_share", records=len(some), of=len(order))
        return self.wrapped().unlearn(stage_job(job, None, some, stage=0, name=self.name))
