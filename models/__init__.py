"""Models: encoders, fusion, classifiers, the published Forget-MI network, and how a model is stored.

A model that can be stored has ``kind`` (a name of :data:`MODELS`) and ``to_config()``: JSON-able settings from which
``MODELS[kind](settings, seed)`` builds the same architecture again, with no other file at hand.
"""

from __future__ import annotations

from forgetmi.registry import Registry

MODELS = Registry(
    "model kind",
    {
        "causal_lm": "forgetmi.models.causal_lm:build_causal_lm",
        "classifier": "forgetmi.models.classifier:build_model",
        "ensemble": "forgetmi.models.ensemble:build_ensemble",
        "forget_mi_reference": "forgetmi.models.forget_mi_classifier:build_forget_mi_classifier",
    },
)

__all__ = ["MODELS"]
