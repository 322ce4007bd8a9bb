"""Relearning: a few of the forgotten records are taught again; do the others come back with them?

A model that only hides what it knows gives it back after a few steps on a few records, although those steps taught
nothing of the rest. A retrained model that is taught the same learns the taught records, and of the rest only what
they have in common. So what counts is the *excess*: how much better the unlearned model knows the rest than a retrained
model that took the same steps on the same records in the same order. (The attack: Hu et al. 2024, arXiv 2406.13356, and
Lynch et al. 2024, arXiv 2402.16835; comparing at the same step with retrained models, and the rest apart from what is
taught, are our readings.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.membership.result import patient_codes
from forgetmi.attacks.relearning_result import Curve, RelearningOptions, RelearningResult
from forgetmi.batch import Batch, Loader
from forgetmi.errors import AuditError, ModelError, TrainingError
from forgetmi.metrics.per_example import PerExample
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.lora import LoraOptions
from forgetmi.tasks.base import Task
from forgetmi.training.losses import task_objective
from forgetmi.training.modes import preserved_mode
from forgetmi.training.plans import ShuffledPlan, Step
from forgetmi.training.scoring import collect_signals
from forgetmi.training.seeds import derive_seed, numpy_generator
from forgetmi.training.trainer import Trainer

__all__ = ["Measure", "RelearningOptions", "choose_records", "probability_measure", "relearn"]

Measure = Callable[[nn.Module, Sequence[int]], PerExample]
"""What is measured of some records under a model, which is in eval mode and to be left as it is."""


def relearn(
    models: Mapping[str, nn.Module],
    task: Task,
    loader: Loader,
    forget: Sequence[int],
    *,
    options: RelearningOptions | None = None,
    trainer: Trainer,
    seed: int,
    pool: Sequence[int] = (),
    measure_by: Measure | None = None,
) -> RelearningResult:
    """Teach every model the same records by the same steps, and measure what it knows.

    Args:
        models: ``original``, ``unlearned``, ``retrained-1``, ...; left as they are. Each is copied while it is taught,
            one at a time; an adapter is merged first.
        task, loader: the training loss, and the records.
        forget: positions of the forget records.
        options: see :class:`RelearningOptions`.
        trainer: the loop. No checkpoint is written: it would hold what is to be forgotten.
        seed: of the choice of records, of their order, and of dropout, if any; the same for all models.
        pool: positions that ``related`` or ``control`` records are drawn from.
        measure_by: what is measured; :func:`probability_measure` by default.

    Raises:
        AuditError: there are too few records to teach some and to measure others.
        ModelError: weights of 4 bits cannot be taught without an adapter.
    """
    options = options or RelearningOptions()
    taught, rest = choose_records(loader, forget, options, pool=pool, seed=seed)
    by = measure_by or probability_measure(task, loader, trainer, options.fit.batch_size)
    trainer = copy.copy(trainer)
    trainer.checkpoint_dir = None
    curves = {
        name: _curve(name, model, task, loader, taught, rest, options, trainer, seed, by)
        for name, model in models.items()
    }
    patients = [patient_codes([loader.dataset[i].patient_id for i in part]) for part in (taught, rest)]
    return RelearningResult(options, curves, tuple(taught), tuple(rest), *patients)


def choose_records(
    loader: Loader, forget: Sequence[int], options: RelearningOptions, *, pool: Sequence[int] = (), seed: int
) -> tuple[list[int], list[int]]:
    """Positions of the records to teach, and of the forget records to measure.

    Raises:
        AuditError: nothing would be taught or measured, or the pool holds records to forget.
    """
    rng, forget = numpy_generator(seed, "relearning"), sorted(forget)
    if options.what != "forget":
        inside = set(pool) & set(forget)
        if inside:
            raise AuditError(
                f"{len(inside)} records of the pool are forget records", fix="set what: forget to teach those"
            )
        if not pool or not forget:
            raise AuditError(
                f"there are {len(pool)} {options.what} records to teach and {len(forget)} forget records to measure"
            )
        drawn = rng.permutation(np.asarray(sorted(pool)))[: options.n_records]
        return sorted(drawn.tolist()), forget
    patients = [loader.dataset[i].patient_id for i in forget]
    chosen: set[str] = set()
    for patient in rng.permutation(np.unique(patients)).tolist():
        if sum(p in chosen for p in patients) >= options.n_records:
            break
        chosen.add(patient)
    taught = [i for i, patient in zip(forget, patients, strict=True) if patient in chosen]
    rest = [i for i, patient in zip(forget, patients, strict=True) if patient not in chosen]
    if not taught or not rest:
        raise AuditError(
            f"{len(forget)} forget records of {len(set(patients))} patients: teaching {options.n_records} records, "
            "whole patients, leaves none to measure",
            fix="lower n_records, or teach other records (what: related)",
        )
    return taught, rest


def probability_measure(task: Task, loader: Loader, trainer: Trainer, batch_size: int) -> Measure:
    """The probability of each record's label; of a language model, exp(-mean nll) over its answer's tokens.

    Not the loss: a model that was sure of something else loses without bound, and a mean of losses is a mean of those.
    """

    def by(model: nn.Module, indices: Sequence[int]) -> PerExample:
        found = collect_signals(model, task, loader, indices, batch_size=batch_size, device=trainer.device)
        values = np.exp(-found["nll"].astype(np.float64) / found.get("n_tokens", np.ones(1)))
        sentence = "The mean probability of a record (a language model: of a token of it) is {value:.3f}."
        return PerExample("probability", values, "remembers_above", sentence, (0.0, 1.0), "exp(-mean nll)")

    return by


class _FirstSteps:
    """So many steps over shuffled records, as one epoch."""

    def __init__(self, visits: ShuffledPlan, n_steps: int) -> None:
        self.visits, self.n_steps = visits, n_steps

    def steps(self, epoch: int) -> list[Step]:
        """One pass over the records after another."""
        found: list[Step] = []
        while len(found) < self.n_steps:
            found += self.visits.steps(len(found))
        return found[: self.n_steps]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """Clean batches."""
        return self.visits.load(step, epoch)


def _curve(
    name: str,
    model: nn.Module,
    task: Task,
    loader: Loader,
    taught: Sequence[int],
    rest: Sequence[int],
    options: RelearningOptions,
    trainer: Trainer,
    seed: int,
    by: Measure,
) -> Curve:
    pupil, wanted = _pupil(model, options.lora, seed).to(trainer.device), set(options.steps)
    points: list[tuple[PerExample, PerExample]] = []
    done, stopped = 0, None

    def look() -> None:
        with preserved_mode(pupil), torch.no_grad():
            pupil.eval()
            points.append((by(pupil, rest), by(pupil, taught)))

    def after_step(_: Mapping[str, float]) -> None:
        nonlocal done
        done += 1
        if done in wanted:
            look()

    look()
    fit = replace(options.fit, epochs=1, select="last", patience=None)
    visits = ShuffledPlan(loader, taught, batch_size=fit.batch_size, seed=derive_seed(seed, "relearning order"))
    plan, objective = _FirstSteps(visits, options.steps[-1]), task_objective(task, "records")
    try:
        trainer.fit(pupil, plan, objective, fit, seed=seed, name=f"relearning-{name}", on_step=after_step)
    except (TrainingError, ModelError) as error:
        stopped = f"stopped after {done} steps: {error.what}"
    return Curve(tuple(point[0] for point in points), tuple(point[1] for point in points), stopped)


def _pupil(model: nn.Module, lora: LoraOptions | None, seed: int) -> nn.Module:
    """A copy that may be taught: all of its weights, or an adapter on them."""
    if isinstance(model, CausalLM):
        if model.is_quantised and lora is None:
            raise ModelError("weights of 4 bits cannot be taught", fix="set lora, to teach an adapter")
        if model.has_adapter:
            model = model.without_adapter(merge=True)
        if lora is not None:
            return model.adapted(lora, derive_seed(seed, "relearning adapter"))
    elif lora is not None:
        raise ModelError("only language models are taught by an adapter", fix="leave lora out")
    return copy.deepcopy(model).requires_grad_()
