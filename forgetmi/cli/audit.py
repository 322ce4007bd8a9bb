"""``forgetmi audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetmi.cli import common


def audit(
    run: common.RunDir,
    overrides: common.Overrides = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Another config than the run's own config.yaml.", show_default=False),
    ] = None,
    no_progress: common.NoProgress = False,
) -> None:
    """Attacks, metrics, verdict and report, once more; retrained models that are missing are made first.

    Ends with 3 where the verdict is "fail".

    For example:

        forgetmi audit --run runs/mine

        forgetmi audit --run runs/mine audit.retrains=10 audit.workers=4
    """
    with common.guarded() as guard:
        from forgetmi.errors import ConfigError
        from forgetmi.runs import pipeline
        from forgetmi.runs.folder import RunFolder

        guard.folder = run
        if RunFolder(run).done("unlearned") is None:
            raise ConfigError(
                ["--run: the folder holds no unlearned model"],
                where=str(run),
                fix="forgetmi unlearn --config ... first",
            )
        checked = common.read_config(config or run / "config.yaml", overrides, folder=run)
        result = pipeline.run(checked, resume=True, progress=not no_progress, audit_again=True)
        common.finish(result)
        common.next_command("forgetmi", "report", "--run", run)
        if result.decision == "fail":
            raise typer.Exit(common.VERDICT_FAIL)
