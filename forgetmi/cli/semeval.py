"""``forgetmi semeval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common

Folder = typer.Argument(exists=True, file_okay=False, show_default=False)


def semeval(
    model_dir: Annotated[Path, Folder],
    out_dir: Annotated[Path, typer.Argument(show_default=False, help="A new or empty folder.")],
    forget_dir: Annotated[Path, Folder],
    retain_dir: Annotated[Path, Folder],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Options of the method: fit.lr=1e-5", show_default=False),
    ] = None,
    method: Annotated[str, typer.Option(help="A method's name: forgetmi ls methods.")] = "ails",
    lora_rank: Annotated[
        int | None,
        typer.Option("--lora-rank", min=1, help="Unlearn in an adapter, then merge it.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Every draw depends on it.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default=False)] = None,
    no_progress: common.NoProgress = False,
) -> None:
    """Unlearn LUME's forget documents, in the form that SemEval-2025 task 4 asks for: folders in, a folder out.

    For example:

        forgetmi semeval model out data/forget data/retain --device cuda

        forgetmi semeval model out data data --method npo fit.epochs=10 fit.lr=1e-5
    """
    with common.guarded():
        from forgetmi.settings import read_settings

        options = read_settings({}, overrides or []).values
        from forgetmi.models.lora import LoraOptions
        from forgetmi.semeval import unlearn

        lora = None if lora_rank is None else LoraOptions(r=lora_rank, alpha=2.0 * lora_rank)
        unlearn(
            model_dir, out_dir, forget_dir, retain_dir,
            method=method, options=options, lora=lora, seed=seed, device=device, progress=not no_progress,
        )  # fmt: skip
        typer.echo(f"the unlearned model is in {out_dir}")
        common.next_command("forgetmi", "ls", "methods")
