"""Pages and console table of an audit of a file of signals: views of ``exposure.json`` and ``evidence.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forgetmi.audit.comparison import ATTACK_LABELS, figure_label
from forgetmi.audit.report import Values, load_template, page_values, render_summary
from forgetmi.audit.schema import validate_document
from forgetmi.audit.wording import number, p_value
from forgetmi.errors import AuditError

if TYPE_CHECKING:
    from rich.console import RenderableType

OUTCOMES = {
    "exposed": ("✖", "EXPOSURE FOUND", "fail"),
    "none_found": ("✔", "NONE FOUND, down to the limit stated", "pass"),
    "cannot_tell": ("?", "CANNOT SAY", "inconclusive"),
}
_KINDS = {
    "loss": "losses",
    "probabilities": "probabilities",
    "logits": "logits",
    "phi": "scaled logits",
    "correct": "right or wrong answers, and nothing else",
}
_PARTS = {
    "forget": "was in training: the people who are looked for",
    "retain": "was in training, stays",
    "validation": "never in training; for attacks that compare with other people, and for the control",
    "test": "never in training: the outsiders of every attack",
}
_MODELS = {"original": "before: the original model", "unlearned": "now: the unlearned model", "target": "the model"}


def render_exposure(exposure: Mapping[str, Any]) -> str:
    """One HTML file that needs no network, reads outcome first and prints well.

    Raises:
        AuditError: the document is not valid, or has no decision.
    """
    from forgetmi.audit.figures import roc_figure

    exposure = validate_document(exposure, "exposure")
    if exposure["decision"] is None:
        raise AuditError("this document has no decision: its verdict stands in evidence.json")
    outcome, asked, headline = exposure["decision"]["outcome"], exposure["decision"]["model"], exposure["headline"]
    mark, word, kind = OUTCOMES[outcome]
    curves: dict[str, Any] = {"retrained": []}
    for model, attacks in exposure["models"].items():
        if headline not in attacks:
            continue
        if model.startswith("retrained"):
            curves["retrained"].append(attacks[headline]["roc"])
        else:
            curves[model] = attacks[headline]["roc"]
    values = Values({}, {}, html=True, exposure=exposure)
    return str(
        load_template("exposure.html").render(
            **_source_values(exposure),
            at=values.at,
            show=values.show,
            interval=values.interval,
            outcome_mark=mark,
            outcome_word=word,
            outcome_class=kind,
            attack_labels=ATTACK_LABELS,
            model_words=_MODELS,
            figure_label=figure_label,
            form_of_figure=_form,
            roc=roc_figure({name: curve for name, curve in curves.items() if curve}),
            asked=asked,
        )
    )


def render_signals_report(exposure: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """The report of a full audit from a file of signals.

    Raises:
        AuditError: a document is not valid.
    """
    from forgetmi.audit.figures import histogram_figure, roc_figure, strip

    exposure, evidence = validate_document(exposure, "exposure"), validate_document(evidence, "evidence")
    values = Values({}, evidence, html=True, exposure=exposure)
    return str(
        load_template("signals_report.html").render(
            **{**page_values({}, evidence, values), **_source_values(exposure)},
            roc=roc_figure(evidence["roc"][evidence["options"]["headline"]]),
            histogram=histogram_figure(evidence["histograms"]),
            strip=strip,
        )
    )


def render_signals_summary(exposure: Mapping[str, Any], evidence: Mapping[str, Any] | None = None) -> RenderableType:
    """The outcome (or the verdict, where there is one) and the figures that it rests on, for the console."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if evidence is not None:
        return render_summary(evidence)
    decision = exposure["decision"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("attack on " + decision["model"], "look", "figure", "p", "adjusted p"):
        table.add_column(name, justify="left" if name in ("look",) or name.startswith("attack") else "right")
    for attack, result in exposure["models"][decision["model"]].items():
        for look in result["looks"]:
            low, high = look["interval"]["low"], look["interval"]["high"]
            if look["kind"] == "ranking":
                ends = "" if low is None else f" ({number(low)} to {number(high)})"
                row = ("ranking", f"AUC {number(look['value'])}{ends}")
            else:
                side = "above" if look["direction"] == "known" else "below"
                row = (f"people {side} every outsider", f"{look['count']} of {decision['members']}")
            table.add_row(Text(attack), Text(row[0]), Text(row[1]), p_value(look["p"]), p_value(look["p_adjusted"]))
    mark, word, _ = OUTCOMES[decision["outcome"]]
    lines = [Text(f"  - {line}") for line in (*decision["reasons"], decision["limit"], *decision["cautions"])]
    return Group(Text(f"{mark} {word}: {decision['summary']}", style="bold"), *lines, Text(""), table)


def _source_values(exposure: Mapping[str, Any]) -> dict[str, Any]:
    return {"exposure": exposure, "kind_words": _KINDS, "part_words": _PARTS}


def _form(name: str) -> str:
    return "share" if name.startswith("tpr_at") or name in ("balanced_accuracy", "share_called_member") else "number"
