"""The command line, one file a command."""

from __future__ import annotations

import os

import typer

from forgetmi.cli import audit, check, compare, demo, evaluate, init, ls, report, run, semeval, shadows, train, unlearn

app = typer.Typer(
    name="forgetmi",
    help="Make a trained clinical model forget patients, and prove it.",
    epilog="Exit codes: 0 done; 1 failed; 2 usage or config; 3 done, verdict fail. Begin with: forgetmi demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(check.check)
app.command()(train.train)
app.command()(unlearn.unlearn)
app.command()(audit.audit)
app.command()(run.run)
app.command()(shadows.shadows)
app.command()(report.report)
app.command()(compare.compare)
app.command()(evaluate.evaluate)
app.command()(semeval.semeval)
app.command()(ls.ls)
app.command()(init.init)


def main() -> None:
    """The ``forgetmi`` command."""
    # Before torch is imported: large tensors in large memory pages, where the system gives them on request.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    app()


__all__ = ["app", "main"]
