"""Originals, retrained and unlearned models of one request, their scores and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from forgetmi.audit.scores import ModelScores, PartInfo
from forgetmi.errors import ForgetMIError, MethodError, ModelError, TrainingError
from forgetmi.methods import build_method
from forgetmi.methods.base import UnlearningJob
from forgetmi.methods.retrain import Retrain
from forgetmi.models.weights import state_sha256
from forgetmi.partition import PARTS, Partition
from forgetmi.runs.measure import measured
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.reference import Reference
from forgetmi.training.scoring import collect_signals
from forgetmi.training.seeds import derive_seed
from forgetmi.training.trainer import Trainer
from methods_bench.setups import Workplace

SCORING_BATCH = 256
Scores = dict[str, dict[str, NDArray[Any]]]


class Request:
    """One forget request on one data set, and everything that is trained for it.

    Args:
        place: the data set.
        share: of the training patients who ask to be forgotten.
        seed: of the draw and of every model.
        device: for torch.
    """

    def __init__(self, place: Workplace, share: float, seed: int, device: str) -> None:
        self.place, self.seed = place, seed
        self.partition = place.partition(share, seed)
        self.trainer = Trainer(device=device, progress=False)

    def train_original(self) -> tuple[nn.Module, dict[str, Any]]:
        """The model that knows everybody, and what it cost."""
        model = self.place.fresh_model(derive_seed(self.seed, "original", "weights"))

        def work() -> nn.Module:
            train_by_recipe(
                model,
                task=self.place.task,
                loader=self.place.loader,
                train=self.partition.train,
                validation=self.partition.validation,
                recipe=self.place.setup.recipe,
                trainer=self.trainer,
                order_seed=derive_seed(self.seed, "original", "order"),
                seed=derive_seed(self.seed, "original"),
                name="original",
            )
            return model.eval()

        return self.timed(work)

    def retrain(self, original: nn.Module, index: int) -> tuple[nn.Module, dict[str, Any]]:
        """A model that never saw the forget set."""
        job = self.job(original, self.partition, derive_seed(self.seed, "retrained", index) % 2**32)
        return self.timed(lambda: Retrain().unlearn(job))

    def unlearn(
        self, original: nn.Module, method: str, options: Mapping[str, Any], partition: Partition | None = None
    ) -> tuple[nn.Module | None, dict[str, Any]]:
        """The unlearned model and what it cost; no model, and why, where the method refuses or breaks."""
        job = self.job(original, partition or self.partition, derive_seed(self.seed, "unlearned"))
        try:
            model, cost = self.timed(lambda: build_method(method, options).unlearn(job))
        except MethodError as error:
            return None, {"status": "refused", "reason": one_line(error)}
        except (TrainingError, ModelError) as error:
            return None, {"status": "diverged", "reason": one_line(error)}
        return model, {"status": "done", **cost}

    def job(self, original: nn.Module, partition: Partition, seed: int) -> UnlearningJob:
        """What a method is given."""
        return UnlearningJob(
            model=original,
            partition=partition,
            task=self.place.task,
            loader=self.place.loader,
            trainer=self.trainer,
            seed=seed,
            reference=Reference(original, self.place.task, self.trainer.device),
            fresh_model=self.place.fresh_model,
            recipe=self.place.setup.recipe,
        )

    def without_test(self) -> Partition:
        """The partition that tuning sees: no test record is in it."""
        return replace(self.partition, test=())

    def timed(self, work: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
        """A model, with wall and processor seconds and the process's (or GPU's) peak memory."""
        started = time.process_time()
        with measured(self.trainer.device) as cost:
            model = work()
        processor = round(time.process_time() - started, 3)
        return model, {"seconds": cost.seconds, "cpu_seconds": processor, "peak_mb": cost.peak_memory_mb}

    def scores(self, model: nn.Module) -> Scores:
        """Of all parts, as the audit takes them.

        Raises:
            ModelError: they are not finite.
        """
        return {
            part: collect_signals(
                model,
                self.place.task,
                self.place.loader,
                self.partition.indices(part),
                batch_size=SCORING_BATCH,
                device=self.trainer.device,
            )
            for part in PARTS
        }

    def parts(self) -> dict[str, PartInfo]:
        """Labels and patients of all parts."""
        dataset = self.place.dataset
        codes = {patient: code for code, patient in enumerate(sorted(dataset.patients()))}
        found = {}
        for part in PARTS:
            records = [dataset[i] for i in self.partition.indices(part)]
            labels = np.array([cast(int, r.label) for r in records])
            found[part] = PartInfo(labels, np.array([codes[r.patient_id] for r in records], dtype=np.int64))
        return found


def as_scores(role: str, scores: Scores, model: nn.Module | None = None, index: int = 0) -> ModelScores:
    """What the audit measures."""
    digest = "" if model is None else state_sha256(model.state_dict())
    return ModelScores(role=role, parts=scores, weights_sha256=digest, index=index)  # type: ignore[arg-type]


def one_line(error: ForgetMIError) -> str:
    """The error's first line."""
    return str(error).splitlines()[0]
