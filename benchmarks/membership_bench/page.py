"""The page of results, and which targets are missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membership_bench.cases import CASES

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def fastest(sides: Mapping[str, Mapping[str, Any]]) -> tuple[str, float] | None:
    """(peer, its seconds of the processor over ours) of the fastest peer that ran, or ``None``.

    Not seconds on the clock: on a busy machine a short call slips through between others, and a long one does not.
    """
    ran = {side: found["processor_s"] for side, found in sides.items() if side != "ours" and "seconds" in found}
    if not ran or "seconds" not in sides["ours"]:
        return None
    peer = min(ran, key=lambda side: ran[side])
    return peer, ran[peer] / sides["ours"]["processor_s"]


def missed(results: Results) -> list[str]:
    """What ours must be and is not."""
    wrong = []
    for name, sides in results.items():
        case, ours, best = CASES[name], sides["ours"], fastest(sides)
        if "failed" in ours:
            wrong.append(f"{case.title}: failed: {ours['failed']}")
            continue
        if best is not None and best[1] < case.times:
            wrong.append(f"{case.title}: {best[1]:.1f} x {best[0]}'s speed, {case.times:g} x wanted")
        if case.mib is not None and ours.get("mib", 0.0) > case.mib:
            wrong.append(f"{case.title}: {ours['mib']:.2f} MiB, {case.mib:g} MiB allowed")
    return wrong


def page(results: Results, machine: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    quick = machine["divisor"] > 1
    lines = [
        "# Membership inference and statistics: time and memory",
        "",
        f"`python benchmarks/membership.py{' --quick' * quick}` on {machine['cores']} cores, Python "
        f"{machine['python']}, numpy {machine['numpy']}; other processes used the machine too (load "
        f"{machine['load_before']} before, {machine['load_after']} after). {machine['turns']} turns, each side a "
        "process of its own in each (one turn only for what is 10 times slower than the fastest peer). Seconds on the "
        "clock: the best call of the best turn, in brackets the best call of the worst turn. Extra memory: the most "
        "that one call allocated at a time; not traced where a call takes more than 3 seconds.",
        "",
    ]
    for name, sides in results.items():
        case, best = CASES[name], fastest(sides)
        lines += [f"## {case.title}", ""]
        if best is not None:
            wanted = "" if quick else f" (wanted: {case.times:g})"
            lines += [
                f"{best[1]:.1f} times as fast as the fastest peer, {best[0]}{wanted}, by the processor's seconds.",
                "",
            ]
        lines += [f"| side | seconds | processor s | extra MiB | times ours | {case.outcome_name} |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [_row(side, found, sides["ours"]) for side, found in sides.items()]
        lines.append("")
    wrong = missed(results)
    if quick:
        lines.append("A tenth of the sizes: says nothing about the targets.")
    else:
        lines += ["Targets missed:", "", *(f"- {line}" for line in wrong)] if wrong else ["No target is missed."]
    return "\n".join(lines) + "\n"


def _row(side: str, found: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    if "failed" in found:
        return f"| {side} | not run: {found['failed']} | | | | |"
    times = f"{found['processor_s'] / ours['processor_s']:.1f}" if "seconds" in ours else ""
    mib = f"{found['mib']:.2f}" if "mib" in found else "not traced"
    return (
        f"| {side} | {found['seconds']:.4f} ({max(found['turns_s']):.4f}) | {found['processor_s']:.4f} | {mib} | "
        f"{times} | {found['outcome']:.5f} |"
    )
