"""Metrics of language models: how fast, against the loops that define them, and whether the values are the same.

    python benchmarks/lm_metrics.py [--quick] [--parts extraction tofu] [--results FOLDER]
    python benchmarks/lm_metrics.py --parts tofu --inputs FOLDER --peer CHECKOUT --peer-python PYTHON

``extraction``: EL_10 and memorisation accuracy of 64 texts of 200 tokens, against greedy calls of ``generate`` from
every token. The target is ten times a call for each text and offset, with identical values; the exit status is 1 where
a part misses its target. ``tofu``: a TOFU evaluation with all metrics and six membership attacks, on made-up data or a
folder's, beside a checkout of open-unlearning; the target is a third of its processor seconds. A run of some parts
leaves the others' results as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_metrics_bench import extraction, tofu_side

PARTS: dict[str, Any] = {"extraction": extraction, "tofu": tofu_side}


def machine() -> str:
    """What it was measured on."""
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{os.cpu_count()} {platform.machine()} CPU cores, load {os.getloadavg()[0]:.0f} at the end"
    )


def page(results: dict[str, Any]) -> str:
    """The results as a page to read."""
    lines = ["# Metrics of language models"]
    for name, found in results.items():
        lines += ["", *PARTS[name].page(found), "", f"{found['machine']}."]
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="does it run at all? writes only with --results")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--results", type=Path, help="folder for lm_metrics.json and lm_metrics.md")
    parser.add_argument(
        "--inputs", type=Path, help="tofu: folder with model and locuslab/TOFU; made-up data without it"
    )
    parser.add_argument("--peer", type=Path, help="tofu: checkout of open-unlearning")
    parser.add_argument("--peer-python", default=sys.executable, help="tofu: interpreter that can run the checkout")
    parser.add_argument("--turns", type=int, default=5, help="tofu: runs of each side (5)")
    given = parser.parse_args(arguments)
    folder = given.results or (None if given.quick else Path(__file__).parent / "results")
    kept = folder / "lm_metrics.json" if folder else None
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.is_file() else {}
    problems = []
    for name in given.parts:
        more = (
            {key: getattr(given, key) for key in ("inputs", "peer", "peer_python", "turns")} if name == "tofu" else {}
        )
        results[name] = {**PARTS[name].measure(given.quick, **more), "machine": machine()}
        problems += PARTS[name].broken(results[name])
    results = {name: results[name] for name in PARTS if name in results}
    text = page(results)
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lm_metrics.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (folder / "lm_metrics.md").write_text(text, encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems and not given.quick else 0


if __name__ == "__main__":
    sys.exit(main())
