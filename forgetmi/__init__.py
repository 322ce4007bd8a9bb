"""ForgetMI: make a trained clinical model forget patients, and prove it.

    import forgetmi

    result = forgetmi.run("run.yaml")
    print(result.decision, result.report)

Every public name is imported when it is first used, so that ``import forgetmi`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetmi.batch import Batch, Loader
    from forgetmi.config import Config, load_config
    from forgetmi.data_adapters import ADAPTERS, load_dataset
    from forgetmi.errors import ForgetMIError
    from forgetmi.methods import METHODS, UnlearningJob, build_method
    from forgetmi.models.classifier import build_model
    from forgetmi.models.persistence import load_model, save_model
    from forgetmi.partition import Partition
    from forgetmi.records import Record, RecordDataset
    from forgetmi.requests import ForgetRequest, read_request, resolve
    from forgetmi.runs.pipeline import RunResult, run
    from forgetmi.runs.prepare import Prepared, prepare
    from forgetmi.splits import split_by_patient
    from forgetmi.tasks import build_task
    from forgetmi.training.options import FitOptions
    from forgetmi.training.reference import Reference
    from forgetmi.training.trainer import Trainer

_WHERE = {
    "ADAPTERS": "data_adapters",
    "Batch": "batch",
    "Config": "config",
    "FitOptions": "training.options",
    "ForgetMIError": "errors",
    "ForgetRequest": "requests",
    "Loader": "batch",
    "METHODS": "methods",
    "Partition": "partition",
    "Prepared": "runs.prepare",
    "Record": "records",
    "RecordDataset": "records",
    "Reference": "training.reference",
    "RunResult": "runs.pipeline",
    "Trainer": "training.trainer",
    "UnlearningJob": "methods",
    "build_method": "methods",
    "build_model": "models.classifier",
    "build_task": "tasks",
    "load_config": "config",
    "load_dataset": "data_adapters",
    "load_model": "models.persistence",
    "prepare": "runs.prepare",
    "read_request": "requests",
    "resolve": "requests",
    "run": "runs.pipeline",
    "save_model": "models.persistence",
    "split_by_patient": "splits",
}

__all__ = [
    "ADAPTERS",
    "Batch",
    "Config",
    "FitOptions",
    "ForgetMIError",
    "ForgetRequest",
    "Loader",
    "METHODS",
    "Partition",
    "Prepared",
    "Record",
    "RecordDataset",
    "Reference",
    "RunResult",
    "Trainer",
    "UnlearningJob",
    "__version__",
    "build_method",
    "build_model",
    "build_task",
    "load_config",
    "load_dataset",
    "load_model",
    "prepare",
    "read_request",
    "resolve",
    "run",
    "save_model",
    "split_by_patient",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("forgetmi")
    if name not in _WHERE:
        raise AttributeError(f"module 'forgetmi' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"forgetmi.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
