"""``forgetmi demo``."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common


def demo(
    overrides: common.Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")] = Path("runs/demo"),
    overwrite: common.Overwrite = False,
    dry_run: common.DryRun = False,
    limit: common.Limit = None,
    no_progress: common.NoProgress = False,
) -> None:
    """The main job on embedded data, end to end, in a few minutes on a laptop.

    A model reads films (rendered from labels) and real radiology reports; 30 patients ask to be forgotten. Ends with 0
    whenever the report was made, whatever it says. What an earlier demo finished is kept.

    For example:

        forgetmi demo

        forgetmi demo --out runs/try unlearning.method=npo

        forgetmi demo --dry-run
    """
    with common.guarded() as guard, as_file(files("forgetmi.cli") / "templates" / "demo.yaml") as config:
        checked = common.read_config(config, overrides, limit=limit, folder=out)
        if dry_run:
            common.dry_run(checked)
            common.next_command("forgetmi", "demo", "--out", out, *(overrides or []))
            return
        from forgetmi.runs import pipeline

        guard.folder = checked.run.folder
        result = pipeline.run(checked, resume=True, overwrite=overwrite, progress=not no_progress)
        common.finish(result)
        common.next_command("forgetmi", "init", "mine")
