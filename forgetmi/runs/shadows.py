"""A run's shadow models: made, scored, deleted; their scores kept, shared between audits and methods, and gathered.

A shadow model is trained on the retain records and on all forget and test records of the target patients that are in
it; nothing else of these patients is used (as for retrained models). Our reading: the retain records are in every
shadow model, as they are in the original, so that the models differ by the patients whom attacks ask about; where the
test part is larger than the forget part, a shadow model has more training records than the original.

Unlearned shadows (U-LiRA, Hayes et al. 2024): a trained shadow model is made to unlearn all of its target patients,
forget and test ones, by the run's method. ``seen``: trained on the record, then unlearned it. Not ``seen``: the record
was held out *while the same method unlearned other patients* (the second of the two definitions of "never saw it"; the
first, retraining without the record, is what a run's retrained models are).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import AuditError, ConfigError, TrainingError
from forgetmi.models.classifier import MultimodalClassifier
from forgetmi.models.persistence import load_model, save_model
from forgetmi.runs import stages
from forgetmi.runs.folder import Done, RunFolder, fingerprint
from forgetmi.runs.measure import measured
from forgetmi.runs.prepare import Prepared
from forgetmi.runs.shadow_plan import TARGETS, ShadowPlan, made_with, tasks_file, write_tasks
from forgetmi.training.executors import Executor, InProcess, ProcessPool, SlurmArray, Together, Work
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.scoring import collect_signals
from forgetmi.training.seeds import derive_seed
from forgetmi.training.shadows import ShadowScores, gather, shadow_seed
from forgetmi.training.trainer import Trainer

logger = logging.getLogger("forgetmi")

SCORED = ("forget", "test", "validation")
_ENSEMBLE = 64  # heads at a time


class LeftToSchedulerError(TrainingError):
    """Shadow models are to be made elsewhere, by a script that was written; until then a run cannot go on.

    Args:
        n: how many.
        script: for ``sbatch``.
        submitted: whether it was handed to the scheduler already.
    """

    def __init__(self, n: int, script: Path, *, submitted: bool) -> None:
        self.script, self.submitted = script, submitted
        first = "wait for the array" if submitted else f"sbatch {script}"
        super().__init__(
            f"{n} shadow models are left to the scheduler",
            where=str(script),
            fix=f"{first}; when it is done, the same command goes on",
        )


def check_shadows(prepared: Prepared, run: Path) -> None:
    """Refuse now, and not after hours of training, what cannot be done.

    Raises:
        ConfigError: too few target patients, or an executor that cannot train this model.
    """
    if not prepared.config.shadow.shadows:
        return
    plan = ShadowPlan(prepared, run)
    try:
        plan.design  # noqa: B018 - it checks
    except ConfigError as error:
        raise ConfigError([f"audit.shadows: {problem}" for problem in error.problems]) from None
    if plan.executor == "ensemble" and (reason := _cannot_stack(prepared)):
        raise ConfigError(
            [f"audit.executor: ensemble cannot make these shadow models: {reason}"],
            fix="audit.executor: auto trains them one by one, audit.workers at a time",
        )


def _cannot_stack(prepared: Prepared) -> str | None:
    from forgetmi.training.ensemble import can_stack

    if prepared.config.run.precision != "fp32":
        return "it computes in fp32 only (run.precision)"
    return can_stack(prepared.fresh_model(0), prepared.config.training, prepared.task)


def make_shadows(prepared: Prepared, folder: RunFolder, *, submit: bool = False) -> None:
    """Make the shadow models whose scores are not there yet.

    Raises:
        TrainingError: one failed; those that were finished are kept.
        LeftToSchedulerError: they are to be made by a Slurm array.
        ConfigError: the executor cannot train this model.
    """
    check_shadows(prepared, folder.path)
    plan = ShadowPlan(prepared, folder.path)
    missing = plan.missing()
    if kept := plan.count - len(missing):
        logger.info("shadow models: %d of %d done already, kept", kept, plan.count)
    if not missing:
        return
    executor = _build_executor(plan, len(missing), submit, folder.progress)
    work = Work(
        title="shadow models",
        done=plan.done,
        here=lambda index: make_shadow(plan, index),
        worker="forgetmi.runs.worker:shadow_models",
        order=(prepared.config, folder.path),
        command=[sys.executable, "-P", "-m", "forgetmi.cli", "shadows", "--tasks", str(tasks_file(plan)), "--task"],
        together=lambda indices: _make_together(plan, indices, progress=folder.progress),
    )
    if isinstance(executor, SlurmArray):
        write_tasks(plan, missing)
    trainer = stages.trainer_of(prepared, folder, None)
    folder.log.event("stage_started", stage="shadows")
    with measured(trainer.device) as cost:
        left = executor.map(work, missing)
    if left:
        assert isinstance(executor, SlurmArray)
        raise LeftToSchedulerError(len(left), executor.script, submitted=submit)
    weights = "weights too" if prepared.config.shadow.keep_shadows else "weights were not"
    logger.info("shadow models: %d made in %.1f s; scores are kept, %s", len(missing), cost.seconds, weights)
    facts = {"n": plan.count, "made": len(missing), "made_here": True, "executor": plan.executor}
    folder.finish("shadows", Done(fingerprint(plan.mark(plan.kinds[-1])), cost.seconds, cost.peak_memory_mb, facts))


def _build_executor(plan: ShadowPlan, n: int, submit: bool, progress: bool) -> Executor:
    config, name = plan.prepared.config, plan.executor
    if name == "ensemble":
        return Together()
    if name == "slurm":
        gpu = {"gres": "gpu:1"} if config.run.device == "cuda" else {}
        return SlurmArray(tasks_file(plan).parent, "shadows", {**gpu, **config.shadow.slurm}, submit=submit)
    if name == "processes" and min(config.workers, n) > 1:
        return ProcessPool(config.workers, config.run.threads, progress)
    return InProcess(progress)


def make_shadow(plan: ShadowPlan, index: int) -> None:
    """Train a shadow, score it, have it unlearn where that is asked for, score it again. What is there is kept.

    Raises:
        TrainingError, MethodError, ModelError: training, unlearning or scoring failed.
    """
    prepared = plan.prepared
    wanted = _wanted(plan, index)
    if not wanted:
        return
    trainer = _trainer(plan)
    with measured(trainer.device) as cost:
        model = _kept(plan, index)
        if model is None:
            seed = shadow_seed(prepared.config.run.seed, index)
            model = prepared.fresh_model(derive_seed(seed, "weights"))
            train_by_recipe(
                model,
                task=prepared.task,
                loader=prepared.loader,
                train=_train(plan, index),
                validation=prepared.partition.validation,
                recipe=prepared.config.training,
                trainer=trainer,
                order_seed=derive_seed(seed, "order"),
                seed=seed,
                name=f"shadow {index}",
            )
        model = model.to(trainer.device).eval()
    _finish(plan, index, wanted, trainer, model, prepared.scoring_loader, lambda: model, cost.seconds)


def _train(plan: ShadowPlan, index: int) -> tuple[int, ...]:
    return tuple(sorted((*plan.prepared.partition.retain, *plan.inside(index))))


def _wanted(plan: ShadowPlan, index: int) -> list[str]:
    if not 0 <= index < plan.count:
        raise ConfigError([f"there is no shadow {index}: their numbers are 0 to {plan.count - 1} (audit.shadows)"])
    return [kind for kind in plan.kinds if ShadowScores.read(plan.folder(kind), index) is None]


def _trainer(plan: ShadowPlan) -> Trainer:
    """Without checkpoints and log: a shadow that was broken off is trained again, and may be made in many places."""
    return stages.trainer_of(plan.prepared, None, None)


def _kept(plan: ShadowPlan, index: int) -> nn.Module | None:
    """A shadow's weights, where they are kept; they were stored whole or not at all."""
    return load_model(plan.weights(index)).model if plan.weights(index).is_dir() else None


def _finish(
    plan: ShadowPlan,
    index: int,
    wanted: Sequence[str],
    trainer: Trainer,
    model: nn.Module,
    loader_of: Callable[[str], Loader],
    whole: Callable[[], nn.Module],
    seconds: float,
) -> None:
    """Score a trained shadow and write what is wanted of it.

    Args:
        plan, index, wanted, trainer: see :func:`make_shadow`.
        model: is scored; of an ensemble a head.
        loader_of: part to what makes the batches for it.
        whole: gives the whole model, for storing and unlearning.
        seconds: what training it took.
    """
    prepared = plan.prepared
    if "shadows" in wanted:
        _write(plan, "shadows", index, _signals(plan, model, loader_of, trainer.device), seconds)
    if prepared.config.shadow.keep_shadows and not plan.weights(index).is_dir():
        save_model(
            whole(),
            plan.weights(index),
            modalities=prepared.modalities,
            task_config={"name": prepared.task.name, **vars(prepared.task)},
            extra={"role": "shadow"},
        )
    if "unlearned_shadows" in wanted:
        with measured(trainer.device) as cost:
            unlearned = _unlearn(plan, index, whole(), trainer)
        _write(
            plan, "unlearned_shadows", index,
            _signals(plan, unlearned, prepared.scoring_loader, trainer.device), seconds + cost.seconds,
        )  # fmt: skip


def _unlearn(plan: ShadowPlan, index: int, model: nn.Module, trainer: Trainer) -> nn.Module:
    """The shadow, made to unlearn all target patients that it was trained on."""
    partition = plan.prepared.partition
    inside = plan.inside(index)
    outside = sorted({i for part in TARGETS for i in partition.indices(part)} - set(inside))
    shadowed = replace(partition, forget=inside, test=tuple(outside), excluded=(), leftovers={})
    seed = derive_seed(shadow_seed(plan.prepared.config.run.seed, index), "unlearned")
    job = stages.job_of(model.to(trainer.device), replace(plan.prepared, partition=shadowed), trainer, seed)
    return plan.prepared.config.method.unlearn(job).eval()


def _signals(
    plan: ShadowPlan, model: nn.Module, loader_of: Callable[[str], Loader], device: torch.device
) -> dict[str, dict[str, NDArray[Any]]]:
    prepared = plan.prepared
    return {
        part: collect_signals(
            model,
            prepared.task,
            loader_of(part),
            prepared.partition.indices(part),
            batch_size=max(prepared.config.training.batch_size, 32),
            device=device,
        )
        for part in SCORED
        if prepared.partition.indices(part)
    }


def _write(
    plan: ShadowPlan, kind: str, index: int, signals: dict[str, dict[str, NDArray[Any]]], seconds: float
) -> None:
    seen = {part: plan.seen(index, part) for part in signals}
    ShadowScores(index, plan.mark(kind), signals, seen, made_with(), round(seconds, 3)).write(plan.folder(kind))


def _make_together(plan: ShadowPlan, indices: Sequence[int], *, progress: bool) -> None:
    """Several shadows at once, as an ensemble of heads over the same frozen encoders."""
    from forgetmi.tasks.classification import ClassificationTask
    from forgetmi.training.ensemble import HeadJob, fit_heads
    from forgetmi.training.features import FeatureLoader, head_of, put_back, same_encoders

    prepared, trainer = plan.prepared, _trainer(plan)
    config, partition, device = prepared.config, prepared.partition, trainer.device
    seeds = {index: shadow_seed(config.run.seed, index) for index in indices}

    def fresh(index: int) -> MultimodalClassifier:
        return cast(MultimodalClassifier, prepared.fresh_model(derive_seed(seeds[index], "weights")))

    first = fresh(indices[0])
    trained_on = [i for part in ("retain", *SCORED) for i in partition.indices(part)]
    loader = FeatureLoader(prepared.loader, first, trained_on, recipe=config.training, device=device)
    forget = loader
    if partition.modalities:
        forget = FeatureLoader(
            prepared.scoring_loader("forget"), first, partition.forget, recipe=config.training, device=device
        )
    for start in range(0, len(indices), _ENSEMBLE):
        chosen = indices[start : start + _ENSEMBLE]
        with measured(device) as cost:
            heads = []
            for index in chosen:
                model = fresh(index)
                same_encoders(first, model)
                heads.append(head_of(model))
            fit_heads(
                heads,
                [HeadJob(_train(plan, index), derive_seed(seeds[index], "order")) for index in chosen],
                task=cast(ClassificationTask, prepared.task),
                loader=loader,
                validation=partition.validation,
                recipe=config.training,
                seed=derive_seed(config.run.seed, "shadow ensemble", chosen[0]),
                name="shadow models",
                progress=progress,
            )
        for index, head in zip(chosen, heads, strict=True):

            def whole(index: int = index, head: MultimodalClassifier = head) -> nn.Module:
                model = fresh(index)
                put_back(head, model)
                return model.to(device).eval()

            _finish(
                plan, index, _wanted(plan, index), trainer, head.to(device).eval(),
                lambda part: forget if part == "forget" else loader, whole, cost.seconds / len(chosen),
            )  # fmt: skip


def shadow_references(prepared: Prepared, folder: RunFolder) -> dict[str, dict[str, dict[str, NDArray[Any]]]]:
    """What attacks compare with: kind (``shadows``, and ``unlearned_shadows`` where asked for) to part (forget, test,
    validation) to ``nll`` [K, n], ``logits`` [K, n, C] and ``seen`` [K, n], records in the order of
    ``partition.indices(part)``. Shadows 2j and 2j + 1 are twins: who is in one is out of the other.

    Empty where no shadow models are asked for. Forget records are scored as the audit scores them.

    Raises:
        AuditError: some are missing, or they are of different settings, data or versions.
    """
    if not prepared.config.shadow.shadows:
        return {}
    plan = ShadowPlan(prepared, folder.path)
    command = f"forgetmi shadows --run {folder.path}"
    found = {kind: gather(plan.folder(kind), plan.count, plan.mark(kind), command=command) for kind in plan.kinds}
    for kind, parts in found.items():
        for part, arrays in parts.items():
            expected = np.stack([plan.seen(index, part) for index in range(plan.count)])
            if not np.array_equal(arrays["seen"], expected):
                raise AuditError(
                    f"{kind}, {part}: who was in which shadow model is not what the seed draws",
                    where=str(plan.folder(kind)),
                    fix="delete this folder and make the shadow models again",
                )
    return found
