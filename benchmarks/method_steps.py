"""How many passes through the model each method takes for each record, and how fast single records' gradients are.

    python benchmarks/method_steps.py [--quick] [--results FOLDER]

Passes are counted, not timed: every record that goes forward (and, where a gradient is asked for, backward) through the
model that is unlearned or through a frozen one. Beside them stands the minimum that the method's equations need, and
what is spent besides: on looking at the model (which layers it has) and on evaluation (an epoch that is chosen).

The gradients of single records (SSD, SalUn's per-record saliency, Fisher forgetting, influence) are compared with the
loop over records on a small convolutional network at batch 64: the largest difference, relative to the largest entry,
and the time. The exit status is 1 where a method takes more passes than it needs, gradients differ by more than 1e-6,
or the vectorised ones are less than 5 times as fast.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Batch, Loader
from forgetmi.forget_request import ForgetRequest
from forgetmi.methods import UnlearningJob, build_method
from forgetmi.modalities.image import ImageModality
from forgetmi.models.classifier import build_model
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits import importance
from forgetmi.parts.selection.paired import PairedPlan
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import resolve
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.options import FitOptions
from forgetmi.training.reference import Reference
from forgetmi.training.seeds import derive_seed
from forgetmi.training.trainer import Trainer

N_FORGET, N_RETAIN, N_VALIDATION, CLASSES, SIDE = 8, 40, 8, 3, 12
EPOCHS, BATCH = 3, 8
FIT: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 1e-3}
SET_UP = 8  # records, at most, that a method may look at to learn about the model
LIMITS = {"difference": 1e-6, "speedup": 5.0}


@dataclass(frozen=True)
class Case:
    """A method with its options, and what its equations need.

    Attributes:
        options: of the method.
        trained: forward and backward passes over the whole run.
        asked: forward passes without a gradient.
        evaluation: further forward passes, to choose an epoch.
        why: the minimum in words.
    """

    options: dict[str, Any]
    trained: int
    asked: int = 0
    evaluation: int = 0
    why: str = ""


def cases() -> dict[str, Case]:
    """The methods; F and R are the numbers of forget and retain records, E of epochs."""
    f, r, e = N_FORGET, N_RETAIN, EPOCHS
    beside = f * math.ceil(r / BATCH) * BATCH // f  # the forget set starts again beside every retain batch
    fit = {"fit": FIT}
    loader = job_of(ClassificationTask(CLASSES)).loader

    def met(method: str) -> int:
        """Retain records that the pairs of a run hold, each once."""
        plan = PairedPlan(loader, range(f), range(f, f + r), batch_size=BATCH, seed=derive_seed(0, method))
        return len({index for epoch in range(e) for step in plan.steps(epoch) for index in step["retain"]})

    return {
        "fine_tune": Case(fit, e * r, why="E R"),
        "gradient_ascent": Case(fit, e * f, why="E F"),
        "neg_grad_plus": Case(fit, e * (r + beside), why="E (R + forget records beside them)"),
        "random_labels": Case(fit, e * (f + r), why="E (F + R)"),
        "cf_k": Case(fit, e * r, why="E R"),
        "eu_k": Case(fit, e * r, why="E R"),
        "bad_teacher": Case(
            {"retain_share": 0.5, **fit}, e * (f + r // 2), f + r // 2, why="E (F + R/2); each record's teacher once"
        ),
        "scrub": Case({"max_epochs": 2, **fit}, e * r + 2 * f, f + r, why="E R + 2 F; the original once a record"),
        "scrub_r": Case(
            {"max_epochs": 2, **fit}, e * r + 2 * f, f + r, e * f + N_VALIDATION, why="the same; F an epoch to choose"
        ),
        "salun": Case({"options": fit}, f + e * (f + r), why="F for the mask, E (F + R)"),
        "ssd": Case({}, f + r, why="F + R"),
        "l1_sparse": Case(fit, e * r, why="E R"),
        "fisher_forgetting": Case({}, r, why="R, all classes' gradients from one pass"),
        "influence": Case({"samples": 20}, f + r, why="F + R; the curvature's records are among R"),
        "boundary_shrink": Case(fit, f + e * f, f, why="F to push and F to ask, E F"),
        "boundary_expand": Case(fit, e * f, why="E F"),
        "multi_delete": Case(
            fit,
            e * 2 * f,
            f + met("multi_delete") + e * f,
            why="E 2 F; the original once a record met, mismatched pairs each",
        ),
        "delete": Case(fit, e * f, f, why="E F; the original once a record"),
        "forget_mi": Case(
            fit, e * 2 * f, e * f + met("forget_mi"), why="E 2 F; noisy records each, the original once a retain record"
        ),
        "sisa": Case({"shards": 4, **fit}, e * r, why="E R, all shards anew"),
        "npo": Case(fit, e * 2 * f, f, why="E 2 F; the original once a record"),
    }


class CountingTask(ClassificationTask):
    """Counts the records that go through a model, with and without a gradient."""

    counts: ClassVar[Counter[str]] = Counter()
    within_vectorised = False

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """The task's own, counted."""
        if not CountingTask.within_vectorised:
            CountingTask.counts["trained" if torch.is_grad_enabled() else "asked"] += len(batch)
        return super().output(model, batch)


def dataset() -> RecordDataset:
    """Two pictures a record, one record a patient."""
    draw = np.random.default_rng(0)
    records = []
    for n in range(N_FORGET + N_RETAIN + N_VALIDATION):
        values = {name: draw.random((SIDE, SIDE), dtype=np.float32) for name in ("frontal", "lateral")}
        split = "train" if n < N_FORGET + N_RETAIN else "validation"
        records.append(Record(f"s{n:03d}", f"t{n:03d}", f"p{n:03d}", "h", values, n % CLASSES, split))
    kinds = dict.fromkeys(("frontal", "lateral"), "image")
    return RecordDataset(records, name="made up", levels=("patient", "sample"), modality_kinds=kinds)


def small_cnn(seed: int) -> nn.Module:
    """A small convolutional network for each picture, and a gate."""
    encoder = {"name": "small_resnet", "channels": 1, "widths": [8, 16], "blocks": 1}
    settings = {"encoders": {"frontal": encoder, "lateral": encoder}, "n_outputs": CLASSES, "dim": 16}
    return build_model(settings, seed)


def job_of(task: ClassificationTask) -> UnlearningJob:
    """A fresh job; nothing is cached."""
    data = dataset()
    loader = Loader(data, {name: ImageModality(SIDE) for name in ("frontal", "lateral")})
    model = small_cnn(0).eval()
    trainer = Trainer(device="cpu", progress=False)
    request = ForgetRequest.of("patient", [f"p{n:03d}" for n in range(N_FORGET)])
    return UnlearningJob(
        model=model,
        partition=resolve(data, request),
        task=task,
        loader=loader,
        trainer=trainer,
        seed=0,
        reference=Reference(model, task, trainer.device),
        fresh_model=small_cnn,
        recipe=FitOptions(**FIT),
    )


def count_passes(name: str, case: Case) -> dict[str, Any]:
    """What a run of the method took."""
    CountingTask.counts = Counter()
    real = importance._vectorised

    def vectorised(model: nn.Module, task: Any, batch: Batch, *args: Any) -> Any:
        CountingTask.counts["trained"] += len(batch)
        CountingTask.within_vectorised = True
        try:
            return real(model, task, batch, *args)
        finally:
            CountingTask.within_vectorised = False

    importance._vectorised = vectorised  # type: ignore[assignment]
    try:
        build_method(name, case.options).unlearn(job_of(CountingTask(CLASSES)))
    finally:
        importance._vectorised = real
    counts, minimum = CountingTask.counts, case.trained + case.asked + case.evaluation
    extra = counts["trained"] + counts["asked"] - minimum
    return {
        "method": name,
        "trained": counts["trained"],
        "trained_minimum": case.trained,
        "asked": counts["asked"],
        "asked_minimum": case.asked,
        "evaluation": case.evaluation,
        "set_up": extra,
        "why": case.why,
        "ok": counts["trained"] >= case.trained and 0 <= extra <= SET_UP,
    }


def speed(batch_size: int, turns: int) -> dict[str, Any]:
    """Gradients of single records, vectorised and one by one."""
    task = ClassificationTask(CLASSES)
    model = small_cnn(0).double().eval()
    draw = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.rand(batch_size, 1, SIDE, SIDE, generator=draw, dtype=torch.float64)
        for name in ("frontal", "lateral")
    }
    present = {name: torch.ones(batch_size, dtype=torch.bool) for name in inputs}
    batch = Batch(inputs, present, torch.arange(batch_size) % CLASSES, torch.arange(batch_size))
    named = dict(model.named_parameters())

    def loop(one: nn.Module, some: Batch) -> dict[str, torch.Tensor]:
        parameters = list(one.parameters())
        rows = [torch.autograd.grad(task.loss(one, some.rows([k])), parameters) for k in range(len(some))]
        return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(named)}

    expected, (found, _) = loop(model, batch), importance.per_sample_gradients(model, task, batch)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    difference = max(float((found[name][:, 0] - expected[name]).abs().max()) for name in expected) / scale
    single = model.float()
    batch = replace(batch, inputs={name: value.float() for name, value in inputs.items()})
    times: dict[str, list[float]] = {"vectorised": [], "loop": []}
    for turn in range(turns + 1):  # the first one warms up
        for kind, run in (
            ("vectorised", lambda: importance.per_sample_gradients(single, task, batch)),
            ("loop", lambda: loop(single, batch)),
        ):
            started = time.process_time()
            run()
            if turn:
                times[kind].append(time.process_time() - started)
    seconds = {kind: min(values) for kind, values in times.items()}
    speedup = seconds["loop"] / seconds["vectorised"]
    return {
        "batch_size": batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "relative_difference": difference,
        "seconds": seconds,
        "speedup": speedup,
        "ok": difference <= LIMITS["difference"] and speedup >= LIMITS["speedup"],
    }


def page(results: dict[str, Any]) -> str:
    """The results as a page to read."""
    fast, setting = results["gradients"], results["setting"]
    lines = [
        "# Passes through the model, and gradients of single records",
        "",
        f"F = {setting['forget']} forget and R = {setting['retain']} retain records, E = {setting['epochs']} epochs. "
        "Counted are records: *trained* go forward and backward, *asked* forward only. Set-up: records that a method "
        "looks at to learn about the model.",
        "",
        "| method | trained | minimum | asked | minimum | evaluation | set-up | the minimum is | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    lines += [
        f"| `{m['method']}` | {m['trained']} | {m['trained_minimum']} | {m['asked']} | {m['asked_minimum']} | "
        f"{m['evaluation']} | {m['set_up']} | {m['why']} | {'ok' if m['ok'] else '**more**'} |"
        for m in results["methods"]
    ]
    lines += [
        "",
        f"Gradients of single records at batch {fast['batch_size']}, {fast['parameters']} weights: "
        f"{fast['seconds']['vectorised'] * 1000:.1f} ms vectorised, {fast['seconds']['loop'] * 1000:.1f} ms in a loop "
        f"(processor time, one thread, the fastest turn): **{fast['speedup']:.1f} times** as fast (target: 5). Largest "
        f"difference in float64, relative to the largest entry: {fast['relative_difference']:.1e} (limit: 1e-6).",
        "",
        f"{results['machine']}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few turns; writes only with --results")
    parser.add_argument("--results", type=Path, help="folder for method_steps.json and method_steps.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "setting": {"forget": N_FORGET, "retain": N_RETAIN, "epochs": EPOCHS, "batch_size": BATCH},
        "methods": [count_passes(name, case) for name, case in cases().items()],
        "gradients": speed(64, 2 if given.quick else 10),
        "machine": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()} CPU",
    }
    text = page(results)
    print(text)
    folder = given.results or (None if given.quick else Path(__file__).parent / "results")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "method_steps.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (folder / "method_steps.md").write_text(text, encoding="utf-8")
    return 0 if all(m["ok"] for m in results["methods"]) and results["gradients"]["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
