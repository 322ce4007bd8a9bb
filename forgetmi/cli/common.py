"""What commands share: their options, how errors end them, and the line that names the next command."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from types import FrameType

    from forgetmi.config import Config
    from forgetmi.runs.pipeline import RunResult

FAILED, USAGE, VERDICT_FAIL, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.", show_default=False)]
RunDir = Annotated[Path, typer.Option("--run", help="A run's folder.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings over those of the file: training.lr=1e-4", show_default=False),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from checkpoints; where settings changed, redo only what depends on them."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove what an earlier run left in the folder.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check config, data and request, say what would be done, stop.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most N records of each split: a quick try.", show_default=False)
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress bars.")]


@contextmanager
def guarded() -> Iterator[Guard]:
    """Errors become one clear message and an exit code; the package's messages go to the standard output.

    What a message says of patients is for the terminal only: the run's log gets the public part, and of an unexpected
    error its kind and where it happened, without its words.
    """
    guard = Guard()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("forgetmi")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with stopped_like_ctrl_c():
            yield guard
    except KeyboardInterrupt as stop:
        guard.to_log("interrupted")
        typer.echo("interrupted: finished stages are kept, and nothing is half-written. --resume goes on.", err=True)
        raise typer.Exit(TERMINATED if stop.args else INTERRUPTED) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        raise typer.Exit(_report(error, guard)) from None
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def stopped_like_ctrl_c() -> Iterator[None]:
    """SIGTERM, which a scheduler sends before it kills, cleans up as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Guard:
    """Knows the run's folder once there is one."""

    folder: Path | None = None

    def to_log(self, kind: str, **fields: object) -> bool:
        """Put an event into the run's log, if there is one; whether there is."""
        if self.folder is None or not (self.folder / "log.jsonl").is_file():
            return False
        from forgetmi.training.runlog import RunLog

        try:
            RunLog(self.folder / "log.jsonl").event(kind, **fields)
        except OSError:
            return False  # a full disk must not hide the error that is being reported
        return True


def _report(error: Exception, guard: Guard) -> int:
    from forgetmi.errors import ConfigError, ForgetMIError

    if isinstance(error, ForgetMIError):
        typer.echo(f"error: {error}", err=True)
        guard.to_log("error", text=error.public)
        return USAGE if isinstance(error, ConfigError) else FAILED
    chain, seen = [], error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        chain.append({"type": type(seen).__name__, "frames": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]})
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    logged = guard.to_log("unexpected_error", chain=chain)
    typer.echo(f"unexpected error: {type(error).__name__}: {error}", err=True)
    if logged and not os.environ.get("FORGETMI_DEBUG"):
        typer.echo(f"where it happened stands at the end of {guard.folder}/log.jsonl", err=True)
    else:
        typer.echo("".join(traceback.format_exception(error)), err=True)
    return FAILED


def read_config(
    path: Path, overrides: list[str] | None, *, limit: int | None = None, folder: Path | None = None
) -> Config:
    """The checked config, with the options of the command line as overrides."""
    from forgetmi.config import load_config

    extra = [] if limit is None else [f"run.limit={limit}"]
    if folder is not None:
        extra.append(f"run.folder={json.dumps(str(folder.resolve()))}")
    return load_config(path, [*(overrides or []), *extra])


def dry_run(config: Config) -> None:
    """Check everything, and say what a run would do. Nothing is written."""
    from forgetmi.runs.check import plan, refuse_own_places
    from forgetmi.runs.folder import RunFolder
    from forgetmi.runs.pipeline import first_line
    from forgetmi.runs.prepare import prepare
    from forgetmi.runs.stages import check_method

    refuse_own_places(config)
    prepared = prepare(config, create_key=False)
    check_method(prepared, RunFolder(config.run.folder))
    typer.echo(first_line(prepared))
    for line in plan(prepared):
        typer.echo(line)
    typer.echo("dry run: nothing was written")


def finish(result: RunResult) -> None:
    """Show the verdict and where the report is."""
    from rich.console import Console

    from forgetmi.audit.report import render_summary

    Console().print(render_summary(result.evidence))
    typer.echo(f"\nreport: {result.report}")


def next_command(*words: str | Path) -> None:
    """The line that every command ends with."""
    typer.echo(f"next: {shlex.join(map(str, words))}")
