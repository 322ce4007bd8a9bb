"""``compare.html`` and the console table of audits side by side: views of ``compare.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forgetmi.audit.report import DECISIONS, Values, load_template, position_words, written
from forgetmi.audit.schema import validate_document
from forgetmi.audit.wording import number

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_comparison(document: Mapping[str, Any]) -> str:
    """One HTML file that needs no network.

    Raises:
        AuditError: the document is not valid.
    """
    document = validate_document(document, "compare")
    values = Values({}, {}, html=True, compare=document)
    return str(
        load_template("compare.html").render(
            document=document,
            at=values.at,
            show=values.show,
            interval=values.interval,
            decisions=DECISIONS,
            position_words=position_words,
        )
    )


def render_table(document: Mapping[str, Any]) -> RenderableType:
    """Runs as rows, sorted by verdict; what is wrong with a model stands beside its verdict."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for group in document["groups"]:
        question = group["question"]
        sizes = f"{question['forgotten_patients']} forgotten and {question['test_patients']} test patients"
        parts.append(Text(f"{sizes} of {question['data']}, sorted by verdict and by nothing else", style="bold"))
        parts.append(_verdicts(group))
        parts.append(Text(""))
        parts.append(_figures(group))
        parts.append(Text("● inside, ▲ above, ▼ below the range of the retrained models, which stands in brackets"))
        parts += [Text(f"  {line}") for line in _pairs(group)]
        parts.append(Text(""))
    for one in document["apart"]:
        names = ", ".join(one["runs"])
        parts.append(Text(f"kept apart, because the first table's audits answer another question: {names}"))
        parts += [Text(f"  - {line}") for line in one["differs"]]
    return Group(*parts)


def _verdicts(group: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "method", "verdict", "found", "marked", "time", "what is wrong"):
        table.add_column(name, overflow="fold", no_wrap=name in ("verdict", "found", "marked", "time"))
    for run in group["runs"]:
        mark, word = DECISIONS[run["decision"]]
        found = [f"{run[way]['found']} of {run['patients']}" for way in ("known", "marked")]
        seconds = run["unlearned_seconds"]
        time = "–" if seconds is None else written(seconds, "seconds")
        wrong = Text("; ".join(run["flags"]))
        table.add_row(Text(run["name"]), Text(run["method"]), f"{mark} {word}", *found, time, wrong)
    return table


def _figures(group: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    columns = {
        "headline attack, AUC": f"{group['question']['headline']}_auc",
        "forgotten records, CE": "forget_cross_entropy",
        "forgotten less test records, CE": "loss_difference",  # of language models
        "test records, AUC": "test_auc",
        "test records, CE": "test_cross_entropy",
    }
    columns = {title: key for title, key in columns.items() if key in group["runs"][0]["criteria"]}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", *columns):
        table.add_column(name, overflow="fold")
    for run in group["runs"]:
        table.add_row(Text(run["name"]), *(Text(_cell(run["criteria"][key])) for key in columns.values()))
    return table


def _cell(criterion: Mapping[str, Any]) -> str:
    value, low, high = criterion["unlearned"]["value"], criterion["retrained_low"], criterion["retrained_high"]
    scope = "–" if low is None else f"{number(low)} to {number(high)}"
    mark = {"inside": "●", "above": "▲", "below": "▼", None: "?"}[criterion["unlearned_position"]]
    return f"{'–' if value is None else number(value)} {mark} ({scope})"


def _pairs(group: Mapping[str, Any]) -> list[str]:
    if group["not_paired"]:
        return [group["not_paired"]]
    lines = []
    for pair in group["paired"]:
        if pair["low"] is None:
            said = f"no interval: {pair['reason']}"
        else:
            covers = pair["low"] <= 0.0 <= pair["high"]
            said = (
                f"{number(pair['low'])} to {number(pair['high'])}: {'no difference shown' if covers else 'they differ'}"
            )
        lines.append(f"{pair['figure']}, {pair['first']} minus {pair['second']}: {number(pair['value'])} ({said})")
    return lines
