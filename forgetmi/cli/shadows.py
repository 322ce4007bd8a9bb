"""``forgetmi shadows``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetmi.cli import common

if TYPE_CHECKING:
    from forgetmi.runs.shadow_plan import ShadowPlan


def shadows(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The run's YAML file.", show_default=False)
    ] = None,
    overrides: common.Overrides = None,
    run: Annotated[Path | None, typer.Option("--run", help="A run's folder.", show_default=False)] = None,
    tasks: Annotated[
        Path | None, typer.Option("--tasks", help="The task file of an array, with --task.", show_default=False)
    ] = None,
    task: Annotated[
        int | None, typer.Option("--task", min=0, help="Only this one, by its number from 0.", show_default=False)
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(help="in_process, processes, slurm or ensemble, over the config's.", show_default=False),
    ] = None,
    resume: common.Resume = False,
    submit: Annotated[bool, typer.Option("--submit", help="With slurm: hand the array to the scheduler.")] = False,
    dry_run: common.DryRun = False,
    no_progress: common.NoProgress = False,
) -> None:
    """Shadow models, which attacks on single records compare with (audit.shadows); those that are there are kept.

    Their weights are not kept, their scores are. Runs with the same audit.shadow_folder share them.

    For example:

        forgetmi shadows -c run.yaml audit.shadows=64 audit.workers=4

        forgetmi shadows --run runs/mine audit.shadows=64 --dry-run

        forgetmi shadows --run runs/mine --executor slurm

        forgetmi shadows --run runs/mine --task 7
    """
    with common.guarded() as guard:
        _check_usage(config, run, tasks, task, overrides, submit, executor)
        if tasks is not None:
            from forgetmi.runs.shadow_plan import plan_of_tasks
            from forgetmi.runs.shadows import make_shadow

            plan, _ = plan_of_tasks(tasks)
            make_shadow(plan, int(task or 0))
            _said(plan, task)
            return
        named = [*(overrides or []), *([f"audit.executor={executor}"] if executor else [])]
        checked = common.read_config(config or Path(run or ".") / "config.yaml", named, folder=run)
        if not checked.shadow.shadows:
            from forgetmi.errors import ConfigError

            raise ConfigError(["audit.shadows is 0: no shadow models are asked for"], fix="add audit.shadows=64")
        if dry_run or task is not None:
            from forgetmi.runs.prepare import prepare
            from forgetmi.runs.shadow_plan import ShadowPlan
            from forgetmi.runs.shadows import check_shadows, make_shadow

            prepared = prepare(checked, create_key=not dry_run)
            check_shadows(prepared, checked.run.folder)
            plan = ShadowPlan(prepared, checked.run.folder)
            if dry_run:
                typer.echo(plan.sentence())
                typer.echo("dry run: nothing was written")
                source = ("--run", run) if run is not None else ("--config", checked.source or "")
                common.next_command("forgetmi", "shadows", *source, *named)
            else:
                make_shadow(plan, int(task or 0))
                _said(plan, task)
            return
        from forgetmi.runs import pipeline
        from forgetmi.runs.shadows import LeftToSchedulerError

        guard.folder = checked.run.folder
        taken_up = resume or run is not None
        try:
            pipeline.run(checked, until="shadows", resume=taken_up, progress=not no_progress, submit=submit)
        except LeftToSchedulerError as left:
            typer.echo(left.what)
            if not left.submitted:
                common.next_command("sbatch", left.script)
                return
        common.next_command(*_audit(checked.run.folder))


def _check_usage(
    config: Path | None,
    run: Path | None,
    tasks: Path | None,
    task: int | None,
    overrides: list[str] | None,
    submit: bool,
    executor: str | None,
) -> None:
    problems = []
    if sum(source is not None for source in (config, run, tasks)) != 1:
        problems.append("give exactly one of --config, --run and --tasks")
    if tasks is not None and (task is None or overrides or executor or submit):
        problems.append("--tasks goes with --task and nothing else: what is to be made stands in the file")
    if submit and executor not in (None, "slurm"):
        problems.append("--submit goes with --executor slurm")
    if problems:
        from forgetmi.errors import ConfigError

        raise ConfigError(problems, fix="forgetmi shadows --help")


def _audit(folder: Path) -> tuple[str | Path, ...]:
    """The command that uses shadow models: an audit, or, where nothing was unlearned yet, a run."""
    if (folder / "stages" / "unlearned.json").is_file():
        return "forgetmi", "audit", "--run", folder
    return "forgetmi", "run", "--config", folder / "config.yaml", "--resume"


def _said(plan: ShadowPlan, task: int | None) -> None:
    """One of several tasks: the next command is for when all are done."""
    missing = plan.missing()
    typer.echo(f"shadow {task} is there; {len(missing)} of {plan.count} are to be made")
    if not missing:
        common.next_command(*_audit(plan.run))
