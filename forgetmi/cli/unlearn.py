"""``forgetmi unlearn``."""

from __future__ import annotations

from forgetmi.cli import common


def unlearn(
    config: common.ConfigFile,
    overrides: common.Overrides = None,
    resume: common.Resume = False,
    overwrite: common.Overwrite = False,
    dry_run: common.DryRun = False,
    limit: common.Limit = None,
    no_progress: common.NoProgress = False,
) -> None:
    """The unlearned model; the original is trained first where it is not there yet.

    For example:

        forgetmi unlearn -c run.yaml

        forgetmi unlearn -c run.yaml --resume unlearning.fit.epochs=10
    """
    with common.guarded() as guard:
        checked = common.read_config(config, overrides, limit=limit)
        if dry_run:
            common.dry_run(checked)
            common.next_command("forgetmi", "unlearn", "--config", config, *(overrides or []))
            return
        from forgetmi.runs import pipeline

        guard.folder = checked.run.folder
        result = pipeline.run(checked, until="unlearned", resume=resume, overwrite=overwrite, progress=not no_progress)
        common.next_command("forgetmi", "audit", "--run", result.folder)
