"""Sharded training: only the shards that held the forgotten are trained again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from forgetmi.errors import ConfigError, MethodError, TrainingError
from forgetmi.methods.base import FreshModel, Needs, UnlearningJob, check_job
from forgetmi.models.ensemble import Ensemble
from forgetmi.models.weights import state_sha256
from forgetmi.training.checkpoints import CheckpointFile
from forgetmi.training.options import FitOptions
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.seeds import derive_seed


@dataclass(frozen=True)
class SISA:
    """SISA (Bourtoule et al., S&P 2021, arXiv 1912.03817): exact unlearning, sharded by patient.

    Patients are dealt to S shards and, in each, R slices, by a hash of their id: where one stands depends on no other.
    Each shard trains a model of its own, slice after slice: slice r on slices 1..r, for 2 E / (R + 1) epochs, so that
    all slices together cost E. The models answer together (:class:`~forgetmi.models.ensemble.Ensemble`).

    :meth:`train` makes such a model and keeps each slice's weights in ``store``; :meth:`unlearn` trains the retain set
    alike and takes from the store every slice whose records, and all before it, are the same. What it keeps is
    bit-identical to training without the forgotten, and kept slices that had seen them are overwritten. Without a
    store, or where the original was trained otherwise, every shard is trained anew: exact, and no cheaper than
    retraining. With one shard and one slice it is retraining with the seed ``seed``.

    Everything depends on ``seed``, and nothing on the run's: else the stored slices would be another training's.

    Attributes:
        shards, slices: S and R, >= 1.
        seed: of the shards and their training.
        weights: of the models' answers: ``uniform``, or ``proportional`` to their numbers of records.
        store: a folder for the slices' weights; it holds models trained on patients and is to be kept like them.
        fit: epochs (E), learning rate and the rest; the original's recipe where ``None``.
    """

    shards: int = 4
    slices: int = 1
    seed: int = 0
    weights: Literal["uniform", "proportional"] = "uniform"
    store: Path | None = None
    fit: FitOptions | None = None

    name: ClassVar[str] = "sisa"
    paper: ClassVar[str] = "SISA (Bourtoule et al. 2021, arXiv 1912.03817)"
    needs: ClassVar[Needs] = Needs(forget=False, fresh_model=True)

    def __post_init__(self) -> None:
        problems = [
            f"{n} must be >= 1, not {v}" for n, v in (("shards", self.shards), ("slices", self.slices)) if v < 1
        ]
        if problems:
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The ensemble of the retain set."""
        check_job(self, job)
        return self.train(job, job.partition.retain)

    def train(self, job: UnlearningJob, indices: Sequence[int]) -> nn.Module:
        """The ensemble of these records; one model where there is one shard. Shards without a record have none."""
        if job.recipe is None or job.fresh_model is None:
            raise MethodError("sisa needs fresh_model and recipe")
        members, sizes = [], []
        for shard in range(self.shards):
            slices = self._slices(job, indices, shard)
            member = self._member(job, job.fresh_model, self.fit or job.recipe, shard, slices)
            if any(slices):
                members.append(member)
                sizes.append(float(sum(map(len, slices))))
        shares = sizes if self.weights == "proportional" else [1.0] * len(members)
        labels = job.loader.labels(indices[:1])
        independent = labels is not None and labels.ndim == 2
        model = (
            members[0] if self.shards == 1 else Ensemble(members, shares, "independent" if independent else "one_of")
        )
        return model.to(job.trainer.device).train(job.model.training)

    def place(self, patient: str) -> tuple[int, int]:
        """The shard and the slice of a patient."""
        return (
            derive_seed(self.seed, "shard", patient) % self.shards,
            derive_seed(self.seed, "slice", patient) % self.slices,
        )

    def _slices(self, job: UnlearningJob, indices: Sequence[int], shard: int) -> list[list[int]]:
        slices: list[list[int]] = [[] for _ in range(self.slices)]
        for index in indices:
            at, part = self.place(job.partition.dataset[index].patient_id)
            if at == shard:
                slices[part].append(index)
        return slices

    def _member(
        self,
        job: UnlearningJob,
        fresh_model: FreshModel,
        recipe: FitOptions,
        shard: int,
        slices: Sequence[Sequence[int]],
    ) -> nn.Module:
        seed = self.seed if shard == 0 else derive_seed(self.seed, "shard", shard)
        model = fresh_model(derive_seed(seed, "retrain", "weights"))
        fit = replace(recipe, epochs=max(1, round(2 * recipe.epochs / (self.slices + 1))))
        seen: list[int] = []
        for part, records in enumerate(slices):
            seen = [*seen, *records]
            kept = self._kept(job, model, fit, shard, part, seen)
            if not seen:
                if kept is not None:  # who had been there is forgotten
                    kept.path.unlink(missing_ok=True)
                continue
            state = None if kept is None else _stored(kept)
            job.trainer.log.event("slice", shard=shard, slice=part, records=len(seen), stored=state is not None)
            if state is not None:
                model.load_state_dict(state["model"])
                continue
            train_by_recipe(
                model,
                task=job.task,
                loader=job.loader,
                train=seen,
                validation=job.partition.validation,
                recipe=fit,
                trainer=job.trainer,
                order_seed=derive_seed(seed, "retrain", "order", *([part] if part else [])),
                seed=seed if part == 0 else derive_seed(seed, "slice", part),
                name=f"{self.name}-{shard}-{part}",
                identity=job.identity(self),
            )
            if kept is not None:
                kept.save({"model": {name: tensor.cpu() for name, tensor in model.state_dict().items()}})
        return model

    def _kept(
        self, job: UnlearningJob, model: nn.Module, fit: FitOptions, shard: int, part: int, seen: Sequence[int]
    ) -> CheckpointFile | None:
        if self.store is None:
            return None
        dataset = job.partition.dataset
        records = "\n".join(dataset[index].sample_id for index in seen)
        said = (dataset.name, repr(job.task), self.slices, hashlib.sha256(records.encode()).hexdigest())
        path = Path(self.store) / f"shard-{shard}-slice-{part}.checkpoint.pt"
        start = state_sha256(model.state_dict())
        return CheckpointFile(path, options=fit, seed=self.seed, start=start, identity=repr(said))


def _stored(kept: CheckpointFile) -> dict[str, Any] | None:
    """What is there, if it is of the same slice; another one's, or a damaged file, is trained anew and overwritten."""
    try:
        return kept.load()
    except TrainingError:
        return None
