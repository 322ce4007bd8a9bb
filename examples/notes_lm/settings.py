"""The settings that each method may choose from, relative to the learning rate that the original was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from forgetmi.methods import METHODS

Options = dict[str, Any]

CONTROL = "random_share"
QUICK = ("gradient_ascent", "grad_diff", "npo", "simnpo", "grin", CONTROL)
FULL = (
    "gradient_ascent", "grad_diff", "kl_min", "npo", "simnpo", "po", "dpo", "flat", "wga", "tnpo", "satimp", "undial",
    "ce_u", "rmu", "sga", "ta", "tau", "task_vectors", "pdu", "whp", "ails", "zjuklab", "grin", "sure", "guarded",
    "rum", CONTROL,
)  # fmt: skip
"""Those whose answer changes (``po``, ``dpo``, ``flat``) learn refusals that the package ships."""

_ALONE = {  # no retain term: smaller steps; the published epochs of SGA and TA are at most so many here
    "gradient_ascent": {}, "sga": {"threshold": 0.7, "stop_below": 0.33}, "ta": {"stop_below": 0.33},
    "tau": {"threshold": 0.7, "stop_below": 0.33}, "task_vectors": {},
}  # fmt: skip
_WRAPPERS: dict[str, Options] = {
    "grin": {"share": 0.1}, "sure": {"percentile": 75.0}, "guarded": {"rectify": "conflict", "smoothing": 0.2},
    CONTROL: {"share": 0.05},
}  # fmt: skip
_MORE: dict[str, Options] = {"simnpo": {"gamma": 1.0}, "satimp": {"gamma": 1.0}, "ails": {"last_blocks": 1}}
_WIDE = ("rmu", "satimp", "zjuklab", "whp")
"""Small gradients, or an adapter: up to the recipe's own learning rate."""


def candidates(method: str, lr: float, *, epochs: int, quick: bool) -> Sequence[Options]:
    """A method's settings: learning rates, the rest as published or as named here; its defaults where it has no fit.

    Args:
        method: its name.
        lr: the recipe's.
        epochs: passes over the forget set.
        quick: two instead of three.
    """
    factors = ((0.01, 0.03, 0.1) if method in _ALONE else (0.1, 0.3, 1.0) if method in _WIDE else (0.03, 0.1, 0.3))[
        int(quick) :
    ]
    fits: list[Mapping[str, Any]] = [
        {"epochs": epochs, "batch_size": 16, "lr": round(lr * factor, 12)} for factor in factors
    ]
    if method in _WRAPPERS:
        # The control takes as many steps as the method itself: an epoch of 5 % of the records is one step.
        times = 5 if method == CONTROL else 1
        inner: list[Options] = [{"fit": {**fit, "epochs": fit["epochs"] * times}} for fit in fits]
        return [{**_WRAPPERS[method], "inner": "npo", "options": options} for options in inner]
    if method == "rum":
        # Strata from the least to the most memorised records; labels, which SalUn would change, a text has none.
        return [{"methods": ["nothing", "npo", "npo"], "options": {"npo": {"fit": dict(fit)}}} for fit in fits]
    if method == "whp":
        reinforce = {"epochs": epochs, "batch_size": 16, "lr": lr * 0.1}
        return [{"reinforce": reinforce, "fit": dict(fit)} for fit in fits]
    if method == "ails":  # one forget record and seven retained ones a step, as published
        fits = [{**fit, "batch_size": 1} for fit in fits]
    if "fit" not in {field.name for field in dataclasses.fields(METHODS[method])}:
        return [{}]
    return [{**_MORE.get(method, {}), **_ALONE.get(method, {}), "fit": dict(fit)} for fit in fits]
