"""What may be written of a configuration: everything but who is to be forgotten."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path, PureWindowsPath
from typing import Any

from forgetmi.config import Config

_PATH = re.compile(r"^[/\\~]|^[A-Za-z]:[/\\]|\S[/\\]\S")

# What changes how a run is carried out, and not what comes out of it.
_CARRYING_OUT = {
    "run": ("folder", "device", "num_workers", "threads", "cache", "key_file"),
    "audit": ("workers", "shadow_folder", "keep_shadows", "executor", "slurm"),
}


def resolved(config: Config, pseudonym: Callable[[str], str]) -> dict[str, Any]:
    """Every setting, defaults too, as a mapping that :func:`forgetmi.config.load_config` reads again.

    Ids of the request are replaced by their keyed hashes.

    Args:
        config: the configuration.
        pseudonym: id to keyed hash (:func:`forgetmi.pseudonyms.patient_hasher`).
    """
    request = config.request.model_dump(exclude_none=True)
    if "ids" in request:
        request["hashed_ids"] = sorted(pseudonym(identifier.strip()) for identifier in request.pop("ids"))
    data = {"adapter": config.adapter.name, **_fields(config.adapter)}
    if config.split is not None:
        data["split"] = config.split.model_dump()
    model: dict[str, Any] = {"load": config.model.load}
    if config.model.load is None:
        inputs = {name: {"kind": item.kind, **_fields(item)} for name, item in config.model.modalities.items()}
        model = {"kind": config.model.kind, "modalities": inputs, **config.model.settings}
    found = {
        "data": data,
        "request": request,
        "task": {"name": config.task.name, **config.task.options},
        "model": model,
        "training": _fields(config.training),
        "unlearning": {"method": config.method.name, **_fields(config.method), **_adapter(config)},
        "audit": {
            "retrains": config.retrains,
            "workers": config.workers,
            **config.shadow.model_dump(),
            "language": _fields(config.language),
            **_fields(config.audit),
        },
        "run": config.run.model_dump(exclude_none=True),
        "case": config.case.model_dump(mode="json", exclude_none=True),
    }
    plain: dict[str, Any] = _plain(found)
    return plain


def _adapter(config: Config) -> dict[str, Any]:
    return {} if config.lora is None else {"lora": _fields(config.lora)}


def redacted_given(config: Config) -> dict[str, Any]:
    """The settings as given, for ``run.json``: counts in place of ids, and no folders of this machine."""
    found: dict[str, Any] = without_folders(without_ids(_plain(config.given)))
    return found


def without_ids(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with counts in place of the request's ids (hashed ones too), a kind in place of its file, and of a query
    the names of its conditions: their values may be accession numbers, dates or sites.
    """
    request = dict(settings.get("request", {}))
    for key in ("ids", "hashed_ids"):
        if key in request:
            request[key] = f"{len(request[key])} ids, not written"
    if request.get("query"):
        request["query"] = f"conditions on {', '.join(sorted(request['query']))}; their values are not written"
    if "file" in request:
        request["file"] = f"a {Path(request['file']).suffix} file, its name not written"
    return {**settings, "request": request}


def without_folders(value: Any) -> Any:
    """The value with every path reduced to its last part: folders tell of people and machines.

    A path is what begins like one or has a separator within it, ``Dr Smith/records.csv`` too. What people wrote about
    the case is prose, and stays.
    """
    if isinstance(value, Mapping):
        return {key: item if key == "case" else without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and _PATH.search(value):
        return PureWindowsPath(value).name  # which knows both separators
    return value


def result_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of what :func:`resolved` returned, what the models and figures depend on."""
    kept = {name: section for name, section in found.items() if name != "case"}
    for name, keys in _CARRYING_OUT.items():
        kept[name] = {key: value for key, value in kept.get(name, {}).items() if key not in keys}
    return kept


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def _plain(value: Any) -> Any:
    """JSON-able."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(_fields(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | date) else value
