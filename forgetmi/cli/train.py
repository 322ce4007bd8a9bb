"""``forgetmi train``."""

from __future__ import annotations

from forgetmi.cli import common


def train(
    config: common.ConfigFile,
    overrides: common.Overrides = None,
    resume: common.Resume = False,
    overwrite: common.Overwrite = False,
    dry_run: common.DryRun = False,
    limit: common.Limit = None,
    no_progress: common.NoProgress = False,
) -> None:
    """The original model: trained on the whole train split.

    For example:

        forgetmi train -c run.yaml

        forgetmi train -c run.yaml --resume

        forgetmi train -c run.yaml training.epochs=5 run.folder=runs/short
    """
    with common.guarded() as guard:
        checked = common.read_config(config, overrides, limit=limit)
        if dry_run:
            common.dry_run(checked)
        else:
            from forgetmi.runs import pipeline

            guard.folder = checked.run.folder
            pipeline.run(checked, until="original", resume=resume, overwrite=overwrite, progress=not no_progress)
        common.next_command("forgetmi", "train" if dry_run else "unlearn", "--config", config, *(overrides or []))
