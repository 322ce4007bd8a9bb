"""The whole audit of a language model of notes, from one command; see README.md beside this file.

python examples/notes_lm/audit.py [--quick] [--method npo] [--out FOLDER] [--device DEVICE] [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


LANGUAGE = {
    "extraction": {"parts": ["exposure", "templates", "samples"], "samples": 5, "leak_at": [1, 5]},
    "relearning": {"n_records": 9, "steps": [0, 5, 20], "fit": {"lr": 1e-3, "batch_size": 9}},
}
"""What the models are asked beside the defaults; records stand three times in the data, so 9 of them are 3 patients."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer patients and two retrained models")
    parser.add_argument("--method", default="npo", help="what unlearns (npo)")
    parser.add_argument("--out", type=Path, default=Path("runs/notes_lm_audit"), help="folder (runs/notes_lm_audit)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run, as forgetmi run takes them"
    )
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Write the notes and a configuration, then do what ``forgetmi run`` does."""
    import forgetmi
    from forgetmi.errors import ForgetMIError

    args = arguments(given)
    try:
        config = prepare(args)
        result = forgetmi.run(config, args.overrides, resume=True)
    except ForgetMIError as error:
        print(error, file=sys.stderr)
        return 1
    verdict = result.evidence["verdict"]
    print(f"\n{verdict['decision']}: {verdict['summary']}")
    for reason in verdict["reasons"]:
        print(f"  - {reason}")
    print(f"report: {result.report}\nthe same again: forgetmi run --config {config}")
    return 0


def prepare(args: argparse.Namespace) -> Path:
    """The configuration's path. Notes and request stand beside it: real reports, so the folder is not to be shared."""
    from forgetmi.files import write_text
    from notes_lm import notes, settings
    from notes_lm.run import FULL, QUICK
    from notes_lm.study import ModelPlan

    size, lr, plan = QUICK if args.quick else FULL, 3e-3, ModelPlan()
    made = notes.make_notes(
        notes.report_texts(), size.patients, n_forget=size.n_forget, copies=size.copies, seed=args.seed
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [{"note": r.sample_id, "patient": r.patient_id, "split": r.split, **r.value("note")} for r in made.notes]
    write_text(args.out / "notes.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(args.out / "forget.csv", "patient_id\n" + "".join(f"{who}\n" for who in made.forgotten))
    chosen = settings.candidates(args.method, lr, epochs=size.forget_epochs, quick=True)
    config: dict[str, Any] = {
        "data": {
            "adapter": "text_records",
            "path": "notes.jsonl",
            "columns": {
                "prompt": "prompt", "answer": "answer", "patient_id": "patient", "sample_id": "note", "split": "split",
            },
        },
        "request": {"file": "forget.csv"},
        "task": {"name": "causal_lm"},
        "model": {
            "kind": "causal_lm",
            "modalities": {
                "dialogue": {
                    "vocab_size": plan.vocabulary, "format": notes.FORMAT,
                    "max_length": plan.max_length, "on_long": "cut",
                }
            },
            "config": {
                "model_type": "gpt2", "n_positions": plan.max_length, "n_embd": plan.width, "n_layer": plan.layers,
                "n_head": plan.heads, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
            },
        },
        "training": {"epochs": size.epochs, "batch_size": 16, "lr": lr, "schedule": "linear", "warmup": 0.05},
        "unlearning": {"method": args.method, **chosen[0]},
        "audit": {"retrains": size.retrains, "workers": 1 if args.quick else 2, "language": LANGUAGE},
        "run": {"folder": "run", "seed": args.seed, "device": args.device, "threads": 1},
    }  # fmt: skip
    path: Path = args.out / "run.yaml"
    write_text(path, json.dumps(config, indent=1) + "\n")  # JSON is YAML
    return path


if __name__ == "__main__":
    raise SystemExit(main())
