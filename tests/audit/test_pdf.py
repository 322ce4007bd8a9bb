"""The report on paper: from the page alone, and an error that names the extra where it is not installed."""

from __future__ import annotations

import stat
import sys

import pytest

from forgetmi.audit.pdf import write_pdf
from forgetmi.errors import MissingDependencyError

PAGE = "<html><body><h1>Have the patients been forgotten?</h1><img src='http://elsewhere.invalid/x.png'></body></html>"


@pytest.fixture
def page(tmp_path):
    (tmp_path / "report.html").write_text(PAGE, encoding="utf-8")
    return tmp_path / "report.html"


def test_a_page_is_printed_and_nothing_is_fetched(page):
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"the extra pdf does not work here: {error}")
    printed = write_pdf(page)
    assert printed == page.with_suffix(".pdf")
    assert printed.read_bytes().startswith(b"%PDF-")
    assert stat.S_IMODE(printed.stat().st_mode) == 0o600


def test_without_the_extra_the_error_names_it(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(MissingDependencyError, match=r"forgetmi\[pdf\]"):
        write_pdf(page)
    assert not page.with_suffix(".pdf").exists()
