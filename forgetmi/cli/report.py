"""``forgetmi report``."""

from __future__ import annotations

from typing import Annotated

import typer

from forgetmi.cli import common


def report(
    run: common.RunDir,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also report.pdf; needs the extra pdf.")] = False,
) -> None:
    """Render report.html and model_card.md again from run.json and evidence.json; nothing is computed.

    For example:

        forgetmi report --run runs/mine

        forgetmi report --run runs/mine --pdf
    """
    with common.guarded() as guard:
        from forgetmi.runs import stages

        guard.folder = run
        page = stages.report(run)
        typer.echo(f"report: {page}")
        if pdf:
            from forgetmi.audit.pdf import write_pdf
            from forgetmi.files import sha256_file

            printed = write_pdf(page)
            typer.echo(f"on paper: {printed}\nSHA-256: {sha256_file(printed)}")
        common.next_command("forgetmi", "ls", "methods")
