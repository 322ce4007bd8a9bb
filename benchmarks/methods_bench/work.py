"""Cells: one JSON file each under the work folder, done once and found again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.audit.measurements import Measurement
from forgetmi.errors import ModelError
from forgetmi.files import atomic_write, write_json
from forgetmi.runs.folder import fingerprint
from methods_bench.figures import compare, measured_model
from methods_bench.grids import candidates
from methods_bench.models import Request, Scores, as_scores, one_line
from methods_bench.setups import SETUPS, Setup, Workplace
from methods_bench.sources import NotHereError, describe
from methods_bench.tuning import tune

logger = logging.getLogger("methods_bench")

_VERSION = 1  # raised when a cell comes to mean something else
Cell = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        work: where cells are kept.
        data: the ``--data`` folder.
        device: for torch.
        methods: names.
        seeds: of requests and models; settings are chosen on the first.
        sizes: shares of the training patients.
        retrains: retrained models for each request.
    """

    work: Path
    data: Path | None
    device: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    sizes: tuple[float, ...]
    retrains: int

    def folder(self, dataset: str, share: float) -> Path:
        """Where the cells of a data set and forget size stand."""
        return self.work / dataset / f"forget-{share:g}"


def cached(path: Path, depends: Any, make: Callable[[], Cell]) -> Cell:
    """The cell at ``path`` if it is there and was made from the same things; else made now and kept.

    A cell that is interrupted leaves nothing; a damaged file is made again.
    """
    mark = fingerprint(_VERSION, depends)
    if (found := stored(path)) is not None and found["fingerprint"] == mark:
        return found
    cell = {"fingerprint": mark, **make()}
    write_json(path, cell)
    return cell


def stored(path: Path) -> Cell | None:
    """The cell at ``path``, if one is there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "fingerprint" in found else None


def open_place(setup: Setup, plan: Plan) -> tuple[Workplace | None, Cell]:
    """The data set, or nothing and why not."""
    try:
        place = Workplace(setup, plan.work / "prepared", plan.data)
    except NotHereError as reason:
        return None, {"status": "skipped", "reason": str(reason), "how": setup.how}
    return place, {"status": "measured", **describe(place.dataset)}


def run_group(plan: Plan, dataset: str, share: float, seed: int) -> list[str]:
    """Every cell of one request. Returns the methods that broke with an error that is none of ours: bugs, whose cells
    are missing, and which must not cost the other methods theirs.
    """
    place, about = open_place(SETUPS[dataset], plan)
    write_json(plan.work / dataset / "about.json", about)
    if place is None:
        logger.info("%s: left out: %s", dataset, about["reason"])
        return []
    group = Group(plan, place, share, seed)
    broken = []
    for method in plan.methods:
        try:
            group.method(method)
        except Exception:
            logger.exception("%s, seed %d: %s broke", dataset, seed, method)
            broken.append(f"{method} on {dataset}, seed {seed}")
    return broken


class Group:
    """The cells of one request: original, retrained and unlearned models, and their figures.

    Args:
        plan: what is asked for.
        place: the data set.
        share: of the training patients who are forgotten.
        seed: of the request and the models.
    """

    def __init__(self, plan: Plan, place: Workplace, share: float, seed: int) -> None:
        self.plan, self.place, self.share = plan, place, share
        self.request = Request(place, share, seed, plan.device)
        self.tuning_seed = plan.seeds[0]
        self.folder = plan.folder(place.setup.name, share)
        self.own = self.folder / f"seed-{seed}"
        self.parts = self.request.parts()
        facts = [place.setup.describe(), describe(place.dataset)]
        self.basis = [place.setup.name, facts, share, seed, plan.device.split(":")[0]]
        self.original = self._original()
        self.retrained = [self._retrained(index) for index in range(plan.retrains)]
        self.depends = [self.basis, self.original_cell["sha256"], [r.sha256 for r in self.retrained]]
        self.mark = fingerprint(_VERSION, self.depends)
        write_json(self.own / "group.json", {"fingerprint": self.mark})
        self._controls()

    def method(self, name: str) -> None:
        """Choose its settings (on the first seed), run it, and compare it with the retrained models."""
        tuned = self.tuned(name)
        path = self.own / f"{name}.json"
        if tuned["options"] is None:
            why = {k: tuned[k] for k in ("status", "reason")}
            cached(path, [*self.depends, why], lambda: {"group": self.mark, **why})
            return
        options = tuned["options"]
        cached(path, [*self.depends, options], lambda: {"group": self.mark, **self._unlearned(name, options)})

    def tuned(self, name: str) -> Cell:
        """The settings of a method on this data set and forget size, chosen once.

        Other seeds find those of the first; they make it, from the first seed's request, if they come first.
        """
        path = self.folder / "tuning" / f"{name}.json"
        depends = [*self.basis[:3], self.tuning_seed, self.basis[4], name, candidates(name, self.place.setup.recipe)]

        def make() -> Cell:
            logger.info("%s: choosing settings of %s", self.place.setup.name, name)
            own = self.request.seed == self.tuning_seed
            first = self if own else Group(self.plan, self.place, self.share, self.tuning_seed)
            return tune(first.request, first.model, name)

        return cached(path, depends, make)

    def _unlearned(self, name: str, options: dict[str, Any]) -> Cell:
        logger.info("%s, seed %d: %s", self.place.setup.name, self.request.seed, name)
        model, cell = self.request.unlearn(self.model, name, options)
        if model is None:
            return {**cell, "options": options}
        try:
            candidate = self._measure("unlearned", self.request.scores(model))
        except ModelError as error:
            return {**cell, "options": options, "status": "diverged", "reason": one_line(error)}
        compared = compare(self.original, candidate, [r.measurement for r in self.retrained], self.parts)
        return {**cell, "options": options, **compared}

    def _original(self) -> Measurement:
        weights = self.own / "original.pt"

        def make() -> Cell:
            logger.info("%s, seed %d: original", self.place.setup.name, self.request.seed)
            model, cost = self.request.train_original()
            with atomic_write(weights) as file:
                torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
            return {**cost, **self._keep("original", model)}

        if not weights.is_file():
            (self.own / "original.json").unlink(missing_ok=True)
        self.original_cell = cached(self.own / "original.json", self.basis, make)
        self.model = self.place.fresh_model(0)
        self.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.model.to(self.request.trainer.device).eval()
        return self._measure("original", self._load("original"))

    def _retrained(self, index: int) -> Retrained:
        name = f"retrained-{index}"

        def make() -> Cell:
            logger.info("%s, seed %d: retrained %d", self.place.setup.name, self.request.seed, index + 1)
            model, cost = self.request.retrain(self.model, index)
            return {**cost, **self._keep(name, model)}

        cell = cached(self.own / f"{name}.json", self.basis, make)
        return Retrained(cell["sha256"], self._measure("retrained", self._load(name), index))

    def _controls(self) -> None:
        """Models whose answer is known: the original, and each retrained one among the others."""
        models = [r.measurement for r in self.retrained]
        self._control("original", self.original, models)
        for i, one in enumerate(models if len(models) > 2 else []):
            self._control(f"held-out-{i}", one, models[:i] + models[i + 1 :])

    def _control(self, name: str, model: Measurement, others: Sequence[Measurement]) -> None:
        def make() -> Cell:
            return {"group": self.mark, **compare(self.original, model, others, self.parts)}

        cached(self.own / f"control-{name}.json", self.depends, make)

    def _keep(self, name: str, model: nn.Module) -> Cell:
        """Store a model's scores, from which its figures are computed."""
        scores = self.request.scores(model)
        flat = {f"{part}/{key}": values for part, found in scores.items() for key, values in found.items()}
        with atomic_write(self.own / f"{name}.npz") as file:
            np.savez(file, **flat)  # type: ignore[arg-type]
        return {"sha256": as_scores("original", scores, model).weights_sha256}

    def _load(self, name: str) -> Scores:
        scores: Scores = {}
        with np.load(self.own / f"{name}.npz") as arrays:
            for key in arrays:
                part, signal = key.split("/")
                scores.setdefault(part, {})[signal] = arrays[key]
        return scores

    def _measure(self, role: str, scores: Scores, index: int = 0) -> Measurement:
        return measured_model(as_scores(role, scores, index=index), self.parts, self.place.n_classes)


@dataclass(frozen=True)
class Retrained:
    """A retrained model's weights' hash and figures."""

    sha256: str
    measurement: Measurement


def groups(plan: Plan, datasets: Sequence[str]) -> list[list[tuple[str, float, int]]]:
    """Rounds of requests: the first seed on every data set before the next seed; groups of a round are independent."""
    return [[(dataset, share, seed) for share in plan.sizes for dataset in datasets] for seed in plan.seeds]
