"""``forgetmi compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.", show_default=False)],
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", help="Also write .html or .json; may be given twice.", show_default=False),
    ] = None,
) -> None:
    """Audits side by side: verdicts, figures with intervals, people found, usefulness and time.

    Runs whose audits do not answer the same question (another request, other data or options) are kept apart, and what
    differs is said. Sorted by verdict: there is no score, for a model that forgot everybody would win it.

    For example:

        forgetmi compare runs/forget_mi runs/npo

        forgetmi compare runs/* --out compare.html --out compare.json
    """
    with common.guarded():
        from rich.console import Console

        from forgetmi.audit.compare import compare_runs
        from forgetmi.audit.compare_report import render_comparison, render_table
        from forgetmi.errors import ConfigError
        from forgetmi.files import write_json, write_text

        wrong = [path for path in out or [] if path.suffix not in (".html", ".json")]
        if wrong:
            raise ConfigError([f"--out: {path.name} must end in .html or .json" for path in wrong])
        document = compare_runs(runs)
        Console().print(render_table(document))
        for path in out or []:
            if path.suffix == ".json":
                write_json(path, document)
            else:
                write_text(path, render_comparison(document))
            typer.echo(f"saved: {path}")
        common.next_command("forgetmi", "report", "--run", runs[0])
