"""The report is a view: everything in it stands in the documents, and nothing leaves the file."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from forgetmi.audit.declared import combine
from forgetmi.audit.evidence import build_evidence
from forgetmi.audit.report import Values, render_model_card, render_report, render_summary, written
from forgetmi.audit.schema import validate_document
from forgetmi.audit.scores import PartInfo
from forgetmi.errors import AuditError
from tests.audit.conftest import QUICK
from tests.audit.synthetic import World, run_document

FORMS = ("number", "share", "in_100", "seconds", "signed", "points", "deviations", "text", "plain", "one_place")
FIXED = object()  # says the same in every report: headings, citations
# numbers that are part of the explanations, with the words that hold them
EXPLAINED = (
    r"right in 100 pairs \(50 is guessing\)|of 100 pairs|at least 8 of 10 such audits|19 of 20 deals|1 in\s*,?"
    r"|in section \d+|[Ss]ections? \d+( to \d+)?|\(section \d+|retrained \d+|0 means that|1 − |SHA-256"
    r"|0\.5 is guessing, 1 is always|near 0\.5|in nats\. 0:|1 is equal|1 is the same|0\.5 is expected"
)
VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect", "line", "circle", "stop", "stylesheet"}


class Page(HTMLParser):
    """Collects keys with their text, links, ids, and checks that elements close."""

    def __init__(self, text):
        super().__init__()
        self.keys, self.links, self.ids, self._open, self._texts, self.free = {}, [], [], [], [], ""
        self.feed(text)
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [v for k, v in attrs if k in ("href", "src", "srcset", "action", "data", "xlink:href")]
        if "id" in given:
            self.ids.append(given["id"])
        if tag not in VOID:
            fixed = tag in ("style", "title", "h2") or "fixed" in given.get("class", "").split()
            self._open.append((tag, given.get("data-key") or (FIXED if fixed else None)))
            self._texts.append("")

    def handle_startendtag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        opened, key = self._open.pop()
        assert opened == tag, f"{opened} closed by {tag}"
        text = self._texts.pop()
        if key and key is not FIXED:
            self.keys.setdefault(key, []).append(text)
        if self._texts:
            self._texts[-1] += text

    def handle_data(self, data):
        if self._texts:
            self._texts[-1] += data
        if not any(key for _, key in self._open):
            self.free += data


@pytest.fixture(scope="module")
def html(evidence):
    return render_report(run_document(evidence), evidence)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_is_one_file_without_network(html, page):
    assert all(link.startswith("#") for link in page.links), page.links
    assert not re.search(r"https?://", html)
    assert not re.search(r"@import|<script|<iframe|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))


def test_every_key_on_the_page_leads_into_a_document_and_shows_its_value(evidence, page):
    values = Values(validate_document(run_document(evidence), "run"), evidence, html=True)
    assert len(page.keys) > 500
    for key, texts in page.keys.items():
        value = values.at(key)
        if isinstance(value, float):
            forms = {written(value, f) for f in FORMS}
            assert all(text in forms for text in texts), (key, texts)
        elif isinstance(value, int) and not isinstance(value, bool):
            assert all(text == written(value, "count") or text == str(value) for text in texts), (key, texts)


def test_every_number_on_the_page_has_a_key_or_is_part_of_an_explanation(page):
    rest = re.sub(EXPLAINED, "", page.free)
    assert [line.strip() for line in rest.splitlines() if re.search(r"\d", line)] == []


def test_verdict_comes_first_then_people(html, page, evidence):
    assert html.index("PASS") < html.index("What was asked") < html.index("The figures of the rule")
    assert page.keys["evidence:/people/patients"][0] == "30"
    assert page.keys["evidence:/people/known/original/found"] == [str(evidence["people"]["known"]["original"]["found"])]


def test_what_must_be_said_is_said(html):
    assert "not proof of erasure or of anonymity" in html
    assert "they are not X-rays" in html
    assert html.index("they are not X-rays") < html.index("What was asked")
    assert "compliant" not in html.lower()
    assert "<dt>Over-forgotten</dt>" in html


@pytest.mark.parametrize(
    ("change", "word"), [({"forget_memory": 2.5}, "FAIL"), ({"forget_memory": -2.0}, "FAIL")], ids=["kept", "over"]
)
def test_a_failed_audit_names_the_direction(audit, world, change, word):
    evidence = audit(world.model("unlearned", seed=2, **change))
    text = render_report(run_document(evidence), evidence)
    direction = "▲ above: still remembered" if change["forget_memory"] > 0 else "▼ below: over-forgotten"
    assert word in text
    assert direction in text
    assert "What can be done" in text
    assert Page(text)


def test_an_inconclusive_audit_of_one_patient_can_be_rendered(audit):
    small = World(sizes={"forget": 1, "retain": 60, "validation": 20, "test": 80})
    evidence = audit(world=small)
    text = render_report(run_document(evidence), evidence)
    assert "INCONCLUSIVE" in text
    assert "cannot be judged" in text
    assert "None" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


def test_user_text_is_escaped(evidence):
    run = run_document(evidence, name="<script>alert(1)</script>")
    run["data"]["notes"] = ['<img src="http://evil">']
    text = render_report(run, evidence)
    assert "<script>" not in text
    assert "<img" not in text


def test_keys_with_slashes_are_found(evidence):
    run = run_document(evidence)
    run["data"]["skipped"] = {"image/report ~ missing": 7}
    page = Page(render_report(run, evidence))
    assert page.keys["run:/data/skipped/image~1report ~0 missing"] == ["7"]


def test_rendering_twice_gives_the_same_page(evidence, html):
    assert render_report(run_document(evidence), evidence) == html


def test_documents_of_different_models_are_refused(evidence):
    run = run_document(evidence)
    run["models"]["unlearned"] = {**run["models"]["unlearned"], "weights_sha256": "0" * 64}
    with pytest.raises(AuditError, match="not of the same models"):
        render_report(run, evidence)


def test_a_document_that_is_not_valid_is_refused_with_every_problem(evidence):
    run = run_document(evidence, patient_ids=["p-0001"], seed="seven")
    with pytest.raises(AuditError) as caught:
        render_report(run, evidence)
    assert "patient_ids" in str(caught.value)
    assert "seed" in str(caught.value)
    assert "p-0001" not in str(caught.value)
    broken = copy.deepcopy(evidence)
    broken["people"]["known"]["original"]["share"] = float("nan")
    with pytest.raises(AuditError, match="finite"):
        render_summary(broken)


def test_model_card_and_console_table_tell_the_same(evidence):
    card = render_model_card(run_document(evidence), evidence)
    assert "verdict: pass" in card
    assert "not proof of erasure" in card
    assert "compliant" not in card.lower()
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(render_summary(evidence))
    table = console.export_text()
    for criterion in evidence["criteria"].values():
        own = criterion["unlearned"]
        shown = f"{own['value']:.3f} ({own['low']:.3f} to {own['high']:.3f})"
        assert shown in table
        assert shown in card


def test_no_code_of_a_patient_reaches_a_document():
    """Patient codes that cannot be there by chance are nowhere in what is written."""
    world = World(sizes={"forget": 12, "retain": 40, "validation": 20, "test": 60})
    for name, info in world.parts.items():
        world.parts[name] = PartInfo(info.labels, np.asarray(info.patients) + 7_770_000_000)
    evidence = build_evidence(*world.trio(2), world.parts, world.context, QUICK, 1)
    run = run_document(evidence)
    for text in (json.dumps(evidence), render_report(run, evidence), render_model_card(run, evidence)):
        assert "77700000" not in text


SECTIONS = (
    *("Scope and regime", "Unit of privacy", "Identity of models", "What was done", "Who might attack"),
    *("Results, measured", "Single patients", "Groups of patients", "Controls", "Measured, declared, combined"),
    *("Limits", "Words", "For machines"),
)


def test_the_sections_stand_in_their_order(html):
    places = [html.index(f"<h2>{number}. {title}") for number, title in enumerate(SECTIONS, start=2)]
    assert places == sorted(places)
    assert html.index("not proof of erasure") < places[0]


JARGON = ("AUC", "cross-entropy", "TPR", "FPR", "loss", "bootstrap", "epsilon", "p-value")


def cover(html):
    """The words of the decision box."""
    return re.sub(r"<[^>]*>", " ", html[html.index("<header>") : html.index("</section>")])


def test_the_first_page_has_no_jargon(html):
    assert [word for word in JARGON if word in cover(html)] == []


@pytest.mark.parametrize(
    ("settings", "sizes", "said"),
    [
        ({"original_memory": 0.0}, {}, "Nothing could have been detected"),
        ({}, {"forget": 4}, "Audit too small: 4 forgotten"),
    ],
    ids=["nothing memorised", "four patients"],
)
def test_an_inconclusive_audit_says_why_without_jargon(audit, settings, sizes, said):
    small = World(sizes={"retain": 60, "validation": 20, "test": 120, **sizes})
    evidence = audit(world=small, **settings)
    assert evidence["verdict"]["decision"] == "inconclusive"
    text = cover(render_report(run_document(evidence), evidence))
    assert said in re.sub(r"\s+", " ", text)
    assert [word for word in JARGON if word in text] == []


def test_the_first_page_states_a_limit_only_where_something_could_be_seen(audit, world, html):
    blind = "the original did not show either"
    assert "would not have stood in the way of a pass" in cover(html) and blind not in cover(html)
    for change, said in (({}, True), ({"unlearned": world.model("unlearned", seed=2, forget_memory=-3.0)}, False)):
        evidence = audit(original_memory=0.0, **change)
        assert not evidence["verdict"]["informative"]
        text = cover(render_report(run_document(evidence), evidence))
        assert (blind in text) == said == (evidence["verdict"]["decision"] == "inconclusive")
        assert "would not have stood in the way of a pass" not in text


def with_case(evidence, **case):
    declared = {**evidence, "declared": combine(case, evidence)}
    return render_report(run_document(declared, case=case), declared)


def test_what_is_not_declared_is_said_to_be_so(evidence):
    page = Page(with_case(evidence))
    for name in (
        "regime",
        "controller",
        "processor",
        "dpia_id",
        "dpo_advice",
        "recipients",
        "release_type",
        "reviewer",
    ):
        assert "not declared" in page.keys[f"run:/case/{name}"], name
    assert "evidence:/declared/combined/unlearned/precision" not in page.keys
    assert page.keys["evidence:/declared/reason"][0].startswith("no prior was declared")


def test_what_is_declared_is_shown_and_combined(evidence):
    text = with_case(
        evidence,
        regime="hipaa",
        reviewer="J. Doe",
        expiry="2027-01-31",
        release_type="weights",
        prior=0.05,
        subjects=2000,
    )
    page = Page(text)
    assert page.keys["run:/case/regime"] == ["HIPAA (United States)"]
    assert "gives no right to erasure" in text
    assert "this audit is too weak for that release" in text
    assert page.keys["run:/case/expiry"] == ["2027-01-31"] * 2
    assert page.keys["evidence:/declared/prior"] == [written(0.05, "share")]
    shown = page.keys["evidence:/declared/combined/original/precision"]
    assert shown == [written(combine({"prior": 0.05}, evidence)["combined"]["original"]["precision"], "share")]
    assert "compliant" not in text.lower()


def test_the_letter_promises_no_more_than_was_found(audit, world, html):
    assert "We found no sign of it" in html
    assert "is no proof" in html
    failed = audit(world.model("unlearned", seed=2, forget_memory=2.5))
    text = render_report(run_document(failed), failed)
    assert "The test was not passed" in text
    assert "We found no sign" not in text


def test_groups_that_are_left_out_are_not_named_on_the_page():
    world = World(sizes={"forget": 40, "retain": 60, "validation": 20, "test": 200})
    for name, info in world.parts.items():
        n = len(info.patients)
        site = np.where(np.arange(n) < 3, "a small clinic", np.where(np.arange(n) < 18, "north", "south"))
        world.parts[name] = PartInfo(info.labels, info.patients, {"site": site})
    evidence = build_evidence(*world.trio(2), world.parts, world.context, QUICK, 1)
    run = run_document(evidence)
    text = render_report(run, evidence)
    assert "<h3>By site</h3>" in text
    for page in (text, render_model_card(run, evidence), json.dumps(evidence)):
        assert "south" in page
        assert "a small clinic" not in page
        assert "north" not in page
