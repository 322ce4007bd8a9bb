"""Refining the forget set: records that are remembered more are unlearned by stronger methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.methods import build_method, method_problems
from forgetmi.methods.base import Needs, PerturbsInputs, UnlearningJob, UnlearningMethod, check_job
from forgetmi.methods.stages import stage_job
from forgetmi.training.scoring import collect_signals

NOTHING = "nothing"


@dataclass(frozen=True)
class RUM:
    """RUM, refined unlearning meta-algorithm (Zhao et al., NeurIPS 2024, arXiv 2406.01257), around any methods.

    D_f is cut into equal strata from the least to the most memorised records; they are unlearned one after another,
    each by a method of its own, from the model that the one before left. With one stratum it is that method.

    Our reading: memorisation is not measured by training many models but by the cheap proxy that the paper finds most
    telling, the confidence in the true target: here the original's negative log-likelihood of it (high: memorised).
    While one stratum is unlearned the others are used on neither side. A wrapped method's reference is the model that
    it starts from.

    Attributes:
        methods: one for each stratum, least memorised first; ``nothing`` leaves a stratum alone. Published for its
            forget sets: nothing, fine_tune, salun.
        options: method name to its options.
        batch_size: of the scoring pass; changes speed and memory only.
    """

    methods: Sequence[str] = (NOTHING, "fine_tune", "salun")
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_size: int = 64

    name: ClassVar[str] = "rum"
    paper: ClassVar[str] = "RUM (Zhao et al. 2024, arXiv 2406.01257)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        problems = [] if self.methods else ["methods must name one method at least"]
        problems += [] if self.batch_size >= 1 else [f"batch_size must be >= 1, not {self.batch_size}"]
        problems += [
            f"options: {name!r} is not among methods. {did_you_mean(name, self.methods)}"
            for name in self.options
            if name not in self.methods
        ]
        if "retrain" in self.methods:
            problems.append("methods: retraining has no stages; use retrain by itself")
        for name in dict.fromkeys(self.methods):
            if name not in (NOTHING, "retrain"):
                problems += method_problems(name, self.options.get(name))
        if problems:
            raise ConfigError(problems)

    @property
    def input_noise(self) -> Mapping[str, Mapping[str, Any]] | None:
        """That of the stages' method that makes any."""
        noises = (m.input_noise for m in self._built().values() if isinstance(m, PerturbsInputs))
        return next((noise for noise in noises if noise is not None), None)

    def check(self, job: UnlearningJob) -> None:
        """Each stage's method must be able to do it."""
        for method in self._built().values():
            check_job(method, job)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model after the last stage."""
        check_job(self, job)
        built = self._built()
        model: nn.Module | None = None
        for stage, (name, stratum) in enumerate(zip(self.methods, self._strata(job), strict=True)):
            job.trainer.log.event("stratum", stage=stage, method=name, records=len(stratum))
            if name != NOTHING and stratum:
                model = built[name].unlearn(stage_job(job, model, stratum, stage=stage, name=self.name))
        return job.copy_of_original() if model is None else model

    def _built(self) -> dict[str, UnlearningMethod]:
        return {name: build_method(name, self.options.get(name)) for name in self.methods if name != NOTHING}

    def _strata(self, job: UnlearningJob) -> list[tuple[int, ...]]:
        """The forget records by how much they are remembered, least first; a stratum may be empty."""
        forget = job.partition.forget
        if len(self.methods) == 1:
            return [forget]
        signals = collect_signals(
            job.reference.model,
            job.task,
            job.fit_loader(),
            forget,
            batch_size=self.batch_size,
            device=job.trainer.device,
        )
        order = np.asarray(forget)[np.argsort(signals["nll"], kind="stable")]
        return [tuple(sorted(part.tolist())) for part in np.array_split(order, len(self.methods))]
