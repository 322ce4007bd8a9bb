"""``forgetmi report``."""

from __future__ import annotations

import typer

from forgetmi.cli import common


def report(run: common.RunDir) -> None:
    """Render report.html and model_card.md again from run.json and evidence.json; nothing is computed.

    For example:

        forgetmi report --run runs/mine
    """
    with common.guarded() as guard:
        from forgetmi.runs import stages

        guard.folder = run
        typer.echo(f"report: {stages.report(run)}")
        common.next_command("forgetmi", "ls", "methods")
