"""``forgetmi evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgetmi.cli import common

if TYPE_CHECKING:
    from rich.table import Table

    from forgetmi.runs.evaluate import Evaluation


def evaluate(
    overrides: common.Overrides = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model", "-m", help="A language model's folder, or a GGUF file; once for each model.", show_default=False
        ),
    ] = None,
    forget: Annotated[
        Path | None,
        typer.Option("--forget", help="Texts to be forgotten: JSON lines, Parquet, CSV.", show_default=False),
    ] = None,
    retain: Annotated[
        Path | None, typer.Option("--retain", help="Texts that stay in training.", show_default=False)
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option("--holdout", help="Texts that no model was trained on: attacks compare with them."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="A model that never saw the forget texts, for attacks=[reference]."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of results, one file a model.")] = Path("evaluation"),
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure language models on your own texts. Nothing is trained, nothing is downloaded.

    A file has the column text, or prompt and answer (question and answer, input and output), and may have patient_id:
    intervals are then by patient. With --forget and --holdout membership attacks are made too. Results are kept by the
    hashes of model, texts and options: another model in the same folder is measured anew. KEY=VALUE sets options.

    For example:

        forgetmi evaluate --model models/mine --forget forget.jsonl --holdout unseen.jsonl

        forgetmi evaluate -m before -m after --forget forget.jsonl metrics.decoding.max_new_tokens=64 max_length=512

        forgetmi evaluate -m after --forget f.jsonl --holdout h.jsonl --reference retrained 'attacks=[loss,reference]'
    """
    with common.guarded():
        from rich.console import Console

        from forgetmi.errors import ConfigError
        from forgetmi.options import build_options
        from forgetmi.runs.evaluate import EvaluateOptions
        from forgetmi.runs.evaluate import evaluate as measure
        from forgetmi.settings import read_settings

        given = {"forget": forget, "retain": retain, "holdout": holdout}
        files = {name: path for name, path in given.items() if path is not None}
        problems = [] if model else ["--model: give at least one model"]
        problems += [] if files else ["give texts: --forget, --retain or --holdout"]
        if problems:
            raise ConfigError(problems)
        options = build_options(EvaluateOptions, read_settings({}, overrides or []).values, where="evaluate")
        found = [measure(place, files, out, options, reference=reference, device=device) for place in model or []]
        console = Console()
        for table in _tables(found):
            console.print(table)
        for one in found:
            typer.echo(
                f"{'kept' if one.kept else 'saved'}: {one.path}, each record: {one.path.with_suffix('.csv').name}"
            )
        common.next_command("forgetmi", "init", "DIR")


def _tables(found: list[Evaluation]) -> list[Table]:
    documents = [one.document for one in found]
    tables = []
    sets = documents[0]["sets"]
    for name, told in sets.items():
        title = f"{name}: {told['records']} texts of {told['patients']} patients ({told['file']})"
        tables.append(_table(title, [document["figures"][name] for document in documents], documents))
    attacks = [{attack: one["figures"]["auc"] for attack, one in document["attacks"].items()} for document in documents]
    if attacks[0]:
        tables.append(_table("AUC of attacks, forget against holdout", attacks, documents))
    return tables


def _table(title: str, figures: list[dict[str, Any]], documents: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    for document in documents:
        table.add_column(f"{document['model']['name']} {document['model']['weights_sha256'][:8]}", justify="right")
    for name in figures[0]:
        table.add_row(name, *(_cell(one[name]) for one in figures))
    return table


def _cell(figure: dict[str, Any]) -> str:
    from forgetmi.audit.wording import number

    if figure["value"] is None:
        return "–"
    low, high = figure["interval"]["low"], figure["interval"]["high"]
    return number(figure["value"]) + ("" if low is None else f" ({number(low)} to {number(high)})")
