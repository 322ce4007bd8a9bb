"""What TOFU's evaluation (:mod:`forgetmi.metrics.tofu`) says of a model: sets, forget quality, utility, figures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.figure import Figure, absent, measure
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.token_signals import TokenSignals
from forgetmi.metrics.truth_ratio import TruthRatios

Definition = Literal["paper", "open_unlearning"]
Role = Literal["forget", "retain", "real_authors", "world_facts", "holdout"]
ROLES: tuple[Role, ...] = ("forget", "retain", "real_authors", "world_facts", "holdout")
UTILITY: tuple[Role, ...] = ("retain", "real_authors", "world_facts")
_SMALLEST = math.ulp(0.0)
_EXACT = 10_000  # records on a side, up to which the test's p-value is counted out


@dataclass(frozen=True)
class TofuOptions:
    """How to evaluate.

    Attributes:
        definition: see the module's text.
        decoding: how answers are written.
        batch_size: speed and memory only.
        seed: of sampled answers.

    Raises:
        ConfigError: an unknown definition, several samples, or a batch size below 1.
    """

    definition: Definition = "paper"
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=200))
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.definition not in ("paper", "open_unlearning"):
            problems.append(f"definition must be paper or open_unlearning, not {self.definition!r}")
        if self.decoding.samples != 1:
            problems.append(f"decoding: one answer a question is scored, not {self.decoding.samples}")
        if self.batch_size < 1:
            problems.append(f"batch_size must be at least 1, not {self.batch_size}")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class TofuSet:
    """What a model made of one set.

    Attributes:
        role: what the set is for.
        name: the set's own.
        patients: of each record [N], as integer codes.
        prompts, texts: the questions and the right answers [N].
        signals: of the right answers' tokens, the one that ends them included.
        written: what the model answers [N]; nothing of a holdout set.
        ratios: truth ratios, or ``None`` where the set has no wrong answers.
        metrics: name to values.
    """

    role: Role
    name: str
    patients: NDArray[np.int64]
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    signals: TokenSignals
    written: tuple[str, ...]
    ratios: TruthRatios | None
    metrics: Mapping[str, PerExample]


@dataclass(frozen=True)
class ForgetQuality:
    """The two-sample Kolmogorov-Smirnov test of truth ratios, against a retrained model's.

    Attributes:
        p, log_p: its p-value, and the natural logarithm of that; where ``p`` underflows to 0, ``log_p`` is that of the
            smallest positive number, and the truth is below it.
        statistic: the largest distance of the two distribution functions.
        n_unlearned, n_retrained: questions with a truth ratio.
        exact: whether the p-value was counted out; else it is the asymptotic one (more than 10,000 questions).
    """

    p: float
    log_p: float
    statistic: float
    n_unlearned: int
    n_retrained: int
    exact: bool

    @property
    def sentence(self) -> str:
        """What it says, in plain words."""
        return (
            f"Truth ratios of {self.n_unlearned} questions against a retrained model's: p = {self.p:.3g} "
            f"(log p = {self.log_p:.1f}); a small p means that the two models are told apart."
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return dict(vars(self))


def forget_quality(unlearned: TruthRatios, retrained: TruthRatios) -> ForgetQuality:
    """TOFU's forget quality: high where a model's truth ratios are distributed as a retrained model's.

    R and 1/R give the same value, for only the order counts.

    Raises:
        AuditError: one side has no truth ratio, or the two were averaged in different ways.
    """
    if unlearned.averaging != retrained.averaging:
        raise AuditError(
            f"truth ratios of {unlearned.averaging} and of {retrained.averaging} means cannot be compared",
            fix="evaluate both models with the same definition",
        )
    ours, theirs = (ratios.logs[~np.isnan(ratios.logs)] for ratios in (unlearned, retrained))
    if not ours.size or not theirs.size:
        raise AuditError("forget quality needs questions with paraphrased and wrong answers, of both models")
    exact = max(ours.size, theirs.size) <= _EXACT
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        test = stats.ks_2samp(ours, theirs, method="exact" if exact else "asymp")
    p = float(test.pvalue)
    return ForgetQuality(
        p, math.log(max(p, _SMALLEST)), float(test.statistic), int(ours.size), int(theirs.size), exact and not said
    )


def harmonic_mean(values: Floats) -> Floats:
    """Over the last axis, of values of at least 0: exactly 0 where one of them is 0, NaN where one is."""
    with np.errstate(divide="ignore"):
        return np.asarray(values.shape[-1] / (1.0 / values).sum(axis=-1), dtype=np.float64)


@dataclass(frozen=True)
class TofuResult:
    """All figures of one model.

    Attributes:
        options: how it was evaluated.
        sets: role to set; only those that the dataset has.
        quality: against the retrained model, or ``None`` where none was given.
    """

    options: TofuOptions
    sets: Mapping[Role, TofuSet]
    quality: ForgetQuality | None = None

    @property
    def metrics(self) -> dict[str, PerExample]:
        """``<role>_<metric>`` to the values of each record."""
        return {metric.name: metric for role in self.sets.values() for metric in role.metrics.values()}

    @property
    def utility_parts(self) -> list[tuple[Role, PerExample]]:
        """What model utility is made of: nine figures, where the dataset has all three sets."""
        return [
            (role, self.sets[role].metrics[name])
            for role in UTILITY
            if role in self.sets
            for name in ("probability", "rouge", "truth_ratio")
            if name in self.sets[role].metrics
        ]

    @property
    def utility(self) -> float | None:
        """Model utility; ``None`` where one of its nine parts is missing."""
        parts = [metric.values[metric.known].mean() for _, metric in self.utility_parts if metric.known.any()]
        return float(harmonic_mean(np.array(parts))) if len(parts) == 9 else None

    def utility_figure(self, rng: np.random.Generator, *, n_resamples: int = 1000, level: float = 0.95) -> Figure:
        """Model utility with its interval: patients of the three sets are resampled apart.

        Raises:
            AuditError: the dataset has none of the three sets.
        """
        there = [self.sets[role] for role in UTILITY if role in self.sets]
        if not there:
            raise AuditError("model utility needs retain, real authors and world facts")
        sizes = [len(part.patients) for part in there]
        strata = np.repeat(np.arange(len(there)), sizes)
        codes = np.concatenate([part.patients for part in there])
        _, patients = np.unique(np.stack([strata, codes]), axis=1, return_inverse=True)
        bootstrap = PatientBootstrap(patients, rng, strata=strata, n_resamples=n_resamples, level=level)
        if self.utility is None:
            missing = "it is the harmonic mean of nine figures of three sets, and one of them is missing"
            return absent("model_utility", missing, bootstrap, direction="useful_above")
        places = {part.role: strata == number for number, part in enumerate(there)}

        def statistic(weights: Floats) -> Floats:
            means = []
            for role, metric in self.utility_parts:
                mine = weights[:, places[role]][:, metric.known]
                with np.errstate(invalid="ignore", divide="ignore"):
                    means.append(mine @ metric.values[metric.known] / mine.sum(axis=1))
            return harmonic_mean(np.stack(means, axis=-1))

        return measure(
            "model_utility",
            statistic,
            bootstrap,
            direction="useful_above",
            sentence="Model utility {value:.3f}: harmonic mean of nine figures; 0 where one of them is 0.",
            bounds=(0.0, 1.0),
        )

    def figures(self, rng: np.random.Generator, *, n_resamples: int = 1000, level: float = 0.95) -> dict[str, Figure]:
        """All figures with intervals by patient, the same resamples for each set's."""
        seed = int(rng.integers(2**63))
        settings: dict[str, Any] = {"n_resamples": n_resamples, "level": level}
        found = {
            metric.name: metric.figure(part.patients, np.random.default_rng(seed), **settings)
            for part in self.sets.values()
            for metric in part.metrics.values()
        }
        if any(role in self.sets for role in UTILITY):
            found["model_utility"] = self.utility_figure(np.random.default_rng(seed), **settings)
        return found

    def summary(self) -> dict[str, float]:
        """Name to mean, of all figures that there are; forget quality too."""
        found = {name: float(m.values[m.known].mean()) for name, m in self.metrics.items() if m.known.any()}
        if self.utility is not None:
            found["model_utility"] = self.utility
        if self.quality is not None:
            found |= {"forget_quality": self.quality.p, "log_forget_quality": self.quality.log_p}
        return found
