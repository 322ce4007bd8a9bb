"""``forgetmi evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgetmi.cli import common

if TYPE_CHECKING:
    from rich.table import Table

    from forgetmi.runs.evaluation import Evaluation


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
        typer.Option(
            "--reference", help="A retrained model: for the scores that need one, and for attacks=[reference]."
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", help="A published benchmark instead: see forgetmi ls benchmarks."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The benchmark's folder, as published.")] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Measure a destroyed copy of each model too, to stand beside it.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of results, one file a model.")] = Path("evaluation"),
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure language models on your own texts, or on a published benchmark. Nothing is trained or downloaded.

    A file has the column text, or prompt and answer (question and answer, input and output), and may have patient_id:
    intervals are then by patient. With --forget and --holdout membership attacks are made too. Results are kept by the
    hashes of model, texts and options: another model in the same folder is measured anew. KEY=VALUE sets options.

    For example:

        forgetmi evaluate --model models/mine --forget forget.jsonl --holdout unseen.jsonl

        forgetmi evaluate -m before -m after --forget forget.jsonl metrics.decoding.max_new_tokens=64 max_length=512

        forgetmi evaluate -m after --forget f.jsonl --holdout h.jsonl --reference retrained 'attacks=[loss,reference]'

        forgetmi evaluate -m after --benchmark tofu --data TOFU --reference retrained --controls
    """
    with common.guarded():
        from rich.console import Console

        texts = {"forget": forget, "retain": retain, "holdout": holdout}
        files = {name: path for name, path in texts.items() if path is not None}
        _check(model, files, benchmark, data)
        beside: dict[str, Any] = {"reference": reference, "controls": controls, "device": device}
        if benchmark is None:
            found = _on_files(model or [], files, out, overrides, beside)
        else:
            found = _on_benchmark(model or [], benchmark, data or Path(), out, overrides, beside)
        console = Console()
        for table in _tables(found):
            console.print(table)
        for reason in _reasons(found):
            typer.echo(reason)
        for one in found:
            for sentence in _warnings(one.document):
                typer.echo(f"{one.document['model']['name']}: {sentence}")
            typer.echo(
                f"{'kept' if one.kept else 'saved'}: {one.path}, each record: {one.path.with_suffix('.csv').name}"
            )
        common.next_command("forgetmi", "init", "DIR")


def _check(model: list[Path] | None, files: dict[str, Path], benchmark: str | None, data: Path | None) -> None:
    from forgetmi.errors import ConfigError, did_you_mean
    from forgetmi.runs.benchmarks import BENCHMARKS

    problems = [] if model else ["--model: give at least one model"]
    if benchmark is None:
        problems += [] if files else ["give texts: --forget, --retain or --holdout; or a --benchmark with its --data"]
        problems += ["--data is a benchmark's folder: name it with --benchmark"] if data is not None else []
    else:
        if benchmark not in BENCHMARKS:
            problems.append(f"--benchmark: unknown benchmark {benchmark!r}. {did_you_mean(benchmark, BENCHMARKS)}")
        problems += ["--data: give the benchmark's folder"] if data is None else []
        problems += [f"--{name} is for texts of one's own, not for a benchmark" for name in files]
    if problems:
        raise ConfigError(problems)


def _on_files(
    models: list[Path], files: dict[str, Path], out: Path, overrides: list[str] | None, beside: dict[str, Any]
) -> list[Evaluation]:
    from forgetmi.options import build_options
    from forgetmi.runs.evaluate import EvaluateOptions
    from forgetmi.runs.evaluate import evaluate as measure
    from forgetmi.settings import read_settings

    options = build_options(EvaluateOptions, read_settings({}, overrides or []).values, where="evaluate")
    return [measure(place, files, out, options, **beside) for place in models]


def _on_benchmark(
    models: list[Path], name: str, data: Path, out: Path, overrides: list[str] | None, beside: dict[str, Any]
) -> list[Evaluation]:
    from forgetmi.errors import ConfigError
    from forgetmi.options import build_options
    from forgetmi.runs.benchmarks import BENCHMARKS
    from forgetmi.runs.benchmarks.base import Benchmark
    from forgetmi.runs.benchmarks.measure import evaluate_benchmark
    from forgetmi.settings import read_settings

    kind: type[Benchmark] = BENCHMARKS[name]
    options = build_options(kind, read_settings({}, overrides or []).values, where=name)
    if len(models) > 1 and options.of_one_model:
        raise ConfigError(
            [f"{name}.{key}: a number is of one model, and {len(models)} are given" for key in options.of_one_model]
        )
    return [evaluate_benchmark(place, options, data, out, **beside) for place in models]


def _tables(found: list[Evaluation]) -> list[Table]:
    """A table of each set, of scores and of attacks; a column for each model, then for what stands beside them."""
    documents = [one.document for one in found]
    columns = _columns(documents)
    first, tables = documents[0], []
    for name, figures in first["figures"].items():
        told = first["sets"][name]
        groups = f" of {told['patients']} patients" if told["patients"] < told["records"] else ""
        file = f" ({told['file']})" if "file" in told else ""
        rows = [(key, [of["figures"][name].get(key) for _, of in columns]) for key in figures]
        tables.append(_table(f"{name}: {told['records']} texts{groups}{file}", columns, rows))
    if scores := first.get("scores"):
        rows = [(key, [of["scores"].get(key) for _, of in columns]) for key in scores]
        tables.append(_table(f"scores of {first['benchmark']}", columns, rows))
    if first["attacks"]:
        attacked = [column for column in columns if column[1].get("attacks")]
        rows = [(key, [of["attacks"][key]["figures"]["auc"] for _, of in attacked]) for key in first["attacks"]]
        tables.append(_table("AUC of attacks, forget against holdout", attacked, rows))
    return tables


def _columns(documents: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Heading and what was measured: of the models, of the retrained one, of destroyed copies."""
    models = [(f"{of['model']['name']} {of['model']['weights_sha256'][:8]}", of) for of in documents]
    reference = documents[0]["reference"]  # the same for all
    beside = [] if reference is None or "figures" not in reference else [reference]
    retrained = [(f"{of['name']} {of['weights_sha256'][:8]}", of) for of in beside]
    copies = [
        (f"{of['model']['name']} {name}", control)
        for of in documents
        for name, control in of.get("controls", {}).items()
    ]
    return [*models, *retrained, *copies]


def _reasons(found: list[Evaluation]) -> list[str]:
    """Why scores have no value, each reason once."""
    lacking: dict[str, list[str]] = {}
    for one in found:
        for name, score in one.document.get("scores", {}).items():
            if score["value"] is None and name not in (names := lacking.setdefault(score["reason"], [])):
                names.append(name)
    return [f"no {', '.join(names)}: {reason}" for reason, names in lacking.items()]


def _warnings(document: dict[str, Any]) -> list[str]:
    """That a model is destroyed, or that nobody can say so."""
    standing = document["standing"]
    said = [] if standing["destroyed"] is False else [standing["sentence"]]
    return said + [score["sentence"] for score in document.get("scores", {}).values() if score.get("destroyed")]


def _table(title: str, columns: list[tuple[str, Any]], rows: list[tuple[str, list[dict[str, Any] | None]]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", no_wrap=True)
    for heading, _ in columns:
        table.add_column(heading, justify="right", overflow="fold")
    for name, cells in rows:
        table.add_row(name, *map(_cell, cells))
    return table


def _cell(figure: dict[str, Any] | None) -> str:
    from forgetmi.audit.wording import number

    if figure is None or figure["value"] is None:
        return "–"
    ends = figure.get("interval") or {"low": None, "high": None}
    low, high = ends["low"], ends["high"]
    return number(figure["value"]) + ("" if low is None else f" ({number(low)} to {number(high)})")
