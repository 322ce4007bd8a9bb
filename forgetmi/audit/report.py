"""The report, the model card and the console table: views of ``run.json`` and ``evidence.json``.

Nothing is computed here but the form in which a number is shown. A number reaches the page through a pointer into one
of the two documents (``evidence:/verdict/decision``), which stands beside it as ``data-key``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from forgetmi.audit import report_words as words
from forgetmi.audit.probes import GROUPS
from forgetmi.audit.schema import validate_document
from forgetmi.audit.wording import number, p_value
from forgetmi.errors import AuditError

if TYPE_CHECKING:
    from rich.console import RenderableType

DECISIONS = {"pass": ("✔", "PASS"), "fail": ("✖", "FAIL"), "inconclusive": ("?", "INCONCLUSIVE")}
LEVEL_WORDS = {
    "institution": "institutions",
    "patient": "patients",
    "study": "studies",
    "sample": "samples",
    "modality": "modalities of records",
}
_WORSE = (("below", "test_auc"), ("above", "test_cross_entropy"))
_SHARES = ("accuracy", "share_called_member", "people_found", "people_marked", "exposed", "marked_out", "published_svc")


class Values:
    """Looks numbers up and writes them, each with its key.

    Args:
        run, evidence: the checked documents.
        html: whether to write spans with ``data-key``, or plain text.
        others: further documents, by the name that keys begin with.
    """

    def __init__(
        self, run: Mapping[str, Any], evidence: Mapping[str, Any], *, html: bool, **others: Mapping[str, Any]
    ) -> None:
        self._documents = {"run": run, "evidence": evidence, **others}
        self._html = html

    def at(self, key: str) -> Any:
        """The value under ``document:/json/pointer``.

        Raises:
            AuditError: there is none: the template asks for what the document does not hold.
        """
        document, _, pointer = key.partition(":")
        value: Any = self._documents[document]
        for step in pointer.removeprefix("/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                value = value[int(name)] if isinstance(value, list) else value[name]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise AuditError(f"{document}.json holds nothing under {pointer}") from error
        return value

    def show(self, key: str, form: str = "number", missing: str = "–") -> Markup | str:
        """The value under a key, written in a form of :func:`written`: number, share, count, seconds, text, ..."""
        value = self.at(key)
        text = missing if value is None else written(value, form)
        if not self._html:
            return text
        return Markup('<span class="v" data-key="{}">{}</span>').format(key, text)

    def interval(self, key: str, form: str = "number") -> Markup | str:
        """``low`` to ``high`` of the object under a key, or a dash."""
        if self.at(f"{key}/low") is None:
            return "no interval"
        return Markup("{} to {}").format(self.show(f"{key}/low", form), self.show(f"{key}/high", form))


def step(name: str) -> str:
    """A key as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def written(value: Any, form: str) -> str:
    """A value as text. No number is shown with more digits than carry meaning."""
    if form == "share":
        digits = f"{100 * value:.1f}".removesuffix(".0") if abs(value) >= 0.01 or value == 0 else f"{100 * value:.2g}"
        return f"{digits}\u00a0%"
    if form == "count":
        return f"{value:,}".replace(",", "\u00a0")
    if form in ("signed", "deviations", "points"):
        scaled = 100 * value if form == "points" else value
        text = f"{scaled:+.3f}" if form == "signed" else f"{scaled:+.1f}"
        return text.replace("-", "\u2212") + ("\u00a0points" if form == "points" else "")
    if form == "seconds":
        minutes, seconds = divmod(round(value), 60)
        return f"{value:.1f} s" if value < 60 else f"{minutes} min {seconds} s"
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    if form == "in_100":
        return f"{100 * value:.0f}"
    if form == "p":
        return p_value(value)
    if form in ("plain", "one_place"):
        return f"{value:g}" if form == "plain" else f"{value:.1f}"
    if form == "day":
        return str(value)[:10]
    if form == "text" and isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {written(item, form)}" for name, item in value.items()) + "}"
    if form == "number":
        return (number(value) if abs(value) < 100 else f"{value:.1f}").replace("-", "\u2212")
    return str(value)


def form_of(row: str) -> str:
    """Shares of people and records are shown in percent, everything else as a number."""
    return "share" if row.endswith(_SHARES) or "_tpr_at_fpr_" in row else "number"


def render_report(run: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """One HTML file that needs no network, reads verdict first and prints well.

    Args:
        run: ``run.json``.
        evidence: ``evidence.json``.

    Raises:
        AuditError: a document is not valid, or the two are of different models.
    """
    from forgetmi.audit.figures import histogram_figure, roc_figure, strip

    run, evidence = _checked(run, evidence)
    values = Values(run, evidence, html=True)
    headline = evidence["options"]["headline"]
    return load_template("report.html").render(
        **page_values(run, evidence, values),
        roc=roc_figure(evidence["roc"][headline]),
        histogram=histogram_figure(evidence["histograms"]),
        strip=strip,
    )


def render_model_card(run: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """``model_card.md`` of the unlearned model: what it is, what was done to it, what was found, what was not tried.

    Raises:
        AuditError: a document is not valid, or the two are of different models.
    """
    run, evidence = _checked(run, evidence)
    return load_template("model_card.md").render(**page_values(run, evidence, Values(run, evidence, html=False)))


def render_summary(evidence: Mapping[str, Any]) -> RenderableType:
    """The verdict and the figures that it rests on, as a table for the console.

    Raises:
        AuditError: the document is not valid.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    evidence = validate_document(evidence, "evidence")
    verdict = evidence["verdict"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("figure", "original", "unlearned", "retrained", "unlearned lies"):
        table.add_column(name, justify="left" if name in ("figure", "unlearned lies") else "right")
    for criterion in evidence["criteria"].values():
        own, first = criterion["unlearned"], criterion["original"]
        low, high = criterion["retrained_low"], criterion["retrained_high"]
        interval = "" if own["low"] is None else f" ({number(own['low'])} to {number(own['high'])})"
        table.add_row(
            Text(criterion["label"]),
            "–" if first["value"] is None else number(first["value"]),
            "–" if own["value"] is None else f"{number(own['value'])}{interval}",
            "–" if low is None else f"{number(low)} to {number(high)}",
            position_words(criterion),
        )
    test_ce = evidence["comparison"]["test_cross_entropy"]
    if "test_cross_entropy" not in evidence["criteria"]:
        table.add_row(
            Text("beside them: CE on the test records"),
            *(number(test_ce[role]["value"]) for role in ("original", "unlearned")),
            f"{number(test_ce['retrained']['low'])} to {number(test_ce['retrained']['high'])}",
            "",
        )
    mark, word = DECISIONS[verdict["decision"]]
    lines = [Text(f"  - {line}") for line in (*verdict["reasons"], *verdict["cautions"])]
    return Group(Text(f"{mark} {word}: {verdict['summary']}", style="bold"), *lines, Text(""), table)


def position_words(criterion: Mapping[str, Any]) -> str:
    """Where the unlearned model lies on a criterion, in words."""
    position, meaning, kind = criterion["unlearned_position"], criterion["meaning"], criterion["kind"]
    if meaning == "not_judged" or position is None:
        return "cannot be judged"
    if position == "inside":
        return "● inside"
    arrow = "▲" if position == "above" else "▼"
    ending = {
        "remembered": "still remembered",
        "over_forgotten": "over-forgotten",
        "utility_lost": "usefulness lost",
    }.get(meaning or "", "within the tolerated loss" if (position, kind) in _WORSE else "no harm")
    return f"{arrow} {position}: {ending}"


def _checked(run: Mapping[str, Any], evidence: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both documents, valid and of the same models."""
    run, evidence = validate_document(run, "run"), validate_document(evidence, "evidence")
    hashes = [
        [document[role] and document[role]["weights_sha256"] for role in ("original", "unlearned")]
        + sorted(model["weights_sha256"] for model in document["retrained"])
        for document in (run["models"], evidence["models"])
    ]
    if hashes[0] != hashes[1]:
        raise AuditError(
            "run.json and evidence.json are not of the same models: the hashes of the weights differ",
            fix="audit the run again: forgetmi audit --run FOLDER",
        )
    return run, evidence


def page_values(run: Mapping[str, Any], evidence: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """What the templates of a verdict's page work with."""
    return {
        "run": run,
        "evidence": evidence,
        "at": values.at,
        "show": values.show,
        "interval": values.interval,
        "form_of": form_of,
        "position_words": position_words,
        "decision_mark": DECISIONS[evidence["verdict"]["decision"]][0],
        "decision_word": DECISIONS[evidence["verdict"]["decision"]][1],
        "level_words": LEVEL_WORDS,
        "case": run.get("case"),
        "regimes": words.REGIMES,
        "releases": words.RELEASES,
        "sources": words.SOURCES,
        "readings": words.READINGS,
        "letter": words.letter(evidence["verdict"]["decision"]),
        "plain_reasons": words.plain_reasons(evidence),
        "doubts": words.doubts(evidence),
        "doubt_words": words.DOUBTS,
        "language": evidence["task"]["kind"] == "causal_lm",
        "probe_groups": GROUPS,
        "group_words": words.GROUP_WORDS,
        "control_words": words.CONTROL_WORDS,
        "useful_rows": words.USEFUL_ROWS,
        "gap_rows": words.model_rows(evidence, "generalisation"),
        "epsilon_rows": words.model_rows(evidence, "epsilon"),
    }


def load_template(name: str) -> Any:
    """A template of this package; what it names and is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("forgetmi.audit", "templates"),
        # Markdown is plain text: escaping would spoil it
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["step"] = step
    return environment.get_template(name)
