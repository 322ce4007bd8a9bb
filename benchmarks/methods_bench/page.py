"""The page to read. Every sentence is computed from the rows; none was written for a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from methods_bench.grids import OURS
from methods_bench.setups import SETUPS
from methods_bench.table import FLAGS, SHARE_GOAL, ranking

Row = Mapping[str, Any]
GOAL_SETS = 3
MANY = 6  # methods below which a rank correlation says nothing
FLAG_WORDS = {
    "over_forgotten": "over-forgets",
    "remembered": "remembers",
    "utility_lost": "less useful",
    "destroyed": "destroyed",
}
_PARTS = {
    "forget_accuracy": "forget accuracy",
    "retain_accuracy": "retain accuracy",
    "test_accuracy": "test accuracy",
    "mia_auc": "attack AUC",
}
_HEADER = (
    "| | method | gap to retrained (range) | accuracy forget / retain / test | test AUC, F1, CE | forget CE | MIA AUC "
    "(95 %) | TPR at 1 % FPR | ToW, ToW-MIA | time, share of retraining | peak MB | flags (seeds) |"
)


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    machine, rows = document["machine"], document["rows"]
    lines = [
        "# Methods against retraining",
        "",
        f"`{document['command']}` on {machine['name']}, device {machine['device']}, Python {machine['python']}, torch "
        f"{machine['torch']}. {machine['note']}".strip(),
        "",
        *_coverage(document),
        "",
        *_how_to_read(document),
    ]
    for dataset, about in document["datasets"].items():
        title = SETUPS[dataset].title if dataset in SETUPS else dataset
        lines += ["", f"## {title}", ""]
        if about["status"] != "measured":
            lines.append(_not_there(about))
            continue
        counts = ", ".join(f"{n:,} {split}" for split, n in about["records"].items())
        lines.append(f"{counts} records. " + " ".join(f"Note: {note}." for note in about["notes"]))
        for share in document["asked"]["sizes"]:
            some = [row for row in rows if row["dataset"] == dataset and row["share"] == share]
            if any(row["kind"] != "control" for row in some):
                lines += ["", *_table(some, share), "", *findings(some)]
            else:
                lines += ["", f"**{share:.0%} of the training patients forgotten**: not measured."]
    lines += ["", "## What the numbers say", "", *closing(document)]
    lines += ["", "## Chosen settings", "", *_tuned(document["tuned"])]
    return "\n".join(lines) + "\n"


def _coverage(document: Mapping[str, Any]) -> list[str]:
    asked = document["asked"]
    rows = [row for row in document["rows"] if row["kind"] != "control"]
    measured, wanted = sum(row["done"] for row in rows), 0
    for about in document["datasets"].values():
        wanted += (about["status"] == "measured") * len(asked["methods"]) * len(asked["seeds"]) * len(asked["sizes"])
    refused = sum(row["refused"] is not None for row in rows)
    sizes = ", ".join(f"{share:.0%}" for share in asked["sizes"])
    return [
        f"Asked for: {len(asked['methods'])} methods, {len(document['datasets'])} data sets, forget sizes {sizes}, "
        f"{len(asked['seeds'])} seeds, {asked['retrains']} retrained models each. Measured: {measured} of {wanted} "
        f"cells of the data sets that were run; {refused} rows are refusals, with their reason. "
        "What is not in a table was not measured."
    ]


def _how_to_read(document: Mapping[str, Any]) -> list[str]:
    clock = "wall time" if document["machine"]["device"].startswith("cuda") else "processor time"
    return [
        "**Gap**: mean absolute difference to the mean of the retrained models, over the accuracy on forgotten, "
        "retained and test records and the AUC of the membership attack (by loss, forgotten against test records); "
        "mean and range over the seeds. *Retrained* is each retrained model held out against the others: no method can "
        "be expected nearer. **Intervals** are patient-clustered bootstraps of one model; their ends are averaged over "
        f"the seeds. **Time** is {clock} of one run with the chosen settings; choosing them is not in it. **Peak** "
        "is the largest memory of the process (of the GPU), with libraries and data. **Flags** count seeds: the "
        "audit's rule (docs/verdict.md, loss attack only) finds that the model over-forgets, still remembers, or "
        "lost usefulness; *destroyed*: its test accuracy is over 10 points below every retrained model's. A method"
        " that was destroyed or diverged in any seed is not ranked. Settings: one of at most four for each method,"
        " chosen on forget and validation records of the first seed; no retrained model and no test record was "
        "looked at."
    ]


def _not_there(about: Mapping[str, Any]) -> str:
    if about["status"] == "skipped":
        return f"**Not measured:** {about['reason']}. To get it: {about['how']}."
    return "**Not measured**: it was not run."


def _table(rows: Sequence[Row], share: float) -> list[str]:
    order = {id(row): rank for rank, row in enumerate(ranking(rows), start=1)}
    controls = [row for row in rows if row["kind"] == "control"]
    nothing = next((row["gap"]["mean"] for row in controls if row["method"] == "original"), None)
    measured = sorted((r for r in rows if r["kind"] != "control"), key=lambda r: (order.get(id(r), 10**6), r["method"]))
    lines = [f"**{share:.0%} of the training patients forgotten**", "", _HEADER, "| --- " * 12 + "|"]
    for row in (*sorted(controls, key=lambda r: r["method"], reverse=True), *measured):
        mark = {"ours": "**", "control": "*"}.get(row["kind"], "")
        name = f"{mark}{row['method']}{mark}"
        if "gap" not in row:
            why = f"refused: {row['refused']}" if row["refused"] else f"diverged in {row['diverged']} seeds"
            lines.append(f"| – | {name} | {why} |" + " |" * 9)
            continue
        lines.append(f"| {order.get(id(row), '–')} | {name} | {' | '.join(_cells(row, nothing))} |")
    return lines


def _cells(row: Row, nothing: float | None) -> list[str]:
    """A row's cells; ``nothing`` is the gap of doing nothing."""
    figures = row["figures"]

    def value(name: str, digits: int = 3) -> str:
        return _number(figures[name]["value"], digits)

    attack, found = figures["mia_auc"], figures["mia_tpr_at_1_fpr"]
    shown = "not measurable" if found["value"] is None else f"{found['value']:.1%}"
    share, peak = row.get("time_share"), row.get("peak_mb")
    flags = [f"{FLAG_WORDS[flag]} {row['flags'][flag]}/{row['done']}" for flag in FLAGS if row["flags"][flag]]
    if row["diverged"]:
        flags.append(f"diverged in {row['diverged']}")
    if row["kind"] != "control" and nothing is not None and row["gap"]["mean"] >= nothing:
        flags.append("no nearer than the original")
    return [
        f"{row['gap']['mean']:.3f} ({row['gap']['low']:.3f}–{row['gap']['high']:.3f})",
        " / ".join(value(f"{part}_accuracy") for part in ("forget", "retain", "test")),
        f"{value('test_auc')}, {value('test_macro_f1')}, {value('test_cross_entropy', 2)}",
        value("forget_cross_entropy", 2),
        f"{value('mia_auc')} ({_number(attack['low'])}–{_number(attack['high'])})",
        shown,
        f"{row['tow']:.3f}, {row['tow_mia']:.3f}",
        "" if share is None else f"{share['mean']:.1%}",
        "" if peak is None else f"{peak:.0f}",
        "; ".join(flags)
        + (
            ""
            if row["kind"] == "control" or row["done"] == row["asked"]
            else f" ({row['done']} of {row['asked']} seeds)"
        ),
    ]


def findings(rows: Sequence[Row]) -> list[str]:
    """Sentences on one data set and forget size."""
    controls = {row["method"]: row for row in rows if row["kind"] == "control"}
    original, retrained = controls.get("original"), controls.get("retrained")
    ranked = ranking(rows)
    lines = []
    if original is not None:
        n, of = original["informative"], original["done"]
        lines.append(
            f"- The attack tells the untouched original from the retrained models in {n} of {of} seeds"
            + ("." if n == of else ": where it does not, nothing could have been detected.")
        )
    if not ranked:
        return [*lines, "- No method could be ranked."]
    best = ranked[0]
    lines.append(f"- Nearest to retrained: {_said(best)}.")
    for kind, what in (("ours", "The best of ours"), ("baseline", "The best baseline")):
        first = next((row for row in ranked if row["kind"] == kind), None)
        if first is not None and first is not best:
            lines.append(f"- {what}: {_said(first)}.")
    if retrained is not None and "gap" in retrained:
        floor = retrained["gap"]["mean"]
        near = [row["method"] for row in ranked if row["gap"]["mean"] <= floor]
        lines.append(
            f"- Retrained models differ from each other by {floor:.3f}; as near as that: {', '.join(near) or 'none'}."
        )
    if original is not None and "gap" in original:
        worse = [
            r["method"]
            for r in rows
            if "gap" in r and r["kind"] != "control" and r["gap"]["mean"] >= original["gap"]["mean"]
        ]
        lines.append(
            f"- No nearer to retrained than doing nothing (gap {original['gap']['mean']:.3f}), whatever was claimed "
            f"for them elsewhere: {', '.join(sorted(worse)) or 'none'}."
        )
    keeps = [r["method"] for r in ranked if r["flags"]["remembered"] == r["done"]]
    over = [r["method"] for r in ranked if r["flags"]["over_forgotten"] == r["done"]]
    lines.append(f"- Still remember in every seed: {', '.join(sorted(keeps)) or 'none'}.")
    lines.append(f"- Over-forget in every seed: {', '.join(sorted(over)) or 'none'}.")
    lost = sorted(r["method"] for r in rows if r["kind"] != "control" and not r["ranked"] and r["refused"] is None)
    lines.append(f"- Not ranked (destroyed or diverged in a seed at least): {', '.join(lost) or 'none'}.")
    return lines


def closing(document: Mapping[str, Any]) -> list[str]:
    """Whether the goal was met, for each forget size, and what the numbers say about why not."""
    lines = [
        f"The goal was: the best of ours ({', '.join(OURS)}) nearer to retrained than every baseline on at least "
        f"{GOAL_SETS} of the 4 data sets, at under {SHARE_GOAL:.0%} of retraining's time.",
    ]
    for share in sorted({row["share"] for row in document["rows"]}, reverse=True):
        rows = [row for row in document["rows"] if row["share"] == share]
        groups = sorted({(row["dataset"], row["share"]) for row in rows})
        seeds = ", ".join(f"{name} {max(r['done'] for r in rows if r['dataset'] == name and r['kind'] != 'control')}"
                          for name, _ in groups)  # fmt: skip
        lines += ["", f"### {share:.0%} forgotten", "", f"Seeds: {seeds}. {' '.join(_goal(rows, groups))}"]
        lines += ["", *_sides(rows, groups), *_why(rows, groups), *_tried(document, share), "", *_overall(rows, groups)]
    return lines if len(lines) > 1 else ["Nothing was measured, so nothing is said."]


def _goal(rows: Sequence[Row], groups: Sequence[tuple[str, float]]) -> list[str]:
    pairs = [pair for pair in (_best(rows, group) for group in groups) if pair is not None]
    if not pairs:
        return ["Nothing was measured on both sides, so nothing is said."]
    won = [ours["gap"]["mean"] < other["gap"]["mean"] for ours, other, _ in pairs]
    in_time = sum(nearer and _quick(ours) for nearer, (ours, _, _) in zip(won, pairs, strict=True))
    not_met = "**The goal is not met.**" if len(pairs) >= GOAL_SETS else "Of too few data sets to judge the goal by."
    among = sum(first is not None and first["kind"] == "ours" for *_, first in pairs)
    return [
        f"The best of ours is nearer on {sum(won)} of {len(pairs)} data sets, and on {in_time} of them in that time; "
        f"among methods that all keep to that time, one of ours is nearest on {among}.",
        "The goal is met." if in_time >= GOAL_SETS else not_met,
    ]


def _best(rows: Sequence[Row], group: tuple[str, float]) -> tuple[Row, Row, Row | None] | None:
    """The best of ours, the best baseline, and the best of all that keep to the goal's time."""
    ranked = ranking([row for row in rows if (row["dataset"], row["share"]) == group])
    ours = next((row for row in ranked if row["kind"] == "ours"), None)
    other = next((row for row in ranked if row["kind"] == "baseline"), None)
    if ours is None or other is None:
        return None
    return ours, other, next((row for row in ranked if _quick(row)), None)


def _sides(rows: Sequence[Row], groups: Sequence[tuple[str, float]]) -> list[str]:
    """The best of ours beside the best baseline, for each data set."""
    lines = []
    for group in groups:
        if (best := _best(rows, group)) is None:
            continue
        ours, other, first = best
        apart = abs(ours["gap"]["mean"] - other["gap"]["mean"])
        doubt = ""
        if min(ours["done"], other["done"]) < 2:
            doubt = " It rests on one seed."
        elif max(row["gap"]["high"] - row["gap"]["low"] for row in (ours, other)) > apart:
            doubt = " The seeds of one of the two differ by more than that."
        quickest = f" In under {SHARE_GOAL:.0%} of the time, nearest is {_said(first)}." if first is not None else ""
        nearer = "nearer" if ours["gap"]["mean"] < other["gap"]["mean"] else "not nearer"
        lines.append(
            f"- {group[0]}: the best of ours, {_said(ours)}, is {nearer} than the best baseline, {_said(other)}; the "
            f"difference is {apart:.3f}.{doubt}{quickest}"
        )
    return lines


def _why(rows: Sequence[Row], groups: Sequence[tuple[str, float]]) -> list[str]:
    """Which of the four figures keeps each of ours away from retrained."""
    lines = []
    for method in OURS:
        parts = []
        for dataset, share in groups:
            found = [
                r for r in rows if (r["dataset"], r["share"], r["method"]) == (dataset, share, method) and "gap" in r
            ]
            if not found:
                continue
            part, gap = max(found[0]["gap_parts"].items(), key=lambda item: abs(item[1]))
            parts.append(f"{dataset} {_PARTS[part]} {gap:+.3f}")
        if parts:
            lines.append(f"- What keeps {method} from retrained, the largest part of its gap: {'; '.join(parts)}.")
    return lines


def _tried(document: Mapping[str, Any], at: float) -> list[str]:
    """What was tried, and whether the criterion that settings are chosen by points to retrained at all."""
    from scipy.stats import spearmanr

    lines = []
    for dataset, sizes in document["tuned"].items():
        for share, methods in sizes.items():
            if float(share) != at:
                continue
            pairs = []
            for row in document["rows"]:
                found = methods.get(row["method"])
                if (row["dataset"], f"{row['share']:g}") == (dataset, share) and "gap" in row and found is not None:
                    chosen = [item["criterion"] for item in found["tried"] if item["options"] == found["options"]]
                    pairs.append((chosen[0], row["gap"]["mean"]))
            if len(pairs) < MANY:
                continue
            rho = float(spearmanr(*zip(*pairs, strict=True)).statistic)
            n = sum(len(found["tried"]) for method, found in methods.items() if method in OURS)
            lines.append(
                f"- {dataset}, {float(share):.0%}: {n} settings of ours were tried. Over {len(pairs)} methods "
                f"the criterion of the chosen setting and the gap to retrained have a rank correlation of {rho:.2f} "
                "(1: who is better on validation records is nearer to retrained)."
            )
    return lines


def _overall(rows: Sequence[Row], groups: Sequence[tuple[str, float]]) -> list[str]:
    """Mean rank over the groups, of methods that are ranked in all of them."""
    places: dict[str, list[int]] = {}
    for group in groups:
        for rank, row in enumerate(ranking([r for r in rows if (r["dataset"], r["share"]) == group]), start=1):
            places.setdefault(row["method"], []).append(rank)
    everywhere = {m: sum(p) / len(p) for m, p in places.items() if len(p) == len(groups)}
    if not everywhere:
        return ["No method is ranked everywhere."]
    ordered = sorted(everywhere.items(), key=lambda item: item[1])
    shown = ", ".join(f"{method} {rank:.1f}" for method, rank in ordered)
    return [f"Mean rank, of the {len(ordered)} methods that are ranked in all {len(groups)} tables: {shown}."]


def _tuned(tuned: Mapping[str, Any]) -> list[str]:
    """The chosen settings, which are proposed as presets of data like these."""
    lines = ["| data set | forget | method | chosen of its settings | criterion |", "| --- | --- | --- | --- | --- |"]
    for dataset, sizes in tuned.items():
        for share, methods in sizes.items():
            for method, found in sorted(methods.items()):
                if found["options"] is None:
                    continue
                values = [item["criterion"] for item in found["tried"] if item["options"] == found["options"]]
                lines.append(
                    f"| {dataset} | {float(share):.0%} | {method} | `{_plain(found['options'])}` | {values[0]:.3f} |"
                )
    return lines


def _plain(options: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{k}: {{{_plain(v)}}}" if isinstance(v, Mapping) else f"{k}: {v}" for k, v in options.items()
    ) or "defaults"  # fmt: skip


def _quick(row: Row) -> bool:
    return bool(row["time_share"]["mean"] < SHARE_GOAL)


def _said(row: Row) -> str:
    return f"{row['method']} (gap {row['gap']['mean']:.3f}, {row['time_share']['mean']:.1%} of retraining's time)"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
