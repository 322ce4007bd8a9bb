"""The report's pictures as inline SVG with real text, drawn from ``evidence.json`` and nothing else.

Colour never stands alone: the original is a dashed line with squares, the unlearned model a solid one with circles, the
retrained models a grey band. Colours are Okabe and Ito's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

ORIGINAL, UNLEARNED, RETRAINED = "#b34700", "#0072b2", "#6b6b6b"
BAND = "#d9d9d9"  # colours stand in the elements too: printers of PDF read no variables of a style sheet
_STYLES: dict[str, dict[str, Any]] = {
    "retrained": {"color": RETRAINED, "linestyle": "-", "linewidth": 0.9},
    "original": {"color": ORIGINAL, "linestyle": (0, (5, 2)), "linewidth": 1.8},
    "unlearned": {"color": UNLEARNED, "linestyle": "-", "linewidth": 2.2},
    "target": {"color": UNLEARNED, "linestyle": "-", "linewidth": 2.2},
}
_PART_STYLES: dict[str, dict[str, Any]] = {
    "forget": {"color": "#b34700", "linestyle": "-", "linewidth": 2.2},
    "retain": {"color": "#00735c", "linestyle": (0, (5, 2)), "linewidth": 1.5},
    "test": {"color": "#333333", "linestyle": (0, (1, 1.2)), "linewidth": 1.8},
}
_PART_NAMES = {"forget": "forgotten", "retain": "retained", "test": "test (never in training)"}
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and enlarged
    "svg.hashsalt": "forgetmi",
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def roc_figure(curves: Mapping[str, Any]) -> Markup:
    """ROC of one attack under the models that there are: whole, and zoomed into few false alarms on a log axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(9.2, 4.3), layout="constrained")
        axes = figure.subplots(1, 2)
        n_others = next(c for role, c in curves.items() if role != "retrained")["n_nonmembers"]
        for axis, zoom in zip(axes, (False, True), strict=True):
            floor = 0.5 / n_others
            grid = [10 ** (i / 50) for i in range(-250, 1)] if zoom else [0.0, 1.0]
            axis.plot(grid, grid, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), label="guessing")
            for role in [role for role in _STYLES if role in curves]:
                group: Sequence[Mapping[str, Any]] = curves[role] if role == "retrained" else [curves[role]]
                for number, curve in enumerate(group):
                    x = [fp / curve["n_nonmembers"] for fp in curve["fp"]]
                    y = [tp / curve["n_members"] for tp in curve["tp"]]
                    label = (f"retrained ({len(group)})" if role == "retrained" else role) if number == 0 else None
                    axis.plot([max(v, floor) for v in x] if zoom else x, y, label=label, **_STYLES[role])
            axis.set_xlabel("share of outsiders wrongly accused" + (" (log scale)" if zoom else ""))
            axis.set_ylabel("share of forgotten records found")
            axis.set_title("Few false alarms" if zoom else "Whole curve", fontsize=11)
            axis.set_ylim(-0.02, 1.02)
            if zoom:
                axis.set_xscale("log")
                axis.set_xlim(floor, 1.0)
                axis.axvspan(floor, 1.0 / n_others, color="#eeeeee", zorder=0)
                axis.text(floor * 1.06, 0.97, f"below 1 in {n_others}:\nnot measurable", fontsize=8, va="top")
        axes[0].legend(loc="lower right", frameon=False, fontsize=9)
        return _svg(figure, "roc", "ROC curves of the original, unlearned and retrained models")


def histogram_figure(histograms: Mapping[str, Any]) -> Markup:
    """Loss of forgotten, retained and test records, one panel a model, as shares of the part."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    with rc_context(_RC):
        figure = Figure(figsize=(9.2, 3.5), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        for axis, role in zip(axes, ("original", "unlearned", "retrained"), strict=True):
            for part, counts in histograms["counts"][role].items():
                total = sum(counts)
                share = [count / total for count in counts]
                axis.stairs(share, histograms["edges"], label=_PART_NAMES[part], **_PART_STYLES[part])
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=5))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())  # within a decade it would write one over the other
            axis.set_title(f"{role} (pooled)" if role == "retrained" else role, fontsize=11)
            axis.set_xlabel(f"loss of a record ({histograms['unit']}, log scale)")
        axes[0].set_ylabel("share of records")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
        return _svg(figure, "hist", "Loss histograms of forgotten, retained and test records under the three models")


def strip(criterion: Mapping[str, Any], width: int = 190) -> Markup:
    """One criterion as a picture: the retrained range as a band, the two models' intervals over it."""
    readings = {role: criterion[role] for role in ("original", "unlearned")}
    scope = (criterion["retrained_low"], criterion["retrained_high"])
    numbers = [v for r in readings.values() for v in (r["low"], r["high"], r["value"]) if v is not None]
    numbers += [v for v in scope if v is not None]
    if not numbers:
        return Markup("")
    low, high = min(numbers), max(numbers)
    pad = 0.08 * (high - low) or 0.05

    def x(value: float) -> float:
        return round(4 + (width - 8) * (value - low + pad) / (high - low + 2 * pad), 1)

    parts = []
    if scope[0] is not None:
        wide = max(x(scope[1]) - x(scope[0]), 2.0)
        parts.append(f'<rect x="{x(scope[0])}" y="2" width="{wide:.1f}" height="36" class="band" fill="{BAND}"/>')
    for role, y in (("original", 12), ("unlearned", 28)):
        reading = readings[role]
        if reading["low"] is not None:
            line = f'stroke="{_STYLES[role]["color"]}" stroke-width="2"'
            ends = f'x1="{x(reading["low"])}" x2="{x(reading["high"])}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} {line} class="{role}"/>')
        if reading["value"] is not None:
            at, fill = x(reading["value"]), f'fill="{_STYLES[role]["color"]}"'
            shape = (
                f'<rect x="{at - 4.5:.1f}" y="{y - 4.5}" width="9" height="9" {fill} class="{role}"/>'
                if role == "original"
                else f'<circle cx="{at}" cy="{y}" r="5" {fill} class="{role}"/>'
            )
            parts.append(shape)
    return Markup(  # noqa: S704  only numbers and words of this function are in it
        f'<svg class="strip" viewBox="0 0 {width} 40" width="{width}" height="40" role="img" '
        f'aria-label="retrained range as a band, original as a square, unlearned as a circle">{"".join(parts)}</svg>'
    )


def _svg(figure: Any, prefix: str, title: str) -> Markup:
    """A figure as an inline element: no prolog, no links, ids that are unique in the document."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))
    text = text.replace("<svg", f'<svg class="figure" role="img" aria-label="{title}"', 1)
    return Markup(text)  # noqa: S704  matplotlib escapes the text that it draws
