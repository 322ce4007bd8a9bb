"""The picture: each method's gap to retrained on each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods_bench.setups import SETUPS
from methods_bench.table import mean_of


def draw(rows: Sequence[Mapping[str, Any]], share: float, path: Path) -> None:
    """A panel a data set, one dot a method with the range over its seeds; hollow where it is not ranked. The grey band
    reaches to where retrained models stand among themselves, the dashed line is the untouched original.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    some = [row for row in rows if row["share"] == share and "gap" in row]
    datasets = list(dict.fromkeys(row["dataset"] for row in some))
    if not datasets:
        return
    methods = sorted(
        {row["method"] for row in some if row["kind"] != "control"},
        key=lambda m: mean_of([r["gap"]["mean"] for r in some if r["method"] == m]) or 0.0,
        reverse=True,
    )
    figure = Figure(figsize=(3.0 * len(datasets) + 1.5, 0.24 * len(methods) + 1.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for axis, dataset in zip(axes, datasets, strict=True):
        own = {row["method"]: row for row in some if row["dataset"] == dataset}
        if "retrained" in own:
            axis.axvspan(0.0, own["retrained"]["gap"]["mean"], color="0.88", lw=0)
        if "original" in own:
            axis.axvline(own["original"]["gap"]["mean"], color="0.4", ls="--", lw=1)
        for height, method in enumerate(methods):
            if (row := own.get(method)) is None:
                continue
            gap, colour = row["gap"], "tab:red" if row["kind"] == "ours" else "tab:blue"
            axis.plot([gap["low"], gap["high"]], [height, height], color=colour, lw=1.2)
            face = colour if row["ranked"] else "white"
            axis.plot(gap["mean"], height, "o", ms=5, mfc=face, mec=colour)
        axis.set_title(SETUPS[dataset].title if dataset in SETUPS else dataset, fontsize=9)
        axis.set_xlim(left=0.0)
        axis.grid(axis="x", color="0.92")
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(methods)), methods)
    figure.supxlabel(
        f"mean absolute gap to retrained, {share:.0%} forgotten (red: ours; hollow: destroyed or diverged; dashed: the "
        "untouched original; grey: retrained models among themselves)",
        fontsize=8,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
