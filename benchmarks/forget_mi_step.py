"""Records per second and peak memory of one Forget-MI epoch on the published network: ours and the published step's.

    python benchmarks/forget_mi_step.py [--records 4] [--batch-size 4] [--threads 2] [--device cpu] [--repeats 3]
                                        [--peer FOLDER] [--no-parts] [--quick] [--out benchmarks/results]

The network is the published one with random weights: films of 2048 pixels, a text encoder of BERT-base's size. Texts
are Indiana reports (findings and impression) where torchxrayvision is installed. Each run is a process of its own, so
that its peak memory is its own; both sides take turns. See ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGET_SPEED, TARGET_MEMORY = 5.0, 0.5
QUICK = {
    "records": 2,
    "batch_size": 2,
    "image_size": 1537,
    "network": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "vocab_size": 2000,
    },
}  # fmt: skip
PARTS: list[tuple[str, dict[str, bool]]] = [
    ("only the four passes that enter the loss", {"needed_passes": True}),
    (
        "the original without dropout and gradients, the model without dropout",
        {"teacher_frozen": True, "student_eval": True},
    ),
    ("texts padded to the batch's longest, not to 320", {"short_padding": True}),
    ("texts share rows, next to no padding", {"packed": True}),
    ("image noise drawn in float32", {"float_noise": True}),
]
"""Savings on the published step, each with all those before it."""

Job = Mapping[str, Any]
Figures = dict[str, Any]


def measure_here(job: Job) -> Figures:
    """One run in this process."""
    sys.path.insert(0, str(HERE))
    import torch
    from forget_mi.data import Setting, make_data
    from forget_mi.published import Savings
    from forget_mi.sides import run_ours, run_published

    setting = Setting(**job["setting"])
    torch.set_num_threads(setting.threads)
    data = make_data(setting)
    if job["side"] == "ours":
        return run_ours(setting, data, job.get("accumulate", 1))
    return run_published(
        setting, data, Savings(**job.get("savings", {})), Path(job["peer"]) if job.get("peer") else None
    )


def measure(job: Job) -> Figures:
    """One run in a process of its own."""
    threads = str(job["setting"]["threads"])
    # What the command `forgetmi` sets; the published code does not, and so the table says what it is worth.
    large_pages = job["side"] == "ours" or job.get("large_pages", False)
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(job)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "THP_MEM_ALLOC_ENABLE": str(int(large_pages)),
        },
    )
    if done.returncode:
        raise SystemExit(f"a run failed ({done.returncode}):\n{done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def run(
    setting: Mapping[str, Any],
    repeats: int,
    parts: bool,
    peer: Path | None,
    run_one: Callable[[Job], Figures],
    keep: Callable[[Figures], None],
) -> None:
    """All runs, both sides taking turns. ``keep`` is told what there is after each turn and each part."""
    theirs: Figures = {"side": "published", "setting": setting}
    if peer is not None:
        theirs["peer"] = str(peer)
    mine: Figures = {"side": "ours", "setting": setting}
    results: Figures = {"published": [], "ours": [], "parts": []}
    for _ in range(repeats):
        results["published"].append(_told("published", run_one(theirs)))
        results["ours"].append(_told("ours", run_one(mine)))
        keep(results)
    savings: dict[str, bool] = {}
    for what, switches in PARTS if parts else []:
        savings |= switches
        figures = run_one({"side": "published", "setting": setting, "savings": savings})
        results["parts"].append({"what": what, **_told(what, figures)})
        keep(results)
    if parts:
        what = "large memory pages"
        figures = run_one({"side": "published", "setting": setting, "savings": savings, "large_pages": True})
        results["parts"].append({"what": what, **_told(what, figures)})
        keep(results)
    if parts and setting["batch_size"] > 1:
        results["in_two_pieces"] = _told("ours, each batch in two pieces", run_one({**mine, "accumulate": 2}))
        keep(results)


def _told(what: str, figures: Figures) -> Figures:
    epochs = "; ".join(f"{name}: {f['records_per_second']:.3f} records/s" for name, f in figures["epochs"].items())
    print(f"{what}: {epochs}; peak {figures['peak_mib']} MiB", flush=True)
    return figures


def summarise(results: Figures) -> Figures:
    """Medians, and ratios of the two sides of each turn, which saw about the same load."""
    published, ours = results["published"], results["ours"]
    base = next(iter(published[0]["epochs"]))
    summary: Figures = {"published": _medians(published, base)}
    summary["published"]["peak_mib"] = statistics.median(r["peak_mib"] for r in published)
    for name in ours[0]["epochs"]:
        ratios = [
            mine["epochs"][name]["records_per_second"] / theirs["epochs"][base]["records_per_second"]
            for mine, theirs in zip(ours, published, strict=True)
        ]
        summary[f"ours, {name}"] = {
            **_medians(ours, name),
            "peak_mib": statistics.median(r["peak_mib"] for r in ours),
            "times_faster": round(statistics.median(ratios), 2),
            "times_faster_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    share = [mine["peak_mib"] / theirs["peak_mib"] for mine, theirs in zip(ours, published, strict=True)]
    summary["memory_share"] = round(statistics.median(share), 3)
    slowest = min(
        entry["times_faster"] for entry in summary.values() if isinstance(entry, dict) and "times_faster" in entry
    )
    summary["target_met"] = {"speed": slowest >= TARGET_SPEED, "memory": summary["memory_share"] <= TARGET_MEMORY}
    return summary


def _medians(runs: Sequence[Figures], epoch: str) -> Figures:
    return {
        key: round(statistics.median(run["epochs"][epoch][key] for run in runs), 4)
        for key in ("records_per_second", "seconds", "cpu_seconds")
    }


def report(content: Figures) -> str:
    """The results as a page."""
    setting, machine, summary = content["setting"], content["machine"], content["summary"]
    results = content["results"]
    tokens = results["ours"][0]["tokens"]
    n = setting["records"]
    met = summary["target_met"]
    gpu = f", one {machine['gpu']}" if "gpu" in machine else ""
    lines = [
        "# One Forget-MI epoch on the published network",
        "",
        f"`{content['command']}` on {machine['description']}{gpu}; {setting['threads']} threads, "
        f"Python {machine['python']}, torch {machine['torch']}; load of the machine from {machine['load']} at the "
        f"start to {machine['load_at_end']} at the end.",
        f"{n} forget records and as many retain records in batches of {setting['batch_size']}, films of "
        f"{setting['image_size']} pixels, texts: {results['ours'][0]['texts']}, {statistics.mean(tokens):.0f} tokens "
        f"on average, {max(tokens)} at most; float32. Turns of both sides: {content['turns']}; medians.",
    ]
    if setting["network"]:
        lines += ["", "**A quick run on a tiny text encoder: its figures say nothing about the published network.**"]
    peer = " (network and gates of the checkout)" if content["peer"] else ""
    lines += [
        "",
        "| | records/s | times the published (range) | CPU s a record | peak MiB |",
        "| --- | --- | --- | --- | --- |",
        f"| published step{peer} | {summary['published']['records_per_second']:.3f} | 1 | "
        f"{summary['published']['cpu_seconds'] / n:.2f} | {summary['published']['peak_mib']:.0f} |",
    ]
    for name, entry in summary.items():
        if name.startswith("ours"):
            low, high = entry["times_faster_range"]
            lines.append(
                f"| {name} | {entry['records_per_second']:.3f} | {entry['times_faster']:.2f} "
                f"({low:.2f} to {high:.2f}) | {entry['cpu_seconds'] / n:.2f} | {entry['peak_mib']:.0f} |"
            )
    if not setting["network"]:
        lines += [
            "",
            f"Peak memory: {100 * summary['memory_share']:.0f} % of the published step's. "
            f"Target of at least {TARGET_SPEED:g} times the records per second in either kind of epoch: "
            f"{'reached' if met['speed'] else 'not reached'}; of at most {100 * TARGET_MEMORY:.0f} % of the memory: "
            f"{'reached' if met['memory'] else 'not reached'}.",
        ]
    lines += ["", *_parts(content)]
    return "\n".join(lines) + "\n"


def _parts(content: Figures) -> list[str]:
    results, n = content["results"], content["setting"]["records"]
    if not results["parts"]:
        return ["The gain was not taken apart in this run."]
    summary = content["summary"]
    lines = [
        "## Where the gain comes from",
        "",
        "Each line adds one saving to those above it; one run each, at the load that the machine had then, so that CPU",
        "seconds tell more than records per second.",
        "",
        "| | CPU s a record | times the line above | records/s | peak MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = [("published step", summary["published"], summary["published"]["peak_mib"])]
    rows += [(part["what"], next(iter(part["epochs"].values())), part["peak_mib"]) for part in results["parts"]]
    rows += [(name, entry, entry["peak_mib"]) for name, entry in summary.items() if name.startswith("ours")]
    before = None
    for what, figures, peak in rows:
        gain = "" if before is None else f"{before / figures['cpu_seconds']:.2f}"
        before = figures["cpu_seconds"]
        lines.append(f"| {what} | {before / n:.2f} | {gain} | {figures['records_per_second']:.3f} | {peak:.0f} |")
    if pieces := results.get("in_two_pieces"):
        figures = next(iter(pieces["epochs"].values()))
        lines += [
            "",
            f"Ours with `fit.accumulate: 2` (each batch in two pieces): {figures['records_per_second']:.3f} records/s, "
            f"{figures['cpu_seconds'] / n:.2f} CPU s a record, peak {pieces['peak_mib']} MiB.",
        ]
    return lines


def machine(setting: Mapping[str, Any]) -> Figures:
    """In words, without a name."""
    from importlib.metadata import version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return {
        "description": f"{cores} CPU cores, {memory} GB",
        "python": platform.python_version(),
        "torch": version("torch").split("+")[0],
        "load": round(os.getloadavg()[0], 1),
    }


def main(arguments: Sequence[str] | None = None, run_one: Callable[[Job], Figures] = measure) -> int:
    """Run, print and write ``forget_mi_step.json`` and ``forget_mi_step.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=4, help="forget records of an epoch")
    parser.add_argument("--batch-size", type=int, default=4, help="published: 16, which needs some 30 GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="a checkout of the published code: its network and gates are used")
    parser.add_argument("--no-parts", action="store_true", help="do not take the gain apart")
    parser.add_argument("--quick", action="store_true", help="a tiny text encoder, one turn: does it run at all?")
    parser.add_argument("--out", type=Path, help="folder of the results; benchmarks/results, and nowhere when --quick")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(measure_here(json.loads(given.child))))
        return 0
    for name in ("records", "batch_size", "threads", "repeats"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    setting: dict[str, Any] = {
        "records": given.records, "batch_size": given.batch_size, "threads": given.threads, "device": given.device,
        "image_size": 2048, "network": {}, "seed": 0,
    }  # fmt: skip
    if given.quick:
        setting |= QUICK
    repeats = 1 if given.quick else given.repeats
    about = machine(setting)
    shown = "--peer FOLDER" if given.peer else ""
    options = [a for a in (sys.argv[1:] if arguments is None else arguments) if a in ("--quick", "--no-parts")]
    sizes = f"--records {setting['records']} --batch-size {setting['batch_size']} --threads {setting['threads']}"
    sizes += f" --device {given.device} --repeats {repeats}"
    command = " ".join(filter(None, ["python benchmarks/forget_mi_step.py", sizes, *options, shown]))
    out = given.out or (None if given.quick else HERE / "results")
    pages: list[str] = []

    def keep(results: Figures) -> None:
        gpu = {"gpu": results["ours"][0]["gpu"]} if "gpu" in results["ours"][0] else {}
        content = {
            "command": command,
            "machine": {**about, "load_at_end": round(os.getloadavg()[0], 1), **gpu},
            "setting": setting,
            "turns": len(results["ours"]),
            "peer": bool(given.peer),
            "targets": {"times_faster": TARGET_SPEED, "memory_share": TARGET_MEMORY},
            "summary": summarise(results),
            "results": results,
        }
        pages.append(report(content))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "forget_mi_step.json").write_text(json.dumps(content, indent=2) + "\n")
            (out / "forget_mi_step.md").write_text(pages[-1])

    run(setting, repeats, not given.no_parts and not given.quick, given.peer, run_one, keep)
    print(pages[-1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
