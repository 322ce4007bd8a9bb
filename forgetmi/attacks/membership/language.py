"""Threshold attacks on signals of language models, by :mod:`forgetmi.attacks.membership.language_signals`.

The attack ``loss`` serves language models as it is. What is known as the *reference* attack, the loss less that of
another model, is ``calibrated``: with one reference model it is that difference, with several (the retrained models)
the difference from their mean. Scores of a patient's documents together: :mod:`forgetmi.attacks.membership.patients`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forgetmi.attacks.membership.population import ThresholdAttack
from forgetmi.metrics.roc import Floats


class ZlibAttack(ThresholdAttack):
    """The likelihood for how far zlib can compress the text, which needs no model (Carlini et al. 2021)."""

    name = signal = "zlib"
    signals = ("zlib",)
    higher = True


class MinKAttack(ThresholdAttack):
    """The likelihood of the least likely tokens: an unseen text has some that surprise (Shi et al. 2024)."""

    name = signal = "min_k"
    signals = ("min_k",)
    higher = True


class MinKPlusPlusAttack(ThresholdAttack):
    """The same, each token compared with what the model itself would write there (Zhang et al. 2025)."""

    name = signal = "min_k_plus_plus"
    signals = ("min_k_plus_plus",)
    higher = True


class GradientNormAttack(ThresholdAttack):
    """The norm of the record's gradient, which is small where a model was trained. It takes the model's weights."""

    name = signal = "gradient_norm"
    signals = ("gradient_norm",)


@dataclass(frozen=True)
class PerturbationAttack(ThresholdAttack):
    """How much likelier a text is than texts like it (DetectGPT, Mitchell et al. 2023; as an attack on unlearning,
    Barbulescu and Triantafillou 2024).

    Attributes:
        absolute: score the distance either way, as in the published attack on unlearning: a text that was pushed below
            texts like it gives itself away too. Off: members are likelier than texts like theirs.
    """

    name = signal = "perturbation"
    signals = ("perturbation",)
    higher = True

    absolute: bool = True

    def scored(self, signal: Floats) -> tuple[Floats, str]:
        """As of any threshold attack, or the distance."""
        return (np.abs(signal), "score = |perturbation|") if self.absolute else super().scored(signal)
