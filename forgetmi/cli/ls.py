"""``forgetmi ls``."""

from __future__ import annotations

from typing import Annotated

import typer

from forgetmi.cli import common
from forgetmi.options import first_paragraph

KINDS = {
    "methods": ("forgetmi.methods:METHODS", "forgetmi", "run", "--config", "run.yaml", "unlearning.method=NAME"),
    "attacks": ("forgetmi.attacks.membership:ATTACKS", "forgetmi", "audit", "--run", "runs/NAME"),
    "quantisers": (
        "forgetmi.attacks.quantisation:QUANTISERS",
        "forgetmi",
        "audit",
        "--run",
        "runs/NAME",
        "audit.language.quantisers=[NAME]",
    ),
    "adapters": ("forgetmi.data_adapters:ADAPTERS", "forgetmi", "check", "--config", "run.yaml", "data.adapter=NAME"),
    "models": ("forgetmi.models:MODELS", "forgetmi", "ls", "encoders"),
    "encoders": ("forgetmi.models.encoders:ENCODERS", "forgetmi", "ls", "fusions"),
    "fusions": ("forgetmi.models.fusion:FUSIONS", "forgetmi", "init", "DIR"),
    "tasks": ("forgetmi.tasks:TASKS", "forgetmi", "init", "DIR"),
    "modalities": ("forgetmi.modalities:MODALITIES", "forgetmi", "init", "DIR"),
    "benchmarks": (
        "forgetmi.runs.benchmarks:BENCHMARKS",
        "forgetmi",
        "evaluate",
        "-m",
        "MODEL",
        "--benchmark",
        "NAME",
        "--data",
        "DIR",
    ),
    "metrics": ("", "forgetmi", "audit", "--run", "runs/NAME"),
    "presets": ("", "forgetmi", "run", "--config", "run.yaml", "unlearning.tuned_for=NAME"),
}


def ls(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.", show_default=False)],
) -> None:
    """What there is to choose from, each with a line on it.

    For example:

        forgetmi ls methods

        forgetmi ls adapters
    """
    with common.guarded():
        from forgetmi.errors import ConfigError, did_you_mean

        if kind not in KINDS:
            raise ConfigError([f"unknown kind {kind!r}. {did_you_mean(kind, KINDS)}"])
        target, *following = KINDS[kind]
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        own = {"metrics": _metrics, "presets": _presets}
        for name, line in own[kind]() if kind in own else _registered(target):
            table.add_row(Text(name, style="bold"), Text(line))
        Console().print(table)
        common.next_command(*following)


def _registered(target: str) -> list[tuple[str, str]]:
    import importlib

    module, name = target.split(":")
    registry = getattr(importlib.import_module(module), name)
    return [(key, _line(registry[key])) for key in registry]


def _metrics() -> list[tuple[str, str]]:
    import importlib
    import pkgutil

    package = importlib.import_module("forgetmi.metrics")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [(name, _line(importlib.import_module(f"forgetmi.metrics.{name}"))) for name in names]


def _presets() -> list[tuple[str, str]]:
    from forgetmi.methods.presets import presets

    return [(name, f"options of {', '.join(methods)}") for name, methods in presets().items()]


def _line(found: object) -> str:
    summary = getattr(found, "summary", None)
    if isinstance(summary, str):
        return summary
    line = first_paragraph(found)
    paper = getattr(found, "paper", None)
    return f"{line} [{paper}]" if isinstance(paper, str) and "et al." not in line else line
