"""``forgetmi init``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common

WRITTEN = ("run.yaml", "run.sbatch", "README.md")


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.", show_default=False)]) -> None:
    """A commented config, a Slurm script and a README to start from.

    For example:

        forgetmi init mine
    """
    with common.guarded():
        from forgetmi.errors import ConfigError
        from forgetmi.files import write_text

        there = [name for name in WRITTEN if (folder / name).exists()]
        if there:
            raise ConfigError(
                [f"{', '.join(there)} stand there already: nothing was written"],
                where=str(folder),
                fix="choose another folder, or move them away",
            )
        templates = files("forgetmi.cli") / "templates" / "init"
        for name in WRITTEN:
            write_text(folder / name, (templates / name).read_text(encoding="utf-8"))
        typer.echo(f"wrote {', '.join(WRITTEN)} to {folder}")
        common.next_command("forgetmi", "check", "--config", folder / "run.yaml")
