"""What other processes are told to do: each function reads the data once and gives what carries out one task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from forgetmi.config import Config
from forgetmi.runs.folder import RunFolder
from forgetmi.runs.prepare import prepare
from forgetmi.runs.shadow_plan import ShadowPlan
from forgetmi.runs.shadows import make_shadow
from forgetmi.runs.stages import retrain_one


def retrained_models(order: tuple[Config, Path, bool, int]) -> Callable[[int], object]:
    """Retrained models of a run: its config, folder, whether to resume, and how many processes share the machine."""
    config, path, resume, at_a_time = order
    prepared, folder = prepare(config), RunFolder(path, resume=resume, progress=False)
    return lambda index: retrain_one(prepared, folder, index, at_a_time=at_a_time)


def shadow_models(order: tuple[Config, Path]) -> Callable[[int], object]:
    """Shadow models of a run: its config and folder."""
    config, path = order
    plan = ShadowPlan(prepare(config), path)
    return lambda index: make_shadow(plan, index)
