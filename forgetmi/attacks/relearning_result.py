"""What relearning is asked to do, and what it found: curves of what models know, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from forgetmi.errors import AuditError, ConfigError, unmet
from forgetmi.metrics.figure import Figure, absent
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, Ints
from forgetmi.models.lora import LoraOptions
from forgetmi.training.options import FitOptions

STEPS = (0, 1, 2, 5, 10, 20, 50)
What = Literal["forget", "related", "control"]


def _fit() -> FitOptions:
    return FitOptions(batch_size=4, lr=1e-4, weight_decay=0.0, mode="eval")


@dataclass(frozen=True)
class RelearningOptions:
    """What is taught, and how.

    Attributes:
        what: ``forget``: some of the forget records, the rest is measured; ``related``: other records (of the same
            patients, on the same matter); ``control``: records that have nothing to do with them (retained ones).
        n_records: how many are taught. Of forget records, whole patients until there are so many, so that what comes
            back is not of the people who were taught.
        steps: after which it is measured; 0 is before.
        fit: optimiser, lr, batch size, ...; ``epochs``, ``select`` and ``patience`` play no part. By default without
            dropout.
        lora: train an adapter of this form in place of all weights (language models): a large model is then held once.
    """

    what: What = "forget"
    n_records: int = 8
    steps: tuple[int, ...] = STEPS
    fit: FitOptions = field(default_factory=_fit)
    lora: LoraOptions | None = None

    def __post_init__(self) -> None:
        checks = {
            f"what must be forget, related or control, not {self.what!r}": self.what
            in ("forget", "related", "control"),
            f"n_records must be at least 1, not {self.n_records}": self.n_records >= 1,
            f"steps must rise from 0 and hold one more, not {list(self.steps)}": len(self.steps) > 1
            and self.steps[0] == 0
            and all(a < b for a, b in pairwise(self.steps)),
        }
        if problems := unmet(checks):
            raise ConfigError(problems)


@dataclass(frozen=True)
class Curve:
    """What one model knew after each of the steps.

    Attributes:
        rest: of the forget records that were not taught, one entry a step.
        taught: of those that were.
        stopped: why it has fewer entries than there are steps (training diverged).
    """

    rest: tuple[PerExample, ...]
    taught: tuple[PerExample, ...]
    stopped: str | None = None


class Reached(NamedTuple):
    """The first of the measured steps at which a level is reached, or why there is none."""

    step: int | None
    reason: str | None = None


@dataclass(frozen=True)
class RelearningResult:
    """Curves of all models, and what they come to.

    Attributes:
        options: of the attack.
        curves: model to curve; retrained models under names that begin with ``retrained``.
        taught, rest: positions of the records.
        taught_patients, rest_patients: their patients, as arbitrary numbers.
    """

    options: RelearningOptions
    curves: Mapping[str, Curve]
    taught: tuple[int, ...]
    rest: tuple[int, ...]
    taught_patients: Ints
    rest_patients: Ints

    @property
    def retrained(self) -> list[str]:
        """Names of the retrained models."""
        return [name for name in self.curves if name.startswith("retrained")]

    def figures(
        self,
        model: str,
        rng: np.random.Generator,
        *,
        of: Literal["rest", "taught"] = "rest",
        n_resamples: int = 1000,
        level: float = 0.95,
    ) -> list[Figure]:
        """A model's curve, with intervals by patient: one figure a step that it took."""
        patients = self.rest_patients if of == "rest" else self.taught_patients
        points: tuple[PerExample, ...] = getattr(self.curves[model], of)
        seed = int(rng.integers(2**63))  # the same resamples at every step
        settings: Any = {"n_resamples": n_resamples, "level": level}
        return [point.figure(patients, np.random.default_rng(seed), **settings) for point in points]

    def excess(
        self, rng: np.random.Generator, *, model: str = "unlearned", n_resamples: int = 1000, level: float = 0.95
    ) -> list[Figure]:
        """How much better a model knows the rest than retrained models that took the same steps: one figure a step.

        Above 0: better, whatever the measure's direction. Against the mean of the retrained models (without the model
        itself, where it is one of them); the interval is by patient. How retrained models differ from each other:
        :meth:`null_excess`.

        Raises:
            AuditError: there is no retrained model to compare with.
        """
        others = self._others(model)
        seed = int(rng.integers(2**63))
        settings: Any = {"n_resamples": n_resamples, "level": level}
        numbers = range(len(self.options.steps))
        return [self._excess_at(n, model, others, np.random.default_rng(seed), **settings) for n in numbers]

    def null_excess(self) -> Floats:
        """The excess of each retrained model over the others [K, steps]: what is found where nothing is hidden.

        NaN where one of them stopped.

        Raises:
            AuditError: there are fewer than two.
        """
        known = {name: self._levels(name) for name in self.retrained}
        if len(known) < 2:
            raise AuditError(
                f"{len(known)} retrained models do not show how such models differ", expected="two or more"
            )
        found = [levels - np.mean([v for n, v in known.items() if n != name], axis=0) for name, levels in known.items()]
        return np.stack(found)

    def steps_to_original(self, model: str = "unlearned") -> Reached:
        """The step at which a model knows the rest as well as the original did before any step."""
        return self._first(model, np.full(len(self.options.steps), self._levels("original")[0]))

    def steps_half_way(self, model: str = "unlearned") -> Reached:
        """The step at which a model stands half way between retrained models at that step and the original before any.

        There is none from where retrained models know the rest as well as the original did: that is learned, not
        remembered.
        """
        goal, floor = self._levels("original")[0], np.mean([self._levels(n) for n in self._others(model)], axis=0)
        return self._first(model, np.where(floor < goal, (floor + goal) / 2.0, np.nan))

    def to_dict(self) -> dict[str, Any]:
        """Means of all curves and when levels are reached, JSON-able."""

        def means(points: tuple[PerExample, ...]) -> list[float | None]:
            return [float(np.mean(p.values[p.known])) if p.known.any() else None for p in points]

        reached = {}
        if "original" in self.curves:
            others = [name for name in self.curves if name != "original"]
            reached["original"] = {name: self.steps_to_original(name)._asdict() for name in others}
            if "unlearned" in self.curves and self.retrained:
                reached["half_way"] = {"unlearned": self.steps_half_way()._asdict()}
        return {
            "what": self.options.what,
            "steps": list(self.options.steps),
            "n_taught": len(self.taught),
            "n_rest": len(self.rest),
            "curves": {
                name: {"rest": means(curve.rest), "taught": means(curve.taught), "stopped": curve.stopped}
                for name, curve in self.curves.items()
            },
            "reached": reached,
        }

    def _others(self, model: str) -> list[str]:
        others = [name for name in self.retrained if name != model]
        if not others:
            raise AuditError(
                "relearning is judged against retrained models that are taught the same, and there is none",
                fix="pass one or more models whose names begin with 'retrained'",
            )
        return others

    def _values(self, model: str, number: int) -> Floats | None:
        """Of the rest after the step of that number [n], higher = better known; ``None`` where it did not get there."""
        points = self.curves[model].rest
        return _better(points[number]) if number < len(points) else None

    def _levels(self, model: str) -> Floats:
        """Means over the rest [steps], higher = better known; NaN where the model did not get there."""
        if model not in self.curves:
            raise AuditError(f"there is no curve of the {model} model", expected=f"given: {', '.join(self.curves)}")
        found = [self._values(model, number) for number in range(len(self.options.steps))]
        return np.array([np.nan if v is None or np.isnan(v).all() else np.nanmean(v) for v in found])

    def _excess_at(
        self, number: int, model: str, others: list[str], rng: np.random.Generator, **settings: Any
    ) -> Figure:
        step = self.options.steps[number]
        name = f"relearning_excess_{step}"
        values = {other: self._values(other, number) for other in (model, *others)}
        late = [other for other, found in values.items() if found is None]
        if late:
            reason = "; ".join(f"{other}: {self.curves[other].stopped}" for other in late)
            bootstrap = PatientBootstrap(self.rest_patients, rng, **settings)
            return absent(name, reason, bootstrap, direction="remembers_above")
        known = {other: found for other, found in values.items() if found is not None}
        gap = known[model] - np.mean([known[other] for other in others], axis=0)
        sentence = (
            f"After {step} steps the rest is known {{value:+.3f}} better than by retrained models taught the same."
        )
        return PerExample(name, gap, "remembers_above", sentence, None).figure(self.rest_patients, rng, **settings)

    def _first(self, model: str, goals: Floats) -> Reached:
        levels, steps = self._levels(model), self.options.steps
        with np.errstate(invalid="ignore"):
            there = np.flatnonzero(levels >= goals)
        if there.size:
            return Reached(steps[int(there[0])])
        stopped = self.curves[model].stopped
        late = stopped or ("retrained models had learned as much" if np.isnan(goals[-1]) else "")
        return Reached(None, f"not within {steps[-1]} steps" + (f": {late}" if late else ""))


def _better(point: PerExample) -> Floats:
    """Values [n], higher = better known."""
    return point.values if point.direction in ("remembers_above", "useful_above") else -point.values
