"""Forgetting neural networks: units fade along an Ebbinghaus curve, and the retain set repairs what it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.parts.edits.folding import Fold, find_folds, fold_factors, hidden_layers, run_order
from forgetmi.parts.edits.forgetting_layers import (
    ForgettingLayer,
    fixed_taus,
    insert_forgetting,
    matching_modules,
    mean_activations,
    random_taus,
    ranked_taus,
    remove_forgetting,
)
from forgetmi.parts.selection.alike import alike_batches
from forgetmi.parts.selection.covering import covering
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import torch_generator

Layers = Mapping[str, ForgettingLayer]
Taus = dict[str, Tensor]


@dataclass(frozen=True)
class FNN:
    """Forgetting layers behind hidden layers (Hatua et al.), forget and repair by turns; then folded away.

    Each round lets the time ``t`` go on by ``step``, so that the unit i of a layer says ``exp(-t / tau_i) h_i``, and
    then trains on the retain set for ``fit.epochs`` epochs, the layers in their places. All rounds are one fit: without
    time it is fine-tuning for ``rounds * fit.epochs`` epochs, exactly. In the end the factors go
    into the weights (:mod:`forgetmi.parts.edits.folding`): the unlearned model has the original's architecture.
    Kinds and formulas: :mod:`forgetmi.parts.edits.forgetting_layers`. Only ``tau_i`` depends on the forget records, by
    their mean activations, and no label is looked at; they are in no batch of the repair.

    Our reading, as the paper's body could not be read: every default; that a round is one unit of time with one repair
    pass; that activations are measured on the original, once (``rank_again`` measures before each round); a layer that
    no forget record reaches does not fade where it is ranked.

    Attributes:
        kind: ``fixed``, ``random``, ``rank``, or ours: ``contrastive``.
        layers: names of modules, or patterns with ``*`` and ``**``, behind which the layers stand; none means every
            linear and convolutional layer that is not as wide as the output (behind its norm, where one comes next),
            and where fading changes something.
        tau: time constant of ``fixed``, in rounds.
        tau_min, tau_max: smallest and largest time constant of the other kinds.
        top_share: ours: the share of the units, by rank, that fades at all; in (0, 1].
        rounds: how often the time goes on.
        step: by how much; 0 forgets nothing.
        rank_again: rank the units anew before each round. The exponents of the rounds add up.
        fit: one round's repair; ``epochs: 0`` repairs nothing.
    """

    kind: Literal["fixed", "random", "rank", "contrastive"] = "rank"
    layers: tuple[str, ...] = ()
    tau: float = 20.0
    tau_min: float = 5.0
    tau_max: float = 100.0
    top_share: float = 1.0
    rounds: int = 3
    step: float = 1.0
    rank_again: bool = False
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=1, lr=1e-4))

    name: ClassVar[str] = "fnn"
    paper: ClassVar[str] = "Forgetting Neural Networks (Hatua et al. 2024, arXiv 2410.22374; ICAART 2026)"
    needs: ClassVar[Needs] = Needs(all_weights=True)

    def __post_init__(self) -> None:
        ranked = self.kind in ("rank", "contrastive")
        checks = {
            "tau must be > 0": self.tau > 0,
            "tau_min must be > 0": self.tau_min > 0,
            "tau_min must not be above tau_max": self.tau_min <= self.tau_max,
            "tau_max must be finite where it spreads over units": self.kind == "fixed" or math.isfinite(self.tau_max),
            "top_share must be in (0, 1]": 0 < self.top_share <= 1,
            "top_share and rank_again need kind: rank or contrastive": ranked
            or (self.top_share == 1 and not self.rank_again),
            "rounds must be >= 1": self.rounds >= 1,
            "step must be finite and >= 0": math.isfinite(self.step) and self.step >= 0,
        }
        problems = unmet(checks)
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model, without a forgetting layer in it."""
        check_job(self, job)
        model = job.copy_of_original()
        tried = covering(job.fit_loader(), (*job.partition.forget, *job.partition.retain), each=4)
        probe = [batch.to(job.trainer.device) for batch in job.fit_loader().batches(tried, 8)]
        layers, folds = self._insert(job, model, probe)
        first = self._taus(job, model, layers)

        def taus(number: int) -> Taus:
            return self._taus(job, model, layers) if number and self.rank_again else first

        clock = _Clock(layers, self.step, taus)
        if self.fit.epochs:
            job.trainer.fit(
                model,
                job.visits("retain", self.fit.batch_size),
                task_objective(job.task, "retain"),
                replace(self.fit, epochs=self.rounds * self.fit.epochs),
                seed=job.seed,
                name=self.name,
                identity=job.identity(self),
                memory=clock,
                on_epoch=lambda epoch: clock.reach(epoch // self.fit.epochs),
            )
        else:
            for number in range(self.rounds):
                clock.reach(number)
        faded = {fold.layer: layers[fold.layer].phi() for fold in folds if layers[fold.layer].decay is not None}
        fold_factors(model, folds, layers, probe, job.task.output)
        remove_forgetting(model)
        smallest = min((float(phi.min()) for phi in faded.values()), default=1.0)
        job.trainer.log.event(
            "forgetting_layers",
            kind=self.kind,
            folded={fold.layer: f"{fold.side} of {fold.into}" for fold in folds},
            units=sum(map(len, faded.values())),
            smallest_factor=smallest,
        )
        return model

    def _insert(self, job: UnlearningJob, model: nn.Module, probe: list[Batch]) -> tuple[Layers, list[Fold]]:
        """The layers, and where each will be folded: refused now rather than after the training."""
        ask = job.task.output
        order = run_order(model, probe, ask)
        if self.layers:
            names = matching_modules(model, self.layers)
        else:
            names = hidden_layers(model, order, job.reference.output(probe[0]).logits.shape[-1])
        layers = insert_forgetting(model, names)
        generator = torch_generator(job.seed, self.name, "folds")
        folds, refused = find_folds(model, layers, order, probe, ask, generator)
        if not folds or (refused and self.layers):
            what = "the model has no hidden layer whose weights may change and are its own"
            if names:
                what = f"{len(refused)} forgetting layers cannot be folded, so no model could be stored without them"
            raise MethodError(
                "".join([what, *(f"\n  {name}: {reason}" for name, reason in refused.items())]),
                fix="put layers behind linear or convolutional layers, or behind their norms, whose weights may change",
            )
        if refused:
            job.trainer.log.event("forgetting_layers_left_out", layers=refused)
        return {fold.layer: layers[fold.layer] for fold in folds}, folds

    def _taus(self, job: UnlearningJob, model: nn.Module, layers: Layers) -> Taus:
        """Layer name to time constants [n]."""
        units = {name: layer.units or 0 for name, layer in layers.items()}
        if self.kind == "fixed":
            return {name: fixed_taus(n, self.tau) for name, n in units.items()}
        if self.kind == "random":
            return {
                name: random_taus(n, self.tau_min, self.tau_max, torch_generator(job.seed, self.name, "taus", name))
                for name, n in units.items()
            }
        scores = mean_activations(model, layers, self._batches(job, job.partition.forget), job.task.output)
        if self.kind == "contrastive":
            others = mean_activations(model, layers, self._batches(job, job.partition.retain), job.task.output)
            for name, score in scores.items():
                other = others[name]
                scores[name] = score if score is None or other is None else score - other
        return {
            name: ranked_taus(score, self.tau_min, self.tau_max, self.top_share)
            for name, score in scores.items()
            if score is not None
        }

    def _batches(self, job: UnlearningJob, indices: tuple[int, ...]) -> Iterator[Batch]:
        for batch in alike_batches(job.fit_loader(), indices, self.fit.batch_size):
            yield batch.to(job.trainer.device)


class _Clock:
    """Lets time go by, once a round, and remembers how far it is when a fit is resumed."""

    def __init__(self, layers: Layers, step: float, taus: Callable[[int], Taus]) -> None:
        self.layers, self.step, self.taus, self.rounds = layers, step, taus, 0

    def reach(self, number: int) -> None:
        """Be in this round: its time has gone by."""
        if number < self.rounds:
            return
        for name, tau in self.taus(number).items():
            self.layers[name].fade(tau, self.step)
        self.rounds = number + 1

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "decay": {name: layer.decay for name, layer in self.layers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rounds = state["rounds"]
        for name, decay in state["decay"].items():
            self.layers[name].decay = decay
