"""Tokens per second and peak memory of unlearning steps of a language model: ours, the peer's, the published step.

    python benchmarks/lm_step.py [--inputs FOLDER] [--peer FOLDER] [--methods npo ...] [--turns 3] [--quick]
    python benchmarks/lm_step.py --memory [--peer FOLDER] [--threads 2]

NPO, NPO with KL, DPO, GradDiff, RMU and FLAT, each through ``method.unlearn`` and the package's trainer, against
open-unlearning's trainers where ``--peer`` names a checkout of it. Where it does not, or has no such method (FLAT),
against the published step in our own words. Same weights, same records in the same order, one thread; each run a
process of its own; sides take turns.
``--memory`` measures full fine-tuning of a network of SmolLM2-135M's shape instead. See ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INPUTS = Path("..") / "shared" / "reference_values" / "open_unlearning" / "bench_inputs"
METHODS = ("npo", "npo_kl", "dpo", "grad_diff", "rmu", "flat")
NOT_THEIRS = ("flat",)
SMOL = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
LARGE = {"records": 4, "batch_size": 4, "epochs": 2, "network": SMOL, "length": 512}
QUICK = {
    "records": 4, "batch_size": 2, "epochs": 1, "inputs": None,
    "network": {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2},
}  # fmt: skip

Figures = dict[str, Any]
Job = Mapping[str, Any]


def measure_here(job: Job) -> Figures:
    """One run in this process."""
    sys.path.insert(0, str(HERE))
    import torch
    from lm_bench.data import Setting
    from lm_bench.sides import measure

    torch.set_num_threads(job["threads"])
    return measure(job["side"], Setting(**job["setting"]), Path(job["peer"]) if job.get("peer") else None)


def measure(job: Job) -> Figures:
    """One run in a process of its own."""
    threads = str(job["threads"])
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(job)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    if done.returncode:
        raise SystemExit(
            f"{job['setting']['method']}, {job['side']}: failed ({done.returncode})\n{done.stderr[-3000:]}"
        )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    shown = f"{figures['tokens'] / figures['seconds']:.0f} tokens/s, {figures['added_mib']:.0f} MiB added"
    print(f"{job['setting']['method']}, {job['side']}: {shown}", flush=True)
    return figures


def run(
    jobs: Sequence[Mapping[str, Any]],
    peer: Path | None,
    threads: int,
    turns: int,
    run_one: Callable[[Job], Figures],
    keep: Callable[[dict[str, Figures]], None],
) -> None:
    """All runs of these settings, sides taking turns; ``keep`` is told what there is after each turn."""
    results: dict[str, Figures] = {job["method"]: {} for job in jobs}
    for _ in range(turns):
        for setting in jobs:
            theirs = "peer" if peer is not None and setting["method"] not in NOT_THEIRS else "published"
            sides = ("ours",) if setting["method"] == "fine_tune" else (theirs, "ours")
            for side in sides:
                job = {
                    "side": side,
                    "setting": setting,
                    "threads": threads,
                    "peer": str(peer) if side == "peer" else None,
                }
                results[setting["method"]].setdefault(side, []).append(run_one(job))
        keep(results)


def main(arguments: Sequence[str] | None = None, run_one: Callable[[Job], Figures] = measure) -> int:
    """Run, print and write ``lm_step.json`` and ``lm_step.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--inputs", type=Path, help=f"weights and records; {INPUTS} where it is there, else made-up ones"
    )
    parser.add_argument("--peer", type=Path, help="a checkout of open-unlearning")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, help="1, and 2 with --memory, where time is not what is measured")
    parser.add_argument("--memory", action="store_true", help="a network of 135 million weights, 4 x 512 tokens")
    parser.add_argument("--quick", action="store_true", help="a tiny network, one turn: does it run at all?")
    parser.add_argument("--out", type=Path, help="folder of the results; benchmarks/results, and nowhere when --quick")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(measure_here(json.loads(given.child))))
        return 0
    if given.turns < 1 or (given.threads is not None and given.threads < 1):
        parser.error("--turns and --threads must be at least 1")
    if given.inputs is not None and not (given.inputs / "model" / "config.json").is_file():
        parser.error(f"--inputs: {given.inputs} has no model/config.json")
    sys.path.insert(0, str(HERE))
    from lm_bench.page import machine, report, summarise

    default = HERE.parent / INPUTS
    inputs = given.inputs or (default if default.is_dir() else None)
    threads = given.threads or (2 if given.memory else 1)
    turns = 1 if given.quick or given.memory else given.turns
    part = "memory" if given.memory else "speed"
    methods = ("fine_tune", "grad_diff", "npo") if given.memory else tuple(given.methods)
    shape: Figures = dict(LARGE) if given.memory else {"inputs": str(inputs) if inputs else None}
    if given.quick:
        shape |= QUICK
    options = [f"--{name}" for name in ("memory", "quick") if getattr(given, name)]
    options += ["--peer FOLDER"] if given.peer else []
    options += [f"--turns {turns}"] if turns != 3 and not options else []
    out = given.out or (None if given.quick else HERE / "results")
    about = {"command": " ".join(["python benchmarks/lm_step.py", *options]), "machine": machine(), "threads": threads,
             "peer": bool(given.peer), "quick": given.quick, "turns": turns}  # fmt: skip
    about["setting"] = {**shape, "inputs": "bench_inputs" if shape.get("inputs") else "made up"}
    content: Figures = {}
    if out is not None and (out / "lm_step.json").is_file():
        content = json.loads((out / "lm_step.json").read_text(encoding="utf-8"))  # the other part

    def keep(results: dict[str, Figures]) -> None:
        content[part] = {**about, "summary": summarise(results, part), "results": results}
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "lm_step.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (out / "lm_step.md").write_text(report(content), encoding="utf-8")

    run([{**shape, "method": name} for name in methods], given.peer, threads, turns, run_one, keep)
    print(report(content))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
