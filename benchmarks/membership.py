"""Time and memory of the attacks and statistics of an audit, beside other people's on the same arrays.

    python benchmarks/membership.py                                 # ours alone: a minute
    python benchmarks/membership.py --peer FOLDER --peer FOLDER     # checkouts; about 15 minutes for six
    python benchmarks/membership.py --quick --peer FOLDER           # a tenth of the sizes: does it run at all?

A checkout is recognised by its files. See ``benchmarks/README.md``. The exit status is 1 where a target is missed at
the full sizes.
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

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
TRACED = 3.0  # memory is traced, which takes several times as long, where a call takes fewer seconds


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    from membership_bench.cases import CASES
    from membership_bench.peers import PEERS, recognise

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, action="append", default=[], metavar="FOLDER", help="checkout; repeatable")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--turns", type=int, default=3, help="both sides take turns so often (3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, one turn; writes only with --out")
    parser.add_argument("--out", type=Path, help="folder of the results (benchmarks/results)")
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--side", default="ours", help=argparse.SUPPRESS)
    parser.add_argument("--divisor", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    unknown = [folder for folder in found.peer if not recognise(folder)]
    if unknown:
        parser.error(f"no checkout of {', '.join(peer.name for peer in PEERS)}: {', '.join(map(str, unknown))}")
    if found.turns < 1:
        parser.error("--turns must be at least 1")
    return found


def sides(case: str, folders: Sequence[Path]) -> dict[str, Path | None]:
    """Ours, and every peer of the checkouts that does this."""
    from membership_bench.peers import recognise

    there = {peer.name: folder for folder in folders for peer in recognise(folder) if case in peer.calls}
    return {"ours": None, **there}


def run_case(case: str, folders: Sequence[Path], turns: int, divisor: int) -> dict[str, dict[str, Any]]:
    """Side to its best turn: seconds, all turns' seconds, memory; or why it failed."""
    from membership_bench.measure import in_process

    found: dict[str, dict[str, Any]] = {}
    taking_part = sides(case, folders)
    for turn in range(turns):
        for side, folder in taking_part.items():
            if turn and not in_the_running(side, found):
                continue
            made = in_process(Path(__file__), case, side, folder, divisor, memory=False)
            if "failed" in made:
                found[side] = made
                print(f"{case:20s} {side:20s} failed: {made['failed']}", flush=True)
                continue
            best = found.setdefault(side, {**made, "turns_s": []})
            best["turns_s"].append(made["seconds"])
            best["seconds"] = min(best["turns_s"])
            best["processor_s"] = min(best["processor_s"], made["processor_s"])
            print(f"{case:20s} {side:20s} turn {turn + 1}: {made['seconds']:.4f} s", flush=True)
        if "failed" in found["ours"]:
            break
    for side, folder in taking_part.items():
        if found[side].get("seconds", TRACED) < TRACED:
            traced = in_process(Path(__file__), case, side, folder, divisor, memory=True)
            found[side] |= {"mib": traced["mib"]} if "mib" in traced else {}
    return found


def in_the_running(side: str, found: dict[str, dict[str, Any]]) -> bool:
    """Whether more turns can tell something: a side that is 10 times slower than the fastest peer takes one."""
    peers = [run["seconds"] for name, run in found.items() if name != "ours" and "seconds" in run]
    return side == "ours" or ("seconds" in found[side] and found[side]["seconds"] <= 10.0 * min(peers))


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write the results, say whether the targets are met."""
    options = arguments(given)
    if options.measure:
        from membership_bench.measure import measure

        folder = options.peer[0].resolve() if options.peer else None
        print(json.dumps(measure(options.measure, options.side, folder, options.divisor, options.memory)))
        return 0
    from membership_bench.page import missed, page

    divisor, turns = (10, 1) if options.quick else (1, options.turns)
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_before": round(os.getloadavg()[0], 1),
        "divisor": divisor,
        "turns": turns,
    }
    folders = [folder.resolve() for folder in options.peer]
    results = {case: run_case(case, folders, turns, divisor) for case in options.cases}
    machine["load_after"] = round(os.getloadavg()[0], 1)
    text = page(results, machine)
    print(text)
    target = options.out or (None if options.quick else HERE / "results")
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        (target / "membership.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
        (target / "membership.md").write_text(text)
    return int(not options.quick and bool(missed(results)))


if __name__ == "__main__":
    raise SystemExit(main())
