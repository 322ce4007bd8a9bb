"""Sections of made-up reports in MIMIC-CXR's layout."""

from __future__ import annotations

import pytest

from forgetmi.data_adapters.report_sections import report_text, section_name, split_sections
from tests.data_adapters.mimic_files import REPORTS


@pytest.mark.parametrize(
    ("study", "text"),
    [
        ("50000001", "The lungs are clear. The heart is of normal size.\nNo acute process."),
        ("50000002", "Mild edema."),
        (
            "50000003",
            "A tube is seen.\nThe tube is in place.",
        ),  # the addendum's impression comes first: the last counts
        ("50000005", "There is no pneumonia in this film."),  # the last paragraph
        ("50000006", None),
        ("50000007", "Effusion."),  # a misspelt header
    ],
)
def test_findings_and_impression_with_the_fallbacks(study, text):
    assert report_text(REPORTS[study]) == text


def test_one_section_only_and_its_fallback():
    assert report_text(REPORTS["50000001"], ("impression",)) == "No acute process."
    assert report_text(REPORTS["50000002"], ("findings",)) == "Mild edema."


def test_a_text_that_stands_in_the_comparison():
    assert report_text("FINAL REPORT\n COMPARISON:  None. The lungs are clear.\n") == "None. The lungs are clear."


def test_empty_headers_do_not_count():
    report = "x\n CHEST, PA LATERAL:\n \n INDICATION:  cough\n FINDINGS:\n \n IMPRESSION:  Clear.\n"
    names = [name for name, _ in split_sections(report)]
    assert names == ["preamble", "indication", "impression"]


def test_masked_text_is_kept_and_line_ends_do_not_matter():
    report = "x\n FINDINGS:  Compared to ___, ___ clear.\n\n IMPRESSION:  ___.\n"
    assert report_text(report) == "Compared to ___, ___ clear.\n___."
    assert report_text(report.replace("\n", "\r\n")) == report_text(report)


def test_a_colon_inside_a_sentence_is_no_header():
    report = "x\n IMPRESSION:\n Two things: one.\n NOT a header: no.\nAND NOT THIS: at the margin\n"
    assert report_text(report) == "Two things: one. NOT a header: no. AND NOT THIS: at the margin"


@pytest.mark.parametrize("report", ["", "\n", "one line"])
def test_a_report_without_anything_is_missing(report):
    assert report_text(report) is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("IMPRESSION", "impression"),
        ("IMPERSSION", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("FINIDNGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP", "findings"),
        ("COMPARISIONS", "comparison"),
        ("REASON FOR EXAM", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("TYPE OF EXAMINATION", "examination"),
        ("WET READ", "wet read"),
        ("RECOMMENDATION(S)", "recommendation(s)"),
    ],
)
def test_names(header, name):
    assert section_name(header) == name
