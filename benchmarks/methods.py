"""Every unlearning method against retraining, on four data sets.

    python benchmarks/methods.py                          # resumes where it stopped; about 25 minutes on 2 cores
    python benchmarks/methods.py --quick                  # one seed, two retrained models: about 10 minutes
    python benchmarks/methods.py --device cuda
    python benchmarks/methods.py --datasets mnist_5k --methods ssd fine_tune --sizes 0.03 0.06 0.1 --seeds 0 1 2

Each cell is a JSON file under ``--work``; what is there is not computed again. See ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    from methods_bench.grids import REFERENCE
    from methods_bench.setups import SETUPS

    from forgetmi.methods import METHODS

    methods = [name for name in METHODS if name != REFERENCE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=SETUPS, default=list(SETUPS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.1], help="shares of the training patients")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--retrains", type=int, default=5, help="retrained models for each request, two at least")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, help="processes; by default one a core, and one on a GPU")
    parser.add_argument("--data", type=Path, help="folder with pneumoniamnist.npz (or set FORGETMI_DATA)")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/methods"), help="where cells are kept")
    parser.add_argument("--out", type=Path, help="folder of results; benchmarks/results, with --quick the work folder")
    parser.add_argument("--machine", default="", help="the machine, in words")
    parser.add_argument("--note", default="", help="what else the reader must know of this run")
    parser.add_argument("--quick", action="store_true", help="the first seed, two retrained models")
    parser.add_argument("--only-collect", action="store_true", help="write the pages from what is there")
    found = parser.parse_args(given)
    if found.quick:
        found.seeds, found.retrains = found.seeds[:1], 2
        found.work = found.work / "quick"
    if found.retrains < 2:
        parser.error("--retrains: two at least, for one retrained model shows no range")
    if wrong := [share for share in found.sizes if not 0 < share < 1]:
        parser.error(f"--sizes: {wrong[0]} is no share between 0 and 1")
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Compute what is missing and write the results."""
    args = arguments(given)
    from methods_bench.work import Plan, groups

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    plan = Plan(
        args.work, args.data, args.device, tuple(args.methods), tuple(args.seeds), tuple(args.sizes), args.retrains
    )
    out = args.out or (args.work if args.quick else HERE / "results")
    workers = args.workers or (1 if args.device.startswith("cuda") else len(os.sched_getaffinity(0)))
    broken: list[str] = []
    for group in [] if args.only_collect else groups(plan, args.datasets):
        broken += _round(plan, group, workers)
        write(plan, args, out)
    write(plan, args, out)
    for name in broken:
        print(f"not measured, for it broke: {name}", file=sys.stderr)
    return int(bool(broken))


def _round(plan: Any, group: list[tuple[str, float, int]], workers: int) -> list[str]:
    if workers == 1 or len(group) == 1:
        return [name for item in group for name in one(plan, *item)]
    # Each worker has its own cells, so that nothing but the processor is shared.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(group)), mp_context=context) as pool:
        futures = [pool.submit(one, plan, *item) for item in group]
        return [name for future in futures for name in future.result()]


def one(plan: Any, dataset: str, share: float, seed: int) -> list[str]:
    """One request's cells, in one thread: these models are too small for more. Returns what broke."""
    import torch
    from methods_bench.work import run_group

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("methods_bench").setLevel(logging.INFO)
    torch.set_num_threads(1)
    return run_group(plan, dataset, share, seed)


def command(args: argparse.Namespace) -> str:
    """The command that gives these results, without this machine's folders."""
    words = ["python benchmarks/methods.py", *(["--quick"] if args.quick else [])]
    usual = vars(arguments(["--quick"] if args.quick else []))
    changed = [name for name in ("datasets", "methods", "sizes", "seeds") if getattr(args, name) != usual[name]]
    words += [f"--{name} {' '.join(map(str, getattr(args, name)))}" for name in changed]
    if not args.quick:
        words.append(f"--retrains {args.retrains}")
    return " ".join([*words, f"--device {args.device}"])


def write(plan: Any, args: argparse.Namespace, out: Path) -> None:
    """``methods.json``, ``methods.md`` and a picture for each forget size."""
    import torch
    from methods_bench.page import page
    from methods_bench.picture import draw
    from methods_bench.table import collect

    from forgetmi.files import write_text

    document = {
        "command": command(args),
        "machine": {
            "name": args.machine or f"{len(os.sched_getaffinity(0))} CPU cores",
            "device": args.device,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "note": args.note,
        },
        "asked": {
            "methods": list(plan.methods),
            "seeds": list(plan.seeds),
            "sizes": list(plan.sizes),
            "retrains": plan.retrains,
        },
        **collect(plan, args.datasets),
    }
    write_text(out / "methods.json", json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(out / "methods.md", page(document))
    for share in plan.sizes:
        draw(document["rows"], share, out / f"methods-{share:g}.png")


if __name__ == "__main__":
    raise SystemExit(main())
