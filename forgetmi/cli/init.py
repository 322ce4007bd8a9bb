"""``forgetmi init``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common

WRITTEN = ("run.yaml", "run.sbatch", "README.md")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.", show_default=False)],
    language: Annotated[bool, typer.Option("--language", help="For a language model of notes.")] = False,
) -> None:
    """A commented config, a Slurm script and a README to start from.

    For example:

        forgetmi init mine

        forgetmi init notes --language
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
        sources = {name: name for name in WRITTEN} | ({"run.yaml": "run_language.yaml"} if language else {})
        for name, source in sources.items():
            write_text(folder / name, (templates / source).read_text(encoding="utf-8"))
        typer.echo(f"wrote {', '.join(WRITTEN)} to {folder}")
        common.next_command("forgetmi", "check", "--config", folder / "run.yaml")
