"""``forgetmi run``."""

from __future__ import annotations

import typer

from forgetmi.cli import common


def run(
    config: common.ConfigFile,
    overrides: common.Overrides = None,
    resume: common.Resume = False,
    overwrite: common.Overwrite = False,
    dry_run: common.DryRun = False,
    limit: common.Limit = None,
    no_progress: common.NoProgress = False,
) -> None:
    """Everything: original, unlearned and retrained models, audit, report.

    Stages that are done are kept. Ends with 3 where the verdict is "fail".

    For example:

        forgetmi run -c run.yaml

        forgetmi run -c run.yaml --dry-run

        forgetmi run -c run.yaml --resume unlearning.fit.lr=3e-4

        forgetmi run -c run.yaml --limit 200 run.folder=runs/try
    """
    with common.guarded() as guard:
        checked = common.read_config(config, overrides, limit=limit)
        if dry_run:
            common.dry_run(checked)
            common.next_command("forgetmi", "run", "--config", config, *(overrides or []))
            return
        from forgetmi.runs import pipeline

        guard.folder = checked.run.folder
        result = pipeline.run(checked, resume=resume, overwrite=overwrite, progress=not no_progress)
        common.finish(result)
        common.next_command("forgetmi", "report", "--run", result.folder)
        if result.decision == "fail":
            raise typer.Exit(common.VERDICT_FAIL)
