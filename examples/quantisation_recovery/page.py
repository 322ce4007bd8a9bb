"""The page and the picture. Every sentence is computed; none was written for a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

DESTROYED = 0.5
"""As in the example of notes: nats a token of held-out loss above that of the original and every retrained model."""

MUCH = 0.1
"""R from which on something is said to come back (our rule)."""

METRICS = {"identity": "identity tokens written", "accuracy": "answer tokens right"}


def is_destroyed(row: Row) -> bool:
    """Whether a model says nothing about the forgotten because it says nothing about anything."""
    return bool(row["held_out_nll"] > row["held_out_limit"] + DESTROYED)


def value(found: Row, name: str) -> float:
    """A figure's value, of a row of the attack."""
    return float(found["figures"][name]["value"])


def page(document: Row) -> str:
    """The results as Markdown."""
    about = document["about"]
    lines = [
        "# What rounding brings back",
        "",
        f"`{document['command']}` on {about['machine']}, device {about['device']}, torch {about['torch']}; "
        f"{document['cpu_seconds']:.0f} s of processor time, {document['seconds']:.0f} s in all.",
        "",
        f"{about['model']}; {about['notes']}; {about['n_forget']} patients are forgotten, whose notes stand "
        f"{about['copies']} times in the training data; {about['retrained']} retrained models. Identities are made up.",
        "",
        "**Identity**: share of its tokens that the model writes when it is given the name. **R**: how much of what "
        "unlearning had removed comes back, measured by the quantised original (0 nothing, 1 all of it), with its 95 % "
        "interval by patient; a dash where nothing could come back. **Returned**: by how much further rounding moves "
        "the unlearned model than it moves retrained ones, same units as the metric. **Same level**: share of the "
        "rounded weights that lie on the level on which the original's lie. Full precision stands in the first line of "
        "each model. One request, one seed.",
    ]
    for start in dict.fromkeys(row["start"] for row in document["rows"]):
        lines += ["", f"## Original of {start}", "", *_table([r for r in document["rows"] if r["start"] == start])]
    lines += ["", "## Read", "", *sentences(document["rows"]), "", *_chosen(document["rows"])]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    made = [
        "| unlearned by | rounded to | identity: original | unlearned | retrained | R (95 %) | returned | "
        "answer tokens right: unlearned | R (95 %) | same level | kept |",
        "| --- " * 11 + "|",
    ]
    for row in rows:
        if "attack" not in row:
            made.append(f"| {row['method']} | no model: {row['tried'][-1].get('reason', '')} |" + " |" * 9)
            continue
        by = {(found["quantiser"], found["metric"]): found for found in row["attack"]["rows"]}
        labels = list(dict.fromkeys(label for label, _ in by))
        flag = " (**destroyed**)" if is_destroyed(row) else ""
        identity, right = by[labels[0], "identity"], by[labels[0], "accuracy"]
        made.append(
            f"| {row['method']}{flag} | not | {value(identity, 'original'):.0%} | {value(identity, 'unlearned'):.0%} | "
            f"{_retrained(identity, '')} | | | {value(right, 'unlearned'):.0%} | | | |"
        )
        for label in labels:
            identity, right = by[label, "identity"], by[label, "accuracy"]
            mechanism = row["attack"]["mechanism"][label]
            kept = "" if mechanism["kept"] is None else f"{mechanism['kept']:.2f}"
            made.append(
                f"| | {label} | {value(identity, 'original_quantised'):.0%} | "
                f"{value(identity, 'unlearned_quantised'):.0%} | {_retrained(identity, '_quantised')} | "
                f"{_ratio(identity)} | {value(identity, 'returned'):+.2f} | "
                f"{value(right, 'unlearned_quantised'):.0%} | {_ratio(right)} | "
                f"{mechanism['same_level']:.1%} | {kept} |"
            )
    return made


def _retrained(found: Row, suffix: str) -> str:
    names = [n for n in found["figures"] if n.startswith("retrained_") and n.endswith("_quantised") == bool(suffix)]
    return ", ".join(f"{value(found, name):.0%}" for name in names)


def _ratio(found: Row) -> str:
    figure = found["figures"]["recovery"]
    if figure["value"] is None:
        return "–"
    low, high = figure["interval"]["low"], figure["interval"]["high"]
    return f"{figure['value']:.2f} ({'no interval' if low is None else f'{low:.2f} to {high:.2f}'})"


def sentences(rows: Sequence[Row]) -> list[str]:
    """What the rows say: where R is surely above 0 (its interval by patient is), apart where it is small."""
    made = []
    for row in rows:
        who = f"Original of {row['start']}, {row['method']}"
        if "attack" not in row:
            made.append(f"- {who}: no model.")
            continue
        sure = [f for f in row["attack"]["rows"] if f["metric"] in METRICS and (_low(f) or 0.0) > 0]
        much = [_said(f) for f in sure if value(f, "recovery") >= MUCH]
        little = [_said(f) for f in sure if value(f, "recovery") < MUCH]
        text = f"comes back: {'; '.join(much)}" if much else f"no R that is surely above 0 reaches {MUCH}"
        text += f". Surely above 0, and less than {MUCH}: {'; '.join(little)}" if little else ""
        whole = " The model is destroyed: this says nothing about its robustness." if is_destroyed(row) else ""
        made.append(f"- {who}: {text}.{whole}")
    return made


def _low(found: Row) -> float | None:
    low: float | None = found["figures"]["recovery"]["interval"]["low"]
    return low


def _said(found: Row) -> str:
    return (
        f"{METRICS[found['metric']]}, under {found['quantiser']}: {value(found, 'unlearned'):.0%} to "
        f"{value(found, 'unlearned_quantised'):.0%}, R {_ratio(found)}"
    )


def _chosen(rows: Sequence[Row]) -> list[str]:
    made = ["| original of | method | learning rates tried (criterion) | chosen | held-out NLL |", "| --- " * 5 + "|"]
    for row in rows:
        tried = ", ".join(f"{_lr(entry['options']):g} ({entry['criterion']})" for entry in row["tried"])
        chosen = f"{_lr(row['options']):g}" if row["options"] else "none"
        loss = f"{row['held_out_nll']:.2f}" if "held_out_nll" in row else ""
        made.append(f"| {row['start']} | {row['method']} | {tried} | {chosen} | {loss} |")
    return made


def _lr(options: Row) -> float:
    return float(options.get("options", options)["fit"]["lr"])


def draw(document: Row, path: Path) -> None:
    """Each model under each quantiser; a column an original, a line a model, red the original, grey the retrained."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in document["rows"] if "attack" in row]
    starts = list(dict.fromkeys(row["start"] for row in rows))
    figure = Figure(figsize=(4.6 * max(len(starts), 1), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(METRICS), max(len(starts), 1), sharex=True, sharey="row", squeeze=False)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = {method: f"C{number}" for number, method in enumerate(methods)}
    for column, start in enumerate(starts):
        for line, (metric, words) in enumerate(METRICS.items()):
            axis = axes[line][column]
            for number, row in enumerate(r for r in rows if r["start"] == start):
                found = [f for f in row["attack"]["rows"] if f["metric"] == metric]
                ticks = ["not rounded", *(f["quantiser"].replace(", ", "\n", 1) for f in found)]
                curves = {"unlearned": colours[row["method"]]}
                if number == 0:
                    names = [n for n in found[0]["figures"] if n.startswith("retrained_") and "quantised" not in n]
                    curves |= {"original": "tab:red", **dict.fromkeys(names, "0.6")}
                for name, colour in curves.items():
                    heights = [value(found[0], name), *(value(f, f"{name}_quantised") for f in found)]
                    label = row["method"] if name == "unlearned" else name.replace("_", " ")
                    axis.plot(range(len(heights)), heights, "o-", color=colour, label=label, markersize=4, lw=1)
            axis.set_xticks(range(len(ticks)), ticks, fontsize=6, rotation=30)
            axis.set_ylim(-0.03, 1.03)
            axis.grid(color="0.92")
            if column == 0:
                axis.set_ylabel(f"share of {words}")
            if line == 0:
                axis.set_title(f"original of {start}", fontsize=9)
    if rows:
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=7, ncols=len(labels), loc="outside lower center")
    figure.savefig(path, dpi=130)
