"""Take the modalities of the forget records apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError, did_you_mean
from forgetmi.methods.base import Needs, UnlearningJob, check_job, joint_of, without_validation
from forgetmi.parts.objectives.multi_delete import embedding_mse, unimodal_mse
from forgetmi.parts.selection.mismatched import MismatchedPlan, mixed
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import derive_seed


@dataclass(frozen=True)
class MultiDelete:
    """MultiDelete (Cheng and Amiri, ECCV 2024, arXiv 2311.12047).

        L = w_md  MSE( F(I_f, T_f), F_0(I_f, T_p) )                modality decoupling, p another forget record
          + w_mkr MSE( F(I_r, T_r), F_0(I_r, T_r) )                multimodal knowledge retention
          + w_ukr mean_m MSE( F(m_f), F_0(m_f) )                   unimodal knowledge retention

    with F the joint embedding, F(m) that of one modality, F_0 the frozen original. At theta_0, with the identity for p,
    L is 0.

    Our reading: partners are never the record itself; all modalities but ``kept`` come from the partner; unimodal
    embeddings of every modality are held (one published code holds one only); each epoch visits as many retain as
    forget records; dropout is off and BatchNorm frozen, so that identical models are at distance 0.

    Attributes:
        decouple, retain, unimodal: w_md, w_mkr, w_ukr, >= 0. Published: equal.
        kept: the modality that stays a record's own; ``None``: the data's first.
        fit: epochs, learning rate and the rest. Published: 5 epochs, 1e-5, decay .02, batch 32.
    """

    decouple: float = 1.0
    retain: float = 1.0
    unimodal: float = 1.0
    kept: str | None = None
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-5, weight_decay=0.02, mode="eval"))

    name: ClassVar[str] = "multi_delete"
    paper: ClassVar[str] = "MultiDelete (Cheng and Amiri 2024, arXiv 2311.12047)"
    needs: ClassVar[Needs] = Needs(embeddings=True)

    def __post_init__(self) -> None:
        weights = {"decouple": self.decouple, "retain": self.retain, "unimodal": self.unimodal}
        problems = [f"{name} must be >= 0, not {weight}" for name, weight in weights.items() if weight < 0]
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def check(self, job: UnlearningJob) -> None:
        """The model must join several modalities."""
        self._kept(job)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        teacher, kept = job.reference.fresh(), self._kept(job)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            forget, retain = batches["forget"], batches["retain"]
            output, before = job.task.output(model, forget), teacher.cached(forget)
            apart = teacher.output(mixed(forget, batches["partner"], kept))
            parts = {
                "decouple": embedding_mse(joint_of(output), joint_of(apart)),
                "retain": embedding_mse(joint_of(job.task.output(model, retain)), joint_of(teacher.cached(retain))),
                "unimodal": unimodal_mse(output.unimodal, before.unimodal, output.present),
            }
            weights = (self.decouple, self.retain, self.unimodal)
            total = torch.stack([w * part for w, part in zip(weights, parts.values(), strict=True)]).sum()
            return Loss(total, parts)

        model = job.copy_of_original()
        plan = MismatchedPlan(
            job.fit_loader(),
            job.partition.forget,
            job.partition.retain,
            batch_size=self.fit.batch_size,
            seed=derive_seed(job.seed, self.name),
        )
        job.trainer.fit(
            model, plan, objective, self.fit, seed=job.seed, name=self.name, identity=job.identity(self), memory=teacher
        )
        return model

    def _kept(self, job: UnlearningJob) -> str:
        """The modality that stays with its record."""
        output = job.reference.output(job.fit_loader().batch(job.partition.forget[:2]).to(job.trainer.device))
        names = list(output.unimodal)
        if len(names) < 2 or output.joint is None:
            raise MethodError(
                "multi_delete takes the modalities of a record apart, and this model does not join several",
                expected="two modalities at least and a fusion",
            )
        if self.kept is not None and self.kept not in names:
            raise MethodError(f"kept: the model has no modality {self.kept!r}. {did_you_mean(self.kept, names)}")
        return self.kept or names[0]
