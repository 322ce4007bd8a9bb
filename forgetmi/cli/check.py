"""``forgetmi check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common


def check(
    config: common.ConfigFile,
    overrides: common.Overrides = None,
    sample: Annotated[
        int, typer.Option(min=0, help="How many records' images and texts are read, forget records first.")
    ] = 1000,
    read: Annotated[bool, typer.Option("--read", help="Read every image and text, and list those that fail.")] = False,
    show_ids: Annotated[
        bool,
        typer.Option("--show-ids", help="Name the samples that fail or have a twin. Not for others' eyes."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option("--json", help="Also write what was found to this file.", show_default=False)
    ] = None,
    limit: common.Limit = None,
) -> None:
    """The data's fingerprint and the request: counts, labels, what is missing, unreadable or twice, what remains.

    Nothing is written but what --json names, and never into a data folder.

    For example:

        forgetmi check -c run.yaml

        forgetmi check -c run.yaml --sample 20000 --json fingerprint.json
    """
    with common.guarded():
        from forgetmi.errors import DataError
        from forgetmi.files import write_json
        from forgetmi.runs import check as checks
        from forgetmi.runs.fingerprint import tables, take_fingerprint
        from forgetmi.runs.prepare import prepare

        checked = common.read_config(config, overrides, limit=limit)
        if save is not None:
            checks.refuse_data_folder(checked, {"--json": save})
        prepared = prepare(checked, create_key=False)
        taken = take_fingerprint(prepared, sample=None if read else sample)
        from rich.console import Console

        Console().print(checks.table(taken.found), tables(taken.found))
        for place in checks.skipped_places(prepared):
            typer.echo(place)
        if show_ids:
            for line in (*taken.unreadable[:20], *taken.twins[:20]):
                typer.echo(f"  {line}")
        if save is not None:
            write_json(save, taken.found)
            typer.echo(f"saved: {save}")
        if read and taken.unreadable:
            raise DataError(
                f"{len(taken.unreadable)} values of {prepared.dataset.name} cannot be used",
                fix="repair these files, or take their records out of the data",
                private=taken.unreadable[:20],
            )
        if read:
            typer.echo("every value of every record can be read")
        common.next_command("forgetmi", "run", "--config", config, *(overrides or []))
