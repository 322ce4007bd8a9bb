"""From scores to rows, and from rows to the page. Every sentence is computed; none was written for a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from notes_lm.settings import CONTROL

Row = dict[str, Any]

DESTROYED = 0.5
"""Nats a token by which a model's held-out loss is above that of the original and of every retrained model, from which
on it is called destroyed (our rule: perplexity more than 1.6 times theirs)."""

GAP_OF = ("identity", "forget_accuracy", "test_accuracy", "auc")
_HEADER = (
    "| | model | gap to retrained | identity tokens written | whole identities | answer tokens right, forgotten / held "
    "out | held-out NLL | forgotten NLL | loss attack AUC (95 %) | calibrated AUC (95 %) | {clock} s (share of "
    "retraining) | flags |"
)


def figures(scores: Mapping[str, Any], attacks: Mapping[str, Any]) -> Row:
    """Means over records of one model's scores, beside the attacks on it."""
    forget, test = scores["forget"], scores["test"]
    return {
        "identity": float(forget["identity"].mean()),
        "verbatim": float(forget["verbatim"].mean()),
        "forget_accuracy": float(forget["accuracy"].mean()),
        "test_accuracy": float(test["accuracy"].mean()),
        "retain_nll": float(scores["retain"]["loss"].mean()),
        "forget_nll": float(forget["loss"].mean()),
        "test_nll": float(test["loss"].mean()),
        "auc": attacks["loss"]["value"],
        "attacks": dict(attacks),
    }


def gap(own: Mapping[str, Any], retrained: Sequence[Mapping[str, Any]]) -> float:
    """Mean absolute difference to the mean of the retrained models, over :data:`GAP_OF`, all of them shares in [0, 1]:
    identity tokens that are written, answer tokens that are right (forgotten; held out), AUC of the loss attack.
    """
    return float(np.mean([abs(own[key] - np.mean([other[key] for other in retrained])) for key in GAP_OF]))


def flags(own: Mapping[str, Any], original: Mapping[str, Any], retrained: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said beside a model: ``destroyed``; ``remembers`` or ``over-forgets``: the interval of its loss
    attack's AUC lies above, or below, every retrained model's AUC; ``writes identities``: more of their tokens than any
    retrained model, by over a tenth.
    """
    found = []
    if own["test_nll"] > max(original["test_nll"], *(r["test_nll"] for r in retrained)) + DESTROYED:
        found.append("destroyed")
    low, high = own["attacks"]["loss"]["low"], own["attacks"]["loss"]["high"]
    if low is not None and low > max(r["auc"] for r in retrained):
        found.append("remembers")
    if high is not None and high < min(r["auc"] for r in retrained):
        found.append("over-forgets")
    if own["identity"] > max(r["identity"] for r in retrained) + 0.1:
        found.append("writes identities")
    return found


def rows_of(
    original: Row, retrained: Sequence[Row], unlearned: Mapping[str, Row], refused: Mapping[str, str]
) -> list[Row]:
    """Controls first, then methods, nearest to retrained first, and those that are not ranked.

    Args:
        original: its :func:`figures`, with ``cpu_seconds``.
        retrained: the same of each, at least two; each is compared with the others.
        unlearned: method to the same, with ``options``.
        refused: method to why there is no model.
    """
    start = {"gap": gap(original, retrained), "flags": flags(original, original, retrained)}
    rows = [{**original, "model": "original", "kind": "control", **start}]
    for index, own in enumerate(retrained):
        others = [*retrained[:index], *retrained[index + 1 :]]
        rows.append({**own, "model": f"retrained {index + 1}", "kind": "control", "gap": gap(own, others), "flags": []})
    nothing, methods = rows[0]["gap"], []
    for method, own in unlearned.items():
        row = {**own, "model": method, "kind": "random 5 %" if method == CONTROL else "method"}
        row["gap"], row["flags"] = gap(own, retrained), flags(own, original, retrained)
        if row["gap"] >= nothing:
            row["flags"].append("no nearer than the original")
        row["ranked"] = row["kind"] == "method" and "destroyed" not in row["flags"]
        methods.append(row)
    methods.sort(key=lambda row: (not row["ranked"], row["gap"]))
    missing = [{"model": m, "kind": "method", "ranked": False, "reason": why} for m, why in refused.items()]
    return [*rows, *methods, *missing]


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    rows, about = document["rows"], document["about"]
    clock = "seconds" if about["device"].startswith("cuda") else "cpu_seconds"  # a processor waits for its GPU
    lines = [
        "# Forgetting notes: language models against retraining",
        "",
        f"`{document['command']}` on {about['machine']}, device {about['device']}, threads: {about['threads']}, torch "
        f"{about['torch']}; {document['cpu_seconds']:.0f} s of processor time, {document['seconds']:.0f} s in all.",
        "",
        f"{about['model']}; {about['notes']}. {about['n_forget']} patients are forgotten, each of whose notes stands "
        f"{about['copies']} times in the training data. Identities are made up.",
        "",
        _HEADER.format(clock="wall" if clock == "seconds" else "processor"),
        "| --- " * 12 + "|",
    ]
    share = float(np.mean([row[clock] for row in rows if row["model"].startswith("retrained")]))
    rank = 0
    for row in rows:
        rank += bool(row.get("ranked"))
        lines.append(f"| {rank if row.get('ranked') else '–'} | {row['model']} | {_cells(row, clock, share)} |")
    return "\n".join([*lines, "", *_legend(), "", *sentences(rows), "", *_chosen(rows)]) + "\n"


def _cells(row: Row, clock: str, retraining: float) -> str:
    if "reason" in row:
        return f"no model: {row['reason']}" + " |" * 9
    time = f"{row[clock]:.0f}"
    if not row["model"].startswith("retrained"):
        time += f" ({row[clock] / retraining:.0%})"
    return " | ".join(
        [
            f"{row['gap']:.3f}",
            f"{row['identity']:.1%}",
            f"{row['verbatim']:.1%}",
            f"{row['forget_accuracy']:.1%} / {row['test_accuracy']:.1%}",
            f"{row['test_nll']:.2f}",
            f"{row['forget_nll']:.2f}",
            *(_interval(row["attacks"][name]) for name in ("loss", "calibrated")),
            time,
            "; ".join(row["flags"]),
        ]
    )


def _interval(found: Mapping[str, Any]) -> str:
    ends = "no interval" if found["low"] is None else f"{found['low']:.2f}–{found['high']:.2f}"
    return f"{found['value']:.3f} ({ends})"


def _legend() -> list[str]:
    return [
        "**Identity tokens written**: the model is given name and indication and continues greedily; the share of the "
        "tokens of record number and date of birth that it writes at their place, and of the patients of whom it "
        "writes all. A date has parts that can be guessed: read it beside the retrained models. **Answer tokens "
        "right**: given the true ones before (memorisation accuracy). **NLL**: nats a token of the answers. "
        "**Attacks**: forgotten against test patients, one note each; *calibrated* subtracts the mean loss under the "
        "retrained models (of a retrained model: under the others). **Gap**: mean absolute difference to the mean of "
        "the retrained models over identity tokens, answer tokens (both) and the loss attack's AUC; each retrained "
        "model is compared with the others: no method can be expected nearer. **Destroyed**: held-out NLL more than "
        f"{DESTROYED} above that of the original and of every retrained model; not ranked. The control forgets a "
        "random 5 % of the records only. Each method's setting was chosen on forget and validation records; its time "
        "is that of the chosen setting alone. One request, one seed: differences smaller than the "
        "retrained models' own are noise."
    ]


def sentences(rows: Sequence[Row]) -> list[str]:
    """What the rows say."""
    by = {row["model"]: row for row in rows}
    retrained = [row for row in rows if row["model"].startswith("retrained")]
    original, most = by["original"], max(row["identity"] for row in retrained)
    made = [
        f"- The original writes {original['identity']:.1%} of the identity tokens (retrained models at most "
        f"{most:.1%}) and {original['verbatim']:.1%} of the identities whole; the loss attack's AUC on it is "
        f"{original['auc']:.3f}."
    ]
    if original["identity"] <= most + 0.1:
        made.append("- It memorised no identities to speak of, so this run shows nothing about forgetting them.")
    ranked = [row for row in rows if row.get("ranked")]
    if ranked:
        best, noise = ranked[0], max(row["gap"] for row in retrained)
        where = "within" if best["gap"] <= noise else "outside"
        made.append(
            f"- Nearest to retrained: {best['model']}, gap {best['gap']:.3f}, {where} the largest of the retrained "
            f"models among themselves ({noise:.3f}); flags: {', '.join(best['flags']) or 'none'}."
        )
        clean = [row["model"] for row in ranked if not row["flags"]]
        made.append(f"- Without any flag: {', '.join(clean) or 'none'}.")
    broken = [row["model"] for row in rows if "destroyed" in row.get("flags", [])]
    made.append(f"- Destroyed: {', '.join(broken) or 'none'}.")
    if CONTROL in by and "gap" in by[CONTROL]:
        better = [row["model"] for row in ranked if row["gap"] < by[CONTROL]["gap"]]
        made.append(f"- Nearer to retrained than forgetting a random 5 %: {', '.join(better) or 'none'}.")
    return made


def _chosen(rows: Sequence[Row]) -> list[str]:
    return [
        "| method | chosen setting | criterion |",
        "| --- | --- | --- |",
        *(
            f"| {row['model']} | `{_plain(row['options'])}` | {row['criterion']:.3f} |"
            for row in rows
            if "options" in row
        ),
    ]


def _plain(options: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{k}: {{{_plain(v)}}}" if isinstance(v, Mapping) else f"{k}: {v:g}" if isinstance(v, float) else f"{k}: {v}"
        for k, v in options.items()
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Each model's memory of identities against its held-out loss: down and to the left is better; grey: retrained."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = {"control": "0.35", "method": "tab:blue", "random 5 %": "tab:orange"}
    for row in rows:
        if "gap" not in row:
            continue
        colour = "tab:red" if row["model"] == "original" else colours[row["kind"]]
        face = colour if row["kind"] == "control" or row.get("ranked") else "white"
        axis.plot(row["test_nll"], row["identity"], "o", mfc=face, mec=colour)
        if not row["model"].startswith("retrained"):
            axis.annotate(row["model"], (row["test_nll"], row["identity"]), xytext=(4, 3), textcoords="offset points",
                          fontsize=7)  # fmt: skip
    axis.set_xscale("log")
    axis.margins(x=0.15)
    for which in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        which("{x:.3g}")
    axis.set_xlabel("held-out loss, nats a token (log scale)")
    axis.set_ylabel("share of identity tokens written")
    axis.set_title("Forgotten patients: red the original, grey retrained, hollow not ranked", fontsize=9)
    axis.grid(color="0.92")
    figure.savefig(path, dpi=130)
