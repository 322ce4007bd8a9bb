"""Unlearn with small and with large steps, round everything, and see what comes back; see README.md beside this file.

python examples/quantisation_recovery/run.py [--quick] [--out FOLDER] [--device DEVICE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

LR = 3e-3
"""Of the original and the retrained models."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer patients and methods")
    parser.add_argument("--out", type=Path, default=Path("runs/quantisation_recovery"), help="folder for results")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Train, forget, round, write."""
    args = arguments(given)
    from forgetmi.errors import ForgetMIError

    try:
        document = work(args)
    except ForgetMIError as error:
        print(error, file=sys.stderr)
        return 1
    write(document, args.out)
    return 0


def sizes(quick: bool) -> Any:
    """How large a run is."""
    from notes_lm.run import Size

    if quick:
        return Size((48, 24, 32), copies=3, epochs=22, retrains=2, forget_epochs=0, n_forget=12, n_resamples=500)
    return Size((80, 40, 60), copies=3, epochs=25, retrains=2, forget_epochs=0, n_forget=20, n_resamples=1000)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """All that is trained and measured, as one JSON-able document; no text of a note is in it."""
    import torch
    from notes_lm import notes
    from notes_lm.study import ModelPlan, Study

    from forgetmi.training.options import FitOptions
    from quantisation_recovery import regimes
    from quantisation_recovery.measures import as_handed_on, attacked, held_out

    torch.set_num_threads(args.threads)
    started, processor = time.perf_counter(), time.process_time()
    size = sizes(args.quick)
    made = notes.make_notes(
        notes.report_texts(), size.patients, n_forget=size.n_forget, copies=size.copies, seed=args.seed
    )
    recipe = FitOptions(epochs=size.epochs, batch_size=16, lr=LR, schedule="linear", warmup=0.05)
    study = Study(made, ModelPlan(), recipe, device=args.device, seed=args.seed)
    study.parts.pop("retain")  # nothing is asked of them

    def say(what: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {what}", flush=True)

    trained, _ = study.train_original()
    say("original trained")
    starts = {name: (trained if q is None else q.quantised(trained)) for name, q in regimes.STARTS.items()}
    # All is chosen before a retrained model exists, and before an unlearned one is rounded.
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for start, original in starts.items():
        for name, regime in (regimes.QUICK if args.quick else regimes.FULL).items():
            chosen[start, name] = study.choose(original, regime.method, regime.candidates(LR))
            say(f"original of {start}: {name}: criterion {chosen[start, name]['criterion']:.3f}")
    retrained = [study.retrain(trained, index)[0] for index in range(size.retrains)]
    say(f"{size.retrains} retrained models")
    limit = max(held_out(study, model) for model in (trained, *retrained))
    rows = []
    for (start, name), found in chosen.items():
        model = found.pop("model")
        row: dict[str, Any] = {"start": start, "method": name, **found}
        rows.append(row)
        if model is None:
            say(f"original of {start}: {name}: no model")
            continue
        row["held_out_nll"] = held_out(study, model)
        row["held_out_limit"] = limit
        others = as_handed_on(retrained, regimes.STARTS[start])
        row["attack"] = attacked(study, starts[start], model, others, size.n_resamples)
        say(f"original of {start}: {name}: rounded")
    return {
        "command": "python examples/quantisation_recovery/run.py" + (" --quick" if args.quick else ""),
        "about": {
            "machine": f"{len(os.sched_getaffinity(0))} CPU cores, threads: {args.threads}",
            "device": args.device,
            "torch": torch.__version__,
            "model": f"gpt2, {sum(p.numel() for p in trained.parameters()) / 1e6:.1f} M parameters, float32",
            "notes": "{} train, {} validation and {} test patients".format(*size.patients),
            "n_forget": size.n_forget,
            "copies": size.copies,
            "retrained": size.retrains,
        },
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
    }


def write(document: dict[str, Any], folder: Path) -> None:
    """``results.json``, ``results.md`` and ``results.png``, and the table on the console."""
    from forgetmi.files import write_text
    from quantisation_recovery.page import draw, page

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(document, allow_nan=False) + "\n")
    write_text(folder / "results.md", page(document))
    draw(document, folder / "results.png")
    print("\n" + page(document))
    print(f"written: results.md, results.json and results.png in {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
