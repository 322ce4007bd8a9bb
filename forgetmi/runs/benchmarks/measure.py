"""One model put through one benchmark, with whatever stands beside it; the result kept under hashes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forgetmi.metrics.choice_scoring import score_values
from forgetmi.metrics.token_signals import likelihood
from forgetmi.runs import evaluation
from forgetmi.runs.benchmarks.base import Benchmark, Data, Findings, records_sha256
from forgetmi.runs.evaluation import Evaluation, Subject, plain

N_TEXTS = 200
"""Texts, of a benchmark's first ones, by which it is said whether a model is destroyed."""


def evaluate_benchmark(
    model: Path,
    benchmark: Benchmark,
    folder: Path,
    out: Path,
    *,
    reference: Path | None = None,
    controls: bool = False,
    device: str = "cpu",
) -> Evaluation:
    """Put a model through a benchmark.

    Args:
        model: a folder of transformers, a GGUF file, or a model that forgetmi stored.
        benchmark: which, with its options.
        folder: of the benchmark's published files.
        out: folder of results; gets ``NAME.json`` and ``NAME.csv``, one row a record, NAME made of hashes.
        reference: a retrained model: what is measured of it stands beside, and some scores need it.
        controls: measure a destroyed copy of the model too, to stand beside it.
        device: for torch.

    Raises:
        ConfigError: there is no such folder.
        DataError: the folder is not the benchmark's, or its files cannot be used.
        ModelError: a model cannot be read, or is broken.
    """
    evaluation.refuse([] if folder.is_dir() else [f"data: {folder} is no folder"])
    data = benchmark.load(folder)
    hashes = {name: records_sha256(dataset) for name, dataset in data.items()}
    files = benchmark.hashes(folder)
    read: dict[str, Any] = {"format": benchmark.format, "max_length": benchmark.max_length, "dtype": benchmark.dtype}
    subject = evaluation.read_subject(model, **read)
    other = None if reference is None else evaluation.read_subject(reference, **read)
    options = plain(asdict(benchmark))
    retrained = None if other is None else [other.weights, other.settings]
    key = evaluation.result_key(subject, [benchmark.name, hashes, files, options, retrained, controls])
    path = evaluation.result_path(out, key)
    if benchmark.reusable and (found := evaluation.kept(path, key)) is not None:
        return found
    place = torch.device(device)
    for_others = benchmark.for_others()
    theirs = None if other is None else for_others.run(other.to(place), data, folder)
    made = benchmark.run(subject.to(place), data, folder)
    document: dict[str, Any] = {
        "benchmark": benchmark.name,
        "options": options,
        "files": files,
        "sets": _sets(data, hashes, made),
        "figures": _figures(benchmark, made),
        "scores": {**made.scores, **benchmark.against(made, theirs)},
        "reference": None,
        "attacks": {},
    }
    if other is not None and theirs is not None and retrained is not None:
        told = {"name": other.name, "weights_sha256": retrained[0]}
        document["reference"] = {**told, "figures": _figures(benchmark, theirs), "scores": theirs.scores}
    control = subject.destroyed(benchmark.seed) if controls else None
    if control is not None:
        noise = for_others.run(control, data, folder)
        scores = {**noise.scores, **benchmark.against(noise, theirs)}
        document["controls"] = {"destroyed": {"figures": _figures(benchmark, noise), "scores": scores}}
    document["standing"] = _standing(benchmark, subject, control, data)
    rows = ((name, range(1, len(part.patients) + 1), part.metrics) for name, part in made.parts.items())
    return evaluation.save(path, subject, key, document, evaluation.table(rows))


def _sets(data: Data, hashes: dict[str, str], made: Findings) -> dict[str, Any]:
    """What was read and, of each set of figures, how many records it has."""
    read = {
        name: {"sha256": hashes[name], "records": len(of), "skipped": dict(of.skipped.counts), "notes": list(of.notes)}
        for name, of in data.items()
    }
    sizes = {
        name: {"records": len(part.patients), "patients": int(np.unique(part.patients).size)}
        for name, part in made.parts.items()
    }
    return {name: {**read.get(name, {}), **sizes.get(name, {})} for name in {**sizes, **read}}


def _figures(benchmark: Benchmark, made: Findings) -> dict[str, Any]:
    """Set to metric to figure, with the same resamples for every model."""
    return {
        name: {
            metric.name: {
                **metric.figure(part.patients, benchmark.generator(name, metric.name), **benchmark.intervals).to_dict(),
                "definition": metric.definition,
            }
            for metric in part.metrics
        }
        for name, part in made.parts.items()
    }


def _standing(benchmark: Benchmark, subject: Subject, control: Subject | None, data: Data) -> dict[str, Any]:
    """Whether the model is destroyed, by its loss on texts of the benchmark."""
    what, texts = benchmark.texts(data)
    if not texts:
        return evaluation.unknown_standing("the benchmark has no texts that a model must find likely")

    def losses(of: Subject) -> np.ndarray[Any, Any]:
        return -likelihood(score_values(of.model, of.modality, texts[:N_TEXTS], benchmark.batch_size))

    beside = None if control is None else float(losses(control).mean())
    return evaluation.standing(losses(subject), subject.modality.tokenizer.size, beside, what)
