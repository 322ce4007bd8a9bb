"""What is measured of a model, rounded or not."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from notes_lm.study import Study
from torch import nn

from forgetmi.attacks.quantisation.attack import quantisation_attack
from forgetmi.attacks.quantisation.quantisers import Quantiser
from forgetmi.metrics.per_example import PerExample
from quantisation_recovery.regimes import QUANTISERS


def metrics(scores: Mapping[str, Any]) -> list[PerExample]:
    """Of each forgotten patient: identity tokens that are written, answer tokens that are right, and their loss."""
    return [
        PerExample("identity", scores["identity"], "remembers_above", "{value:.0%} of identity tokens are written"),
        PerExample("accuracy", scores["accuracy"], "remembers_above", "{value:.0%} of answer tokens are right"),
        PerExample("loss", scores["loss"], "remembers_below", "{value:.2f} nats a token", None),
    ]


def part_of(study: Study, part: str) -> Study:
    """The same study that scores one part only."""
    made = copy.copy(study)
    made.parts = {part: study.parts[part]}
    return made


def held_out(study: Study, model: nn.Module) -> float:
    """Nats a token of the answers of test patients."""
    scores = study.scores(model)
    return float(scores["test"]["loss"].mean())


def as_handed_on(models: Sequence[nn.Module], quantiser: Quantiser | None) -> list[nn.Module]:
    """Models as they would start: rounded and unpacked, where the original was."""
    return [model if quantiser is None else quantiser.quantised(model) for model in models]


def attacked(
    study: Study, original: nn.Module, unlearned: nn.Module, retrained: Sequence[nn.Module], n_resamples: int
) -> dict[str, Any]:
    """The attack's result with every quantiser, JSON-able."""
    forget = part_of(study, "forget")
    found = quantisation_attack(
        original,
        unlearned,
        retrained,
        quantisers=QUANTISERS,
        measure=lambda model: metrics(forget.scores(model)["forget"]),
        patients=np.arange(len(study.parts["forget"])),
        seed=study.seed,
        n_resamples=n_resamples,
    ).to_dict()
    return {**found, "rows": [short(row) for row in found["rows"]]}


def short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the attack with values, ends of intervals and reasons of its figures only."""
    figures = {
        name: {
            "value": figure["value"],
            "interval": {end: figure["interval"][end] for end in ("low", "high")},
            **({"reason": figure["reason"]} if figure["reason"] else {}),
        }
        for name, figure in row["figures"].items()
    }
    return {**row, "figures": figures}
