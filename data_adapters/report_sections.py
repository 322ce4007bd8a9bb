"""Radiology reports cut into their sections."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from forgetmi.values import SectionedText

# A header is a line that starts with one blank, then capitals, then a colon. MIMIC-CXR writes all of them so.
_HEADER = re.compile(r"^ ([A-Z][A-Z ()/,-]*):(?=\s|$)", re.MULTILINE)
_RULER = re.compile(r"^\s*_{10,}\s*$", re.MULTILINE)  # stands between an addendum and the report; "___" is masked text
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_MAIN = ("impression", "findings", "history", "comparison", "addendum", "indication", "examination", "technique")
_ALSO = {
    "conclusion": "impression",
    "clinical information": "history",
    "date": "date",
    "exam": "examination",
    "pfi": "history",
    "reason for exam": "indication",
    "reason for examination": "indication",
    "reference exam": "comparison",
    "wet read": "wet read",
    "wetread": "wet read",
}
# Headers that name the films ("CHEST, TWO VIEWS") stand where FINDINGS should.
_FILMS = re.compile(r"chest|portable|\bribs\b|bone window|frontal|\bviews?\b|\b(pa|ap)\b.*\blat|\blat.*\b(pa|ap)\b")
FALLBACK = ("impression", "findings", "last_paragraph", "comparison")


def section_name(header: str) -> str:
    """A header's usual name: misspellings and variants are brought together, others are lower-cased.

    >>> section_name("IMPRESSON"), section_name("FINDINGS AND IMPRESSION"), section_name("CHEST, PA AND LATERAL")
    ('impression', 'impression', 'findings')
    """
    name = " ".join(header.lower().split())
    if name in _ALSO:
        return _ALSO[name]
    for main in _MAIN:
        if main in name:
            return main
    close = difflib.get_close_matches(name, _MAIN, n=1, cutoff=0.84)
    if close:
        return close[0]
    return "findings" if _FILMS.search(name) else name


def split_sections(report: str) -> list[tuple[str, str]]:
    """``(name, text)`` of each section, in order, blanks collapsed, without empty findings and impressions.

    What stands before the first header is the ``preamble``; a report without a header is one ``full report``. Where
    there is neither findings nor impression, what follows the last section's first blank line is the
    ``last_paragraph``, as in ``txt/section_parser.py`` of MIT-LCP/mimic-cxr. The rules of that file for 54 single
    studies are not repeated here.
    """
    report = _RULER.sub("", report.replace("\r\n", "\n"))
    before, *rest = _HEADER.split(report)  # then header, text, header, text, ...
    found = [("preamble" if rest else "full report", before)]
    found += [(section_name(header), text) for header, text in zip(rest[::2], rest[1::2], strict=True)]
    found = [(name, text) for name, text in found if text.strip() or name not in ("findings", "impression")]
    if found and not {"findings", "impression"} & {name for name, _ in found}:
        name, last = found.pop()
        first, *others = _BLANK_LINE.split(last.lstrip("\n"), maxsplit=1)
        found.append((name, first))
        found += [("last_paragraph", other) for other in others if other.strip()]
    return [(name, " ".join(text.split())) for name, text in found]


def report_text(report: str, sections: Sequence[str] = ("findings", "impression")) -> SectionedText | None:
    """The text of the named sections, a line each; the last one counts where a name occurs twice (addenda come first).

    Where the report has none of them: its impression, its findings, its last paragraph, or its comparison, whichever
    is found first in this order. ``None`` where there is nothing of that kind: the modality is then missing.
    """
    by_name = {name: text for name, text in split_sections(report) if text}
    chosen = [name for name in sections if name in by_name] or [name for name in FALLBACK if name in by_name][:1]
    return SectionedText({name: by_name[name] for name in chosen}) if chosen else None
