"""``report.pdf``: the report on paper, through an extra."""

from __future__ import annotations

import logging
from pathlib import Path

from forgetmi.errors import MissingDependencyError
from forgetmi.files import atomic_write


def write_pdf(report: Path) -> Path:
    """Print ``report.html`` to ``report.pdf`` beside it; the path.

    Args:
        report: the page. It names no other file and no address, and none is fetched.

    Raises:
        MissingDependencyError: the extra ``pdf`` is not installed.
        ForgetMIError: the file cannot be written.
    """
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    # OSError: the package is there, and the system's Pango library, which it draws with, is not
    except (ImportError, OSError) as error:
        raise MissingDependencyError("A report as PDF", "pdf") from error
    logger = logging.getLogger("weasyprint")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every property of an SVG
    try:
        nothing = URLFetcher(allowed_protocols=())
        content: bytes = HTML(string=report.read_text(encoding="utf-8"), url_fetcher=nothing).write_pdf()
    finally:
        logger.setLevel(level)
    target = report.with_suffix(".pdf")
    with atomic_write(target) as file:
        file.write(content)
    return target
