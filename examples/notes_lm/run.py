"""Forget patients from a language model of notes, and compare with retraining; see README.md beside this file.

python examples/notes_lm/run.py [--quick] [--model FOLDER] [--methods a,b] [--out FOLDER] [--device DEVICE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        patients: of train, validation and test.
        copies: of the forgotten patients' notes in the training data.
        epochs: of the original and the retrained models.
        retrains: how many retrained models.
        forget_epochs: passes over the forget set of a method.
        n_forget: how many patients are forgotten.
        n_resamples: of the intervals.
    """

    patients: tuple[int, int, int]
    copies: int
    epochs: int
    retrains: int
    forget_epochs: int
    n_forget: int = 30
    n_resamples: int = 2000


QUICK = Size((120, 60, 120), copies=3, epochs=25, retrains=2, forget_epochs=8, n_resamples=1000)
FULL = Size((240, 80, 200), copies=3, epochs=25, retrains=5, forget_epochs=10)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer patients, methods, settings and retrained models")
    parser.add_argument("--model", type=Path, help="a local folder of transformers, or a GGUF file; nothing is loaded")
    parser.add_argument("--methods", help="names of methods, with commas between")
    parser.add_argument("--out", type=Path, default=Path("runs/notes_lm"), help="folder for results (runs/notes_lm)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="by default one for each core, at most 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", help="how the results name the machine; by default by its number of cores")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Train, forget, compare, write."""
    args = arguments(given)
    from forgetmi.errors import ForgetMIError
    from forgetmi.methods import METHODS

    names = args.methods.split(",") if args.methods else None
    try:
        for name in names or ():
            METHODS[name]  # a wrong name is an error now
        document = work(args, QUICK if args.quick else FULL, names)
    except ForgetMIError as error:
        print(error, file=sys.stderr)
        return 1
    write(document, args.out)
    return 0


def work(args: argparse.Namespace, size: Size, names: Sequence[str] | None) -> dict[str, Any]:
    """All that is trained and measured, as one JSON-able document; no text of a note is in it."""
    import torch

    from forgetmi.errors import ModelError
    from forgetmi.training.options import FitOptions
    from notes_lm import notes, settings
    from notes_lm.study import ModelPlan, Study
    from notes_lm.table import figures, rows_of

    threads = args.threads or min(4, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    started, processor = time.perf_counter(), time.process_time()
    made = notes.make_notes(
        notes.report_texts(), size.patients, n_forget=size.n_forget, copies=size.copies, seed=args.seed
    )
    plan = ModelPlan(folder=args.model)
    lr = 3e-3 if args.model is None else 2e-4 if plan.adapter else 5e-5
    epochs = size.epochs if args.model is None else min(size.epochs, 10)  # a trained model learns notes sooner
    recipe = FitOptions(epochs=epochs, batch_size=16, lr=lr, schedule="linear", warmup=0.05)
    study = Study(made, plan, recipe, device=args.device, seed=args.seed)

    def say(what: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {what}", flush=True)

    say(f"{len(study.partition.train)} training notes, {size.n_forget} patients to forget")
    original, cost = study.train_original()
    own = study.scores(original)
    say(f"original trained: it writes {own['forget']['identity'].mean():.0%} of the identity tokens")
    about = {
        "machine": args.machine or f"{len(os.sched_getaffinity(0))} CPU cores",
        "device": args.device,
        "threads": threads,
        "torch": torch.__version__,
        "model": _model_words(original, args.model is not None),
        "notes": "{} train, {} validation and {} test patients, one real report each".format(*size.patients),
        "n_forget": size.n_forget,
        "copies": size.copies,
    }
    # Methods first: what is chosen for them cannot have seen a retrained model, for there is none.
    unlearned: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name in names or (settings.QUICK if args.quick else settings.FULL):
        options = settings.candidates(name, lr, epochs=size.forget_epochs, quick=args.quick)
        found = study.choose(original, name, options)
        if found["model"] is None:
            refused[name] = found["tried"][-1]["reason"]
            say(f"{name}: no model: {refused[name]}")
            continue
        try:
            scores = study.scores(found.pop("model"))
        except ModelError as error:
            refused[name] = str(error).splitlines()[0]
            continue
        unlearned[name] = {**found, "scores": scores}
        say(f"{name}: writes {scores['forget']['identity'].mean():.0%}")
    retrained = []
    for index in range(size.retrains):
        model, spent = study.retrain(original, index)
        retrained.append((study.scores(model), spent))
        say(f"retrained model {index + 1} of {size.retrains}")

    others = [scores for scores, _ in retrained]

    def measured(scores: dict[str, Any], against: list[dict[str, Any]], spent: dict[str, float]) -> dict[str, Any]:
        return {**figures(scores, study.attacks(scores, against, size.n_resamples)), **spent}

    rows = rows_of(
        measured(own, others, cost),
        [measured(scores, [other for other in others if other is not scores], spent) for scores, spent in retrained],
        {
            name: {
                **measured(found["scores"], others, found["cost"]),
                **{key: found[key] for key in ("options", "criterion", "tried")},
            }
            for name, found in unlearned.items()
        },
        refused,
    )
    return {
        "command": command(args),
        "about": about,
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
    }


def _model_words(model: Any, given: bool) -> str:
    total = sum(p.numel() for p in model.parameters())
    config = model.lm.config.get_text_config()
    what = f"{config.model_type}, {total / 1e6:.1f} M parameters, vocabulary {config.vocab_size:,}"
    if not given:
        return f"{what}, from random weights; its tokenizer was trained without the forgotten patients' notes"
    return f"{what}, from a local folder, {'by an adapter (LoRA)' if model.has_adapter else 'all weights trained'}"


def command(args: argparse.Namespace) -> str:
    """The command that gives these results, without this machine's folders."""
    words = ["python examples/notes_lm/run.py", *(["--quick"] if args.quick else [])]
    words += [f"--model {args.model.name}"] if args.model is not None else []
    words += [f"--methods {args.methods}"] if args.methods else []
    words += [f"--seed {args.seed}"] if args.seed else []
    return " ".join([*words, *([f"--device {args.device}"] if args.device != "cpu" else [])])


def write(document: dict[str, Any], folder: Path) -> None:
    """``results.json``, ``results.md`` and ``results.png``, and the table on the console."""
    from forgetmi.files import write_text
    from notes_lm.table import draw, page

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(document, allow_nan=False, indent=1) + "\n")
    write_text(folder / "results.md", page(document))
    draw(document["rows"], folder / "results.png")
    print("\n" + page(document))
    print(f"written: results.md, results.json and results.png in {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
