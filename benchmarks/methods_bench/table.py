"""From cells to rows: one a data set, forget size and method, over the seeds that are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from methods_bench.grids import OURS
from methods_bench.work import Cell, Plan, stored

FLAGS = ("over_forgotten", "remembered", "utility_lost", "destroyed")
SHARE_GOAL = 0.1


def collect(plan: Plan, datasets: Sequence[str]) -> dict[str, Any]:
    """All that is done: ``datasets``, ``rows`` and ``tuned``."""
    rows: list[dict[str, Any]] = []
    tuned: dict[str, Any] = {}
    about = {}
    for dataset in datasets:
        about[dataset] = _about(plan, dataset)
        if about[dataset]["status"] != "measured":
            continue
        for share in plan.sizes:
            rows += _rows(plan, dataset, share)
            for method in plan.methods:
                if (cell := stored(plan.folder(dataset, share) / "tuning" / f"{method}.json")) is not None:
                    chosen = {key: cell[key] for key in ("options", "status", "reason", "cpu_seconds")}
                    tried = [{k: item[k] for k in ("options", "criterion")} for item in cell["tried"]]
                    tuned.setdefault(dataset, {}).setdefault(f"{share:g}", {})[method] = {**chosen, "tried": tried}
    return {"datasets": about, "rows": rows, "tuned": tuned}


def _about(plan: Plan, dataset: str) -> Cell:
    import json

    try:
        found: Cell = json.loads((plan.work / dataset / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"status": "not run"}
    return found


def _rows(plan: Plan, dataset: str, share: float) -> list[dict[str, Any]]:
    by_name: dict[str, list[Cell]] = {}
    retraining: list[dict[str, float]] = []
    for seed in plan.seeds:
        own = plan.folder(dataset, share) / f"seed-{seed}"
        group = stored(own / "group.json")
        if group is None:
            continue
        cost = [stored(own / f"retrained-{i}.json") or {} for i in range(plan.retrains)]
        mean = {key: sum(cell[key] for cell in cost) / len(cost) for key in ("seconds", "cpu_seconds")}
        retraining.append(mean)
        names = ["control-original", *(f"control-held-out-{i}" for i in range(plan.retrains)), *plan.methods]
        for name in names:
            cell = stored(own / f"{name}.json")
            if cell is not None and cell.get("group") == group["fingerprint"]:
                key = "retrained" if name.startswith("control-held-out") else name.removeprefix("control-")
                by_name.setdefault(key, []).append({**cell, "seed": seed, "retraining": mean})
    clock = "seconds" if plan.device.startswith("cuda") else "cpu_seconds"
    made = [summary(name, cells, len(plan.seeds), clock) for name, cells in by_name.items()]
    for row in made:
        row |= {"dataset": dataset, "share": share, "retraining_seconds": mean_of([r[clock] for r in retraining])}
    return made


def summary(name: str, cells: Sequence[Cell], n_seeds: int, clock: str = "cpu_seconds") -> dict[str, Any]:
    """One row.

    Args:
        name: of the method, ``original`` or ``retrained`` (each one among the others).
        cells: one a seed (``retrained``: one a model).
        n_seeds: how many seeds were asked for.
        clock: which seconds the share of retraining is taken from.
    """
    done = [cell for cell in cells if "gap" in cell]
    broken = [cell for cell in cells if cell.get("status") == "diverged"]
    refused = next((cell["reason"] for cell in cells if cell.get("status") == "refused"), None)
    kind = "control" if name in ("original", "retrained") else "ours" if name in OURS else "baseline"
    row: dict[str, Any] = {
        "method": name,
        "kind": kind,
        "done": len(done),
        "asked": n_seeds,
        "diverged": len(broken),
        "refused": refused,
        "flags": {flag: sum(flag in cell["findings"] or bool(cell.get(flag)) for cell in done) for flag in FLAGS},
        "informative": sum(cell["informative"] for cell in done),
        "ranked": kind != "control" and bool(done) and not broken and not any(cell["destroyed"] for cell in done),
        "cells": [_compact(cell) for cell in cells],
    }
    if not done:
        return row
    row["gap"] = spread([cell["gap"]["mean"] for cell in done])
    row["gap_parts"] = {
        part: mean_of([cell["gap"][part] for cell in done]) for part in done[0]["gap"] if part != "mean"
    }
    row["tow"], row["tow_mia"] = (mean_of([cell[key] for cell in done]) for key in ("tow", "tow_mia"))
    row["figures"] = {figure: _over_seeds([cell["figures"][figure] for cell in done]) for figure in done[0]["figures"]}
    row["verdicts"] = {v: sum(cell["verdict"] == v for cell in done) for v in ("pass", "fail", "inconclusive")}
    if kind != "control":
        row["time_share"] = spread([cell[clock] / cell["retraining"][clock] for cell in done])
        row["seconds"] = mean_of([cell["seconds"] for cell in done])
        peaks = [cell["peak_mb"] for cell in done if cell["peak_mb"] is not None]
        row["peak_mb"] = max(peaks, default=None)
    return row


def _compact(cell: Cell) -> Cell:
    """A cell as it stands in the results: each figure as value and interval."""
    kept = {key: value for key, value in cell.items() if key not in ("fingerprint", "group", "retraining")}
    if "figures" in kept:
        figures = kept["figures"].items()
        kept["figures"] = {name: [found[key] for key in ("value", "low", "high")] for name, found in figures}
    return kept


def ranking(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that are ranked, nearest to retrained first."""
    return sorted((row for row in rows if row["ranked"]), key=lambda row: row["gap"]["mean"])


def mean_of(values: Sequence[float]) -> float | None:
    """The mean, or nothing."""
    return sum(values) / len(values) if values else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and range over the seeds."""
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}


def _over_seeds(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of a figure and of its interval's ends, where every seed has them."""
    found: dict[str, Any] = {}
    for key in ("value", "low", "high"):
        known = [figure[key] for figure in figures if figure[key] is not None]
        found[key] = mean_of(known) if len(known) == len(figures) else None
    reasons = [figure["reason"] for figure in figures if figure["reason"]]
    return {**found, "reason": reasons[0] if reasons and found["value"] is None else None, "n": figures[0]["n"]}
