"""``forgetmi audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common


def audit(
    overrides: common.Overrides = None,
    run: Annotated[Path | None, typer.Option("--run", help="A run's folder.", show_default=False)] = None,
    signals: Annotated[
        Path | None,
        typer.Option(
            "--signals",
            help="A CSV of losses, probabilities or logits of models that were not trained here (docs/signals.md).",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Another config than the run's own config.yaml.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of what --signals writes; by default NAME-audit.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --signals: folds, resamples, permutations.")] = 0,
    probability_floor: Annotated[
        float | None,
        typer.Option(help="Count probabilities below this as it. Without it one of 0 or 1 is an error.", min=0.0),
    ] = None,
    signals_template: Annotated[
        Path | None,
        typer.Option("--signals-template", help="Write an example for --signals, with made-up numbers, and stop."),
    ] = None,
    no_progress: common.NoProgress = False,
) -> None:
    """Attacks, metrics, verdict and report: of a run, once more, or of models that were not trained here.

    --run makes retrained models that are missing first. --signals needs no model and no data, only what models
    answered: with original, unlearned and retrained models that is the whole audit, otherwise one of exposure.
    KEY=VALUE changes the config of a run, or an option of the exposure audit. Ends with 3 where the verdict is "fail"
    or exposure was found.

    For example:

        forgetmi audit --run runs/mine

        forgetmi audit --run runs/mine audit.retrains=10 audit.workers=4

        forgetmi audit --signals-template example.csv

        forgetmi audit --signals example.csv --out example-audit

        forgetmi audit --signals forest.csv --probability-floor 0.001 level=0.99
    """
    with common.guarded() as guard:
        from forgetmi.errors import ConfigError

        given = {"--run": run, "--signals": signals, "--signals-template": signals_template}
        named = [name for name, value in given.items() if value is not None]
        problems = [] if len(named) == 1 else [f"exactly one of {', '.join(given)} is needed; given: {named or 'none'}"]
        if config is not None and run is None:
            problems.append("--config belongs to --run")
        if signals is None and (out is not None or probability_floor is not None or seed):
            problems.append("--out, --seed and --probability-floor belong to --signals")
        if problems:
            raise ConfigError(problems)
        if run is not None:
            guard.folder = run
            _of_run(run, overrides, config, progress=not no_progress)
        elif signals is not None:
            _of_signals(signals, overrides or [], out, seed, probability_floor)
        elif signals_template is not None:
            _template(signals_template)


def _of_run(run: Path, overrides: list[str] | None, config: Path | None, *, progress: bool) -> None:
    from forgetmi.errors import ConfigError
    from forgetmi.runs import pipeline
    from forgetmi.runs.folder import RunFolder

    if RunFolder(run).done("unlearned") is None:
        raise ConfigError(
            ["--run: the folder holds no unlearned model"],
            where=str(run),
            fix="forgetmi unlearn --config ... first",
        )
    checked = common.read_config(config or run / "config.yaml", overrides, folder=run)
    result = pipeline.run(checked, resume=True, progress=progress, audit_again=True)
    common.finish(result)
    common.next_command("forgetmi", "report", "--run", run)
    if result.decision == "fail":
        raise typer.Exit(common.VERDICT_FAIL)


def _of_signals(path: Path, overrides: list[str], out: Path | None, seed: int, floor: float | None) -> None:
    from rich.console import Console

    from forgetmi.audit.exposure_report import render_signals_summary
    from forgetmi.audit.exposure_rule import ExposureOptions
    from forgetmi.audit.signals_audit import audit_signals, check_folder, write_audit
    from forgetmi.options import build_options
    from forgetmi.settings import read_settings

    folder = out or Path(f"{path.name.partition('.')[0]}-audit")
    options = build_options(ExposureOptions, read_settings({}, overrides).values, where="exposure")
    check_folder(folder)
    found = audit_signals(path, options, seed, probability_floor=floor)
    report = write_audit(found, folder)
    Console().print(render_signals_summary(found.exposure, found.evidence))
    typer.echo(f"\nreport: {report}")
    if found.evidence is None:
        typer.echo(f"for a verdict on forgetting the file lacks: {'; '.join(found.exposure['lacks'])}")
    common.next_command("forgetmi", "ls", "attacks")
    if found.bad:
        raise typer.Exit(common.VERDICT_FAIL)


def _template(path: Path) -> None:
    from importlib.resources import files

    from forgetmi.errors import ConfigError
    from forgetmi.files import write_text

    if path.exists():
        raise ConfigError([f"{path.name} stands there already: nothing was written"], where=str(path.parent))
    write_text(path, (files("forgetmi.cli") / "templates" / "signals.csv").read_text(encoding="utf-8"))
    typer.echo(f"wrote {path}: made-up answers of two models about 100 made-up people")
    common.next_command("forgetmi", "audit", "--signals", path)
