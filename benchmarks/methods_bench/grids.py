"""The settings that each method may choose from: four.

They were laid around the published values and moved twice towards the edge at which the criterion of
:mod:`methods_bench.tuning` (validation records) was best: after a trial on MNIST-5k, and after one on the first seed of
every data set, by one rule for all methods. No retrained model and no test record had a say.
Passes over the retain set are limited to a fifteenth of the recipe's epochs, so that a method costs about a tenth of a
retraining; passes over the forget set alone are cheap, and there are more of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forgetmi.methods import METHODS, build_method
from forgetmi.training.options import FitOptions

OURS = ("fnn", "forget_mi", "multi_gan")
"""The methods of the papers that the project exists for; the others are baselines."""

REFERENCE = "retrain"  # what all are compared with; it is no candidate
SETTINGS = 4
Options = dict[str, Any]


def candidates(method: str, recipe: FitOptions) -> list[Options]:
    """At most :data:`SETTINGS` options of a method. One that is not listed tries its default learning rate times .3, 1,
    3 and 10, or, where it has none, its defaults.
    """
    if method in _GRIDS:
        return _GRIDS[method](retain_passes(recipe), recipe.batch_size)
    fields = {field.name for field in dataclasses.fields(METHODS[method])}
    fit = getattr(build_method(method), "fit", None) if "fit" in fields else None
    if fit is None:
        return [{}]
    return [{"fit": {"lr": fit.lr * factor}} for factor in (0.3, 1.0, 3.0, 10.0)]


def retain_passes(recipe: FitOptions) -> int:
    """How often a method may visit the retain set."""
    return max(1, round(recipe.epochs / 15))


def _rates(
    rates: Sequence[float], fit: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    return [{**(options or {}), "fit": {**fit, "lr": lr}} for lr in rates]


def _over_retain(*rates: float, **options: Any) -> Callable[[int, int], list[Options]]:
    """Fits that visit the retain set, at these learning rates."""
    return lambda passes, batch: _rates(rates, {"epochs": passes, "batch_size": batch}, options)


def _over_forget(*rates: float, epochs: int = 5, **options: Any) -> Callable[[int, int], list[Options]]:
    """Fits that visit the forget set (and perhaps as many retain records), at these learning rates."""
    return lambda passes, batch: _rates(rates, {"epochs": epochs, "batch_size": 16}, options)


def _crossed(rates: Sequence[float], name: str, values: Sequence[Any], **options: Any) -> Callable[[int, int], Any]:
    """Fits over the retain set: each of the rates with each of an option's values."""
    return lambda passes, batch: [
        item for v in values for item in _rates(rates, {"epochs": passes, "batch_size": batch}, {**options, name: v})
    ]


def _values(name: str, *values: Any) -> Callable[[int, int], list[Options]]:
    """A method without a fit: each of an option's values."""
    return lambda passes, batch: [{name: value} for value in values]


def _forget_mi(passes: int, batch: int) -> list[Options]:
    rates = {"attract_noisy": (3e-3, 6e-3, 1.2e-2), "repel": (3e-4,)}
    fit = {"epochs": 5, "batch_size": 16}
    return [item for d, some in rates.items() for item in _rates(some, fit, {"direction": d})]


def _salun(passes: int, batch: int) -> list[Options]:
    return [{"options": item} for item in _over_retain(1e-4, 3e-4, 1e-3, 3e-3)(passes, batch)]


def _guarded(passes: int, batch: int) -> list[Options]:
    rates = _over_forget(5e-5, 3e-4, epochs=3)(passes, batch)
    return [{"rectify": when, "options": item} for when in ("conflict", "always") for item in rates]


def _rum(passes: int, batch: int) -> list[Options]:
    rates = _over_retain(1e-3, 3e-3, 1e-2, 3e-2)(1, batch)
    return [{"options": {"fine_tune": item, "salun": {"options": item}}} for item in rates]


def _fnn(passes: int, batch: int) -> list[Options]:
    fit = {"epochs": 1, "batch_size": batch, "lr": 1e-3}
    return [
        {"rounds": passes, "kind": kind, "step": step, "fit": fit}
        for kind in ("rank", "contrastive")
        for step in (2, 6)
    ]


_MIDDLE = (3e-4, 1e-3, 3e-3, 1e-2)
_LARGE = (1e-3, 3e-3, 1e-2, 3e-2)
_SMALL = (3e-6, 1e-5, 3e-5, 6e-5)
_WIDE = (3e-6, 2e-5, 1e-4, 5e-4)
_GRIDS: dict[str, Callable[[int, int], list[Options]]] = {
    "bad_teacher": _over_retain(*_MIDDLE, retain_share=1.0),
    "boundary_expand": _over_forget(*_WIDE),
    "boundary_shrink": _over_forget(*_SMALL),
    "chip": lambda passes, batch: [{"layers": n, "share": share} for n in (2, 6) for share in (0.1, 0.3)],
    "cf_k": _over_retain(*_MIDDLE),
    "delete": _over_forget(*_SMALL),
    "eu_k": _over_retain(*_LARGE),
    "fine_tune": _over_retain(*_LARGE),
    "fisher_forgetting": _values("alpha", 1e-8, 1e-7, 1e-6, 1e-5),
    "fnn": _fnn,
    "forget_mi": _forget_mi,
    "gradient_ascent": _over_forget(*_WIDE, epochs=3),
    "guarded": _guarded,
    "influence": _values("damping", 1e-3, 1e-2, 1e-1, 1.0),
    "l1_sparse": _crossed((2e-3, 8e-3), "alpha", (1e-4, 3e-4)),
    "multi_delete": _over_forget(6e-5, 2e-4, 6e-4, 2e-3),
    "multi_gan": _over_retain(
        2e-4,
        5e-4,
        1e-3,
        2e-3,
        inversion="runner_up",
        space="joint",
        n_synth_retain=64,
        n_synth_forget=64,
        gan={"pairs": 20, "batch_size": 32},
    ),
    "neg_grad_plus": _crossed((1e-3, 3e-3), "alpha", (0.9, 0.7)),
    "npo": _over_forget(3e-5, 8e-5, 2e-4, 6e-4),
    "random_labels": _crossed((5e-4, 2e-3), "exclude_true", (True, False)),
    "rum": _rum,
    "salun": _salun,
    "scrub": _crossed((2e-3, 6e-3), "max_epochs", (1, 2)),
    "scrub_r": _crossed((2e-3, 6e-3), "max_epochs", (1, 2)),
    "sisa": lambda passes, batch: [{}],  # exact: nothing to tune
    "ssd": _values("alpha", 1.0, 1.5, 3.0, 10.0),
    "unsir": lambda passes, batch: [{}],  # class requests only: it refuses
}
