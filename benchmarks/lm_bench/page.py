"""Figures of several turns, and the page to read."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = dict[str, Any]
SPEED, SHARE, FITS_MIB = 1.5, 0.6, 8 * 1024
REFERENCED = ("npo", "npo_kl", "dpo", "rmu")
"""Methods that ask a frozen original."""

NAMES = {
    "npo": "NPO", "npo_kl": "NPO + KL", "dpo": "DPO", "grad_diff": "GradDiff", "rmu": "RMU", "flat": "FLAT",
    "fine_tune": "plain fine-tuning", "peer": "open-unlearning", "published": "published step", "ours": "ours",
}  # fmt: skip


def machine() -> Figures:
    """In words, without a name."""
    from importlib.metadata import version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return {
        "description": f"{cores} CPU cores, {memory} GB",
        "python": platform.python_version(),
        "torch": version("torch").split("+")[0],
        "transformers": version("transformers"),
        "load": round(os.getloadavg()[0], 1),
    }


def summarise(results: Mapping[str, Mapping[str, Sequence[Figures]]], part: str) -> Figures:
    """Medians over turns; ratios are taken within a turn, whose sides saw about the same load."""
    summary: Figures = {}
    for method, sides in results.items():
        found: Figures = {side: _medians(runs) for side, runs in sides.items()}
        if other := next((side for side in sides if side != "ours"), None):
            found["against"] = other
            for name, ratio in _RATIOS.items():
                found[name] = round(statistics.median(map(ratio, sides["ours"], sides[other])), 3)
        summary[method] = found
    return summary


_RATIOS: dict[str, Callable[[Figures, Figures], float]] = {
    "times_faster": lambda ours, other: other["seconds"] / ours["seconds"],
    "times_faster_cpu": lambda ours, other: other["cpu_seconds"] / ours["cpu_seconds"],
    "share_added": lambda ours, other: ours["added_mib"] / other["added_mib"],
    "share_whole": lambda ours, other: ours["peak_mib"] / other["peak_mib"],
}


def _medians(runs: Sequence[Figures]) -> Figures:
    def middle(value: Callable[[Figures], float]) -> float:
        return round(statistics.median(map(value, runs)), 3)

    return {
        "tokens_per_second": middle(lambda run: run["tokens"] / run["seconds"]),
        "tokens_per_cpu_second": middle(lambda run: run["tokens"] / run["cpu_seconds"]),
        "cpu_ms_a_step": middle(lambda run: 1e3 * run["cpu_seconds"] / run["steps"]),
        "ms_a_step": middle(lambda run: 1e3 * run["seconds"] / run["steps"]),
        "peak_mib": middle(lambda run: run["peak_mib"]),
        "added_mib": middle(lambda run: run["added_mib"]),
    }


def report(content: Mapping[str, Figures]) -> str:
    """Both parts, as far as they were run."""
    lines = ["# Unlearning steps of a language model", ""]
    if "speed" in content:
        lines += _speed(content["speed"])
    if "memory" in content:
        lines += _memory(content["memory"])
    return "\n".join(lines).rstrip() + "\n"


def _header(part: Figures) -> list[str]:
    about = part["machine"]
    lines = [
        f"`{part['command']}` on {about['description']}; threads: {part['threads']}; Python {about['python']}, "
        f"torch {about['torch']}, transformers {about['transformers']}; load of the machine at the start "
        f"{about['load']}; turns: {part['turns']}, medians.",
        "",
    ]
    return lines + (["**A quick run of a tiny network: its figures say nothing.**", ""] if part["quick"] else [])


def _speed(part: Figures) -> list[str]:
    made = part["setting"]["inputs"]
    lines = [
        "## Tokens per second", "", *_header(part),
        f"Llama of 4 layers x 256, vocabulary 5,000 ({made}), 8 forget records a step and 8 retain records beside "
        "them, float32, AdamW, gradients clipped. Tokens are those of all records that a step sees, no padding.", "",
        "| method | against | tokens/s ours | theirs | times | CPU ms a step ours | theirs | times (CPU) | MiB added "
        "ours | theirs | share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for method, found in part["summary"].items():
        ours, theirs = found["ours"], found[found["against"]]
        lines.append(
            f"| {NAMES[method]} | {NAMES[found['against']]} | {ours['tokens_per_second']:.0f} "
            f"| {theirs['tokens_per_second']:.0f} | {found['times_faster']:.2f} | {ours['cpu_ms_a_step']:.0f} "
            f"| {theirs['cpu_ms_a_step']:.0f} | {found['times_faster_cpu']:.2f} | {ours['added_mib']:.0f} "
            f"| {theirs['added_mib']:.0f} | {100 * found['share_added']:.0f} % |"
        )
    judged = {method: found for method, found in part["summary"].items() if method in REFERENCED}
    slow = [NAMES[m] for m, found in judged.items() if found["times_faster_cpu"] < SPEED]
    large = [NAMES[m] for m, found in judged.items() if found["share_added"] > SHARE]
    lines += [
        "",
        f"Goals for methods with a frozen original: at least {SPEED:g} times the tokens per processor second: "
        f"{_verdict(slow)}; at most {100 * SHARE:.0f} % of the memory that the run adds: {_verdict(large)}.",
        "",
        "MiB added: the largest resident set during the run less what was resident before weights were read, after a "
        "tiny network had gone the same way. Whole processes: "
        + "; ".join(
            f"{NAMES[m]} {f['ours']['peak_mib']:.0f} against {f[f['against']]['peak_mib']:.0f}"
            for m, f in part["summary"].items()
        )
        + " MiB.",
        "",
    ]
    return lines


def _verdict(missed: Sequence[str]) -> str:
    return f"missed by {', '.join(missed)}" if missed else "reached by all"


def _memory(part: Figures) -> list[str]:
    setting = part["setting"]
    lines = [
        "## Memory of full fine-tuning", "", *_header(part),
        f"{setting['network']['num_hidden_layers']} layers x {setting['network']['hidden_size']}, random weights in "
        f"float32, {setting['batch_size']} records of {setting['length']} tokens a step, of GradDiff and NPO as many "
        "retain records beside them; AdamW.", "",
        "| | whole process, GiB | added, GiB | share of theirs | CPU s a step |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for method, found in part["summary"].items():
        for side in ("ours", found.get("against")):
            if side is None:
                continue
            of = found[side]
            share = f"{100 * found['share_added']:.0f} %" if side == "ours" and "against" in found else ""
            lines.append(
                f"| {NAMES[method]}, {NAMES[side]} | {of['peak_mib'] / 1024:.2f} | {of['added_mib'] / 1024:.2f} "
                f"| {share} | {of['cpu_ms_a_step'] / 1e3:.1f} |"
            )
    most = max(found["ours"]["peak_mib"] for found in part["summary"].values())
    fits = "reached" if most <= FITS_MIB else "missed"
    lines += ["", f"Goal that ours fits in {FITS_MIB // 1024} GB, whole process: {fits}.", ""]
    return lines
