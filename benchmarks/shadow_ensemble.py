"""Shadow models over frozen encoders: K heads at once, against one after the other.

    python benchmarks/shadow_ensemble.py [--quick] [--device cuda] [--models 32] [--results FOLDER]
    python benchmarks/shadow_ensemble.py --double [--results FOLDER]

Every model is a fusion head (a projection of each of two embeddings, of 512 and 768 numbers, their fusion and 14
classes) with weights, records and an order of its own; the embeddings are made up and kept, as both sides would keep
them. Three sides take turns: the ensemble (`forgetmi.training.ensemble`), the house's own loop (`train_by_recipe`), and
a bare loop of the same steps with nothing around them, which is the least that one after the other can take. Ratios are
taken within a turn, each side with the number of threads that suits it best in that turn. The same heads are trained
once more in double precision, untimed: what differs there is not rounding. The exit status is 1 where the ensemble's
weights in double precision are not those of the loops, or the narrow head's ratio to the bare loop is below 2; what
rounding makes of the weights in single precision is told and not judged. `--double` does the untimed part alone, for
the cases of the results that are there, and puts it onto their page.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.models.classifier import MultimodalClassifier
from forgetmi.models.fusion import build_fusion
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.ensemble import HeadJob, fit_heads
from forgetmi.training.features import FeatureLoader, KeptFeatures, head_of
from forgetmi.training.options import FitOptions, build_optimizer
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.seeds import numpy_generator, scoped_seed
from forgetmi.training.trainer import Trainer

WIDTHS = {"image": 512, "text": 768}
CLASSES, RECORDS, BATCH = 14, 1280, 32
TARGET, TOLERANCE = 2.0, 1e-10
TASK = ClassificationTask(CLASSES)


class Vectors:
    """A modality whose values are embeddings already."""

    kind = "vector"
    default_noise = None

    def __init__(self, width: int) -> None:
        self.width = width

    def prepare(self, value: Any) -> torch.Tensor:
        """As a tensor."""
        return torch.from_numpy(value).to(torch.get_default_dtype())

    def blank(self) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(self.width)

    def collate(self, examples: Sequence[torch.Tensor]) -> torch.Tensor:
        """[B, width]."""
        return torch.stack(list(examples))


def records() -> Loader:
    """Embeddings that say something of the class; a tenth of the texts is missing."""
    draw = numpy_generator(0, "benchmark")
    centres = {name: draw.normal(size=(CLASSES, width)) for name, width in WIDTHS.items()}
    found = []
    for n in range(RECORDS):
        label = int(draw.integers(CLASSES))
        values: dict[str, Any] = {
            name: (0.2 * centres[name][label] + draw.normal(size=width)).astype(np.float32)
            for name, width in WIDTHS.items()
        }
        if n % 10 == 0:
            values["text"] = None
        found.append(Record(f"s{n:05d}", f"t{n:05d}", f"p{n:05d}", "h", values, label, "train"))
    dataset = RecordDataset(
        found, name="made up", levels=("patient", "sample"), modality_kinds=dict.fromkeys(WIDTHS, "vector")
    )
    return Loader(dataset, {name: Vectors(width) for name, width in WIDTHS.items()})  # type: ignore[misc]  # as much of one as is asked for


def models(n: int, fusion: str, width: int) -> list[MultimodalClassifier]:
    """Heads with weights of their own."""
    found = []
    for seed in range(n):
        with scoped_seed(seed):
            encoders: dict[str, nn.Module] = {name: KeptFeatures(size) for name, size in WIDTHS.items()}
            fused = build_fusion({"name": fusion}, tuple(WIDTHS), width)
            found.append(MultimodalClassifier(encoders, fused, CLASSES, dim=width))
    return found


def halves(n: int) -> list[tuple[int, ...]]:
    """Each model's records: a random half."""
    return [
        tuple(sorted(numpy_generator(seed, "half").permutation(RECORDS)[: RECORDS // 2 + seed].tolist()))
        for seed in range(n)
    ]


def bare_loop(
    heads: Sequence[MultimodalClassifier], loader: FeatureLoader, trains: Sequence[Sequence[int]], recipe: FitOptions
) -> None:
    """One after the other: batch, loss, gradient, norm, step."""
    for k, (head, train) in enumerate(zip(heads, trains, strict=True)):
        head.to(loader.device).train()
        optimizer = build_optimizer(head, recipe)
        plan = ShuffledPlan(loader, train, batch_size=recipe.batch_size, seed=k)
        for epoch in range(recipe.epochs):
            for step in plan.steps(epoch):
                TASK.loss(head, loader.batch(step["records"])).backward()
                nn.utils.clip_grad_norm_(head.parameters(), recipe.clip_norm or float("inf"))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)


def house_loop(
    heads: Sequence[MultimodalClassifier], loader: FeatureLoader, trains: Sequence[Sequence[int]], recipe: FitOptions
) -> None:
    """One after the other, as a run trains them."""
    for k, (head, train) in enumerate(zip(heads, trains, strict=True)):
        train_by_recipe(
            head, task=TASK, loader=loader, train=train, validation=(), recipe=recipe,
            trainer=Trainer(device=loader.device.type, progress=False), order_seed=k, seed=k, name="head",
        )  # fmt: skip


def ensemble(
    heads: Sequence[MultimodalClassifier], loader: FeatureLoader, trains: Sequence[Sequence[int]], recipe: FitOptions
) -> None:
    """All at once."""
    jobs = [HeadJob(train, k) for k, train in enumerate(trains)]
    fit_heads(heads, jobs, task=TASK, loader=loader, validation=(), recipe=recipe, seed=0)


SIDES: dict[str, Callable[..., None]] = {"ensemble": ensemble, "house loop": house_loop, "bare loop": bare_loop}


def compare(
    fusion: str, width: int, n: int, epochs: int, turns: int, threads: Sequence[int], device: torch.device
) -> dict[str, Any]:
    """Time the sides on one kind of head, and compare what they come to."""
    recipe = FitOptions(epochs=epochs, batch_size=BATCH, lr=1e-3)
    source, trains, fresh = records(), halves(n), models(n, fusion, width)
    loader = FeatureLoader(source, fresh[0], range(RECORDS), recipe=recipe, device=device)
    warm = FitOptions(epochs=1, batch_size=BATCH)
    for side in SIDES.values():
        side([head_of(model) for model in fresh[:2]], loader, [train[:64] for train in trains[:2]], warm)
    seconds: dict[str, list[dict[int, float]]] = {name: [] for name in SIDES}
    weights: dict[str, list[torch.Tensor]] = {}
    for _ in range(turns):
        for name, side in SIDES.items():
            seconds[name].append({})
            for count in threads:
                torch.set_num_threads(count)
                heads = [head_of(copy.deepcopy(model)) for model in fresh]
                started = time.perf_counter()
                side(heads, loader, trains, recipe)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[name][-1][count] = time.perf_counter() - started
                weights[name] = weights_of(heads)
    best = {name: [min(turn.values()) for turn in found] for name, found in seconds.items()}
    ratios = {
        name: [other / own for other, own in zip(best[name], best["ensemble"], strict=True)]
        for name in ("house loop", "bare loop")
    }
    return {
        "fusion": fusion,
        "width": width,
        "models": n,
        "weights": len(weights["ensemble"][0]),
        "steps": epochs * -(-len(trains[0]) // BATCH),
        "seconds": {
            name: [{str(c): round(s, 3) for c, s in turn.items()} for turn in t] for name, t in seconds.items()
        },
        "ratio": {name: round(statistics.median(found), 2) for name, found in ratios.items()},
        "ratios": {name: [round(ratio, 2) for ratio in found] for name, found in ratios.items()},
        "difference": furthest(weights),
        "double": in_double(fusion, width, n, epochs, device),
    }


def in_double(fusion: str, width: int, n: int, epochs: int, device: torch.device) -> float:
    """The furthest that a weight of the loops lies from the ensemble's, all trained in double precision."""
    recipe = FitOptions(epochs=epochs, batch_size=BATCH, lr=1e-3)
    fresh = [model.double() for model in models(n, fusion, width)]
    weights: dict[str, list[torch.Tensor]] = {}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # blanks of missing modalities have it
    try:
        loader = FeatureLoader(records(), fresh[0], range(RECORDS), recipe=recipe, device=device)
        for name, side in SIDES.items():
            heads = [head_of(copy.deepcopy(model)) for model in fresh]
            side(heads, loader, halves(n), recipe)
            weights[name] = weights_of(heads)
    finally:
        torch.set_default_dtype(before)
    if any(found.dtype != torch.float64 for group in weights.values() for found in group):
        raise RuntimeError("weights that should be in double precision are not")
    return furthest(weights)


def weights_of(heads: Sequence[nn.Module]) -> list[torch.Tensor]:
    """All weights of each head as one vector."""
    return [torch.cat([p.detach().cpu().flatten() for p in head.parameters()]) for head in heads]


def furthest(weights: dict[str, list[torch.Tensor]]) -> float:
    """The largest difference of a weight of the loops to the ensemble's."""
    return max(
        float((a - b).abs().max())
        for name in ("house loop", "bare loop")
        for a, b in zip(weights["ensemble"], weights[name], strict=True)
    )


def page(results: dict[str, Any]) -> str:
    """The results as a page to read."""
    lines = [
        "# Shadow models over frozen encoders: all heads at once",
        "",
        f"{results['models']} heads on embeddings of 512 and 768 numbers, 14 classes, batches of {BATCH}. Seconds: the "
        "median turn, each turn with the number of threads that suits the side best there. Ratios are medians over "
        f"{results['turns']} turns, taken within a turn; in brackets the smallest and the largest.",
        "",
        "| fusion | width | weights | steps | ensemble | house loop | bare loop | to house loop | to bare loop | "
        "weights differ by | in double precision |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in results["cases"]:
        shown = {
            name: statistics.median(min(turn.values()) for turn in turns) for name, turns in case["seconds"].items()
        }
        ratio = {
            name: f"{case['ratio'][name]:.1f} ({min(found):.1f}-{max(found):.1f})"
            for name, found in case["ratios"].items()
        }
        lines.append(
            f"| {case['fusion']} | {case['width']} | {case['weights']} | {case['steps']} | {shown['ensemble']:.1f} s | "
            f"{shown['house loop']:.1f} s | {shown['bare loop']:.1f} s | **{ratio['house loop']}** | "
            f"**{ratio['bare loop']}** | {case['difference']:.0e} | {case['double']:.0e} |"
        )
    lines += ["", f"{results['machine']}, {results['load']}. {results['target']}", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small case, one turn; writes only with --results")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--models", type=int, default=32, help="heads")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to try; on a CPU")
    parser.add_argument(
        "--double", action="store_true", help="only the weights in double precision, for the cases there"
    )
    parser.add_argument("--results", type=Path, help="folder for shadow_ensemble.json and shadow_ensemble.md")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    folder = given.results or (None if given.quick else Path(__file__).parent / "results")
    name = "shadow_ensemble" if device.type == "cpu" else "shadow_ensemble-cuda"
    before = torch.get_num_threads()
    if given.double:
        return again_in_double(parser, folder, name, device)
    threads = given.threads if device.type == "cpu" else [1]
    cases = [("late", 64), ("gate", 64), ("late", 256)]
    n, epochs, turns = given.models, given.epochs, given.turns
    if given.quick:
        cases, n, epochs, turns, threads = cases[:1], min(n, 8), 1, 1, [1]
    try:
        found = [compare(fusion, width, n, epochs, turns, threads, device) for fusion, width in cases]
    finally:
        torch.set_num_threads(before)
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} {platform.machine()} CPU cores"
    )
    results = {
        "models": n,
        "turns": turns,
        "threads": threads,
        "cases": found,
        "target": target(),
        "load": f"threads tried: {', '.join(map(str, threads))}; load {os.getloadavg()[0]:.0f} at the end",
        "machine": f"Python {platform.python_version()}, torch {torch.__version__}, {where}",
    }
    write(results, folder, name)
    fast = all(case["ratio"]["bare loop"] >= TARGET for case in found if case["width"] == 64)
    return 0 if agrees(results) and (fast or given.quick) else 1


def again_in_double(parser: argparse.ArgumentParser, folder: Path | None, name: str, device: torch.device) -> int:
    """Put the differences in double precision onto results that are there; 1 where they are too large."""
    if folder is None or not (folder / f"{name}.json").is_file():
        parser.error(f"--double adds to results, and there is no {name}.json yet: run without it")
    results = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for case in results["cases"]:
        epochs = case["steps"] // -(-len(halves(1)[0]) // BATCH)
        case["double"] = in_double(case["fusion"], case["width"], case["models"], epochs, device)
    results["target"] = target()
    write(results, folder, name)
    return 0 if agrees(results) else 1


def agrees(results: dict[str, Any]) -> bool:
    """Whether the weights are the same but for rounding."""
    return all(case["double"] <= TOLERANCE for case in results["cases"])


def target() -> str:
    """What is judged, in words."""
    return (
        f"Target: {TARGET:g} times the bare loop for a head of width 64; weights within {TOLERANCE:g} in double "
        "precision (in single precision rounding grows, and is not judged)."
    )


def write(results: dict[str, Any], folder: Path | None, name: str) -> None:
    """Print the page, and write it and the numbers if there is a folder."""
    text = page(results)
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
