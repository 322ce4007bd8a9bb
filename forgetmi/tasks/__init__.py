"""How models are scored: the only places that know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetmi.options import build_options
from forgetmi.registry import Registry
from forgetmi.tasks.base import Task

TASKS = Registry(
    "task",
    {
        "causal_lm": "forgetmi.tasks.causal_lm:CausalLMTask",
        "classification": "forgetmi.tasks.classification:ClassificationTask",
    },
)


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """A task by name.

    Raises:
        ConfigError: the name or an option is unknown or wrong.
    """
    task: Task = build_options(TASKS[name], options, where=f"task {name}")
    return task


__all__ = ["TASKS", "Task", "build_task"]
