"""``forgetmi check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common


def check(
    config: common.ConfigFile,
    overrides: common.Overrides = None,
    read: Annotated[
        bool, typer.Option("--read", help="Read every image and text too, and list those that fail.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option("--json", help="Also write what was found to this file.", show_default=False)
    ] = None,
    limit: common.Limit = None,
) -> None:
    """The data and the request: counts, labels, what is missing or skipped, what would be forgotten.

    Nothing is written but what --json names, and never into a data folder.

    For example:

        forgetmi check -c run.yaml

        forgetmi check -c run.yaml --read --json fingerprint.json
    """
    with common.guarded():
        from forgetmi.files import write_json
        from forgetmi.runs import check as checks
        from forgetmi.runs.prepare import prepare

        checked = common.read_config(config, overrides, limit=limit)
        if save is not None:
            checks.refuse_data_folder(checked, save)
        prepared = prepare(checked, create_key=False)
        found = checks.describe(prepared)
        from rich.console import Console

        Console().print(checks.table(found))
        for place in checks.skipped_places(prepared):
            typer.echo(place)
        if read:
            checks.read_everything(prepared)
            typer.echo("every value of every record can be read")
        if save is not None:
            write_json(save, found)
            typer.echo(f"saved: {save}")
        common.next_command("forgetmi", "run", "--config", config, *(overrides or []))
