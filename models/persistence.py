"""A model in a folder: weights as safetensors, everything else as JSON."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from forgetmi.errors import ModelError
from forgetmi.modalities import Modality, build_modality
from forgetmi.models import MODELS
from forgetmi.models.weights import check_keys, read_state_dict, weights_sha256

SCHEMA = 1
CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """What :func:`load_model` returns.

    Attributes:
        model: in eval mode, on the CPU.
        modalities: name to modality, as the model was trained with.
        config: the whole of ``model.json``: ``schema``, ``kind``, ``settings``, ``modalities``, ``task``, ``extra``,
            ``weights_sha256``.
    """

    model: nn.Module
    modalities: dict[str, Modality]
    config: dict[str, Any]

    @property
    def task_config(self) -> dict[str, Any]:
        """The task's settings, as they were given to :func:`save_model`."""
        return self.config["task"]

    @property
    def extra(self) -> dict[str, Any]:
        """What else was given to :func:`save_model`."""
        return self.config["extra"]


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    modalities: Mapping[str, Modality],
    task_config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write a model to ``folder`` (``model.safetensors``, ``model.json``; mode 0600).

    The folder is written under a temporary name beside it, flushed to disk and renamed, so that a reader finds the
    whole model or what stood there before. On any error, Ctrl-C included, nothing half-written is left.

    Args:
        model: has ``kind`` and ``to_config()`` (see :mod:`forgetmi.models`).
        folder: a new folder, or one that holds a model already, which is replaced.
        modalities: name to modality; their ``to_config()`` is stored.
        task_config: JSON-able settings of the task.
        extra: further JSON-able facts; no patient's identifier belongs here.

    Returns:
        SHA-256 of the weights.

    Raises:
        ModelError: the model cannot say how it is built again, the folder holds something else, or it cannot be
            written (disk full).
    """
    kind = getattr(model, "kind", None)
    if kind not in MODELS:
        raise ModelError(
            f"a {type(model).__name__} cannot be stored: its kind {kind!r} is not one of {', '.join(MODELS)}",
            fix="store what `build_model` returned, or register the model's kind in forgetmi.models.MODELS",
        )
    folder = Path(folder)
    digest = weights_sha256(model)
    config = {
        "schema": SCHEMA,
        "kind": kind,
        "settings": model.to_config(),  # type: ignore[operator]
        "modalities": {name: modality.to_config() for name, modality in modalities.items()},
        "task": dict(task_config),
        "extra": dict(extra or {}),
        "weights_sha256": digest,
    }
    try:
        text = json.dumps(config, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's settings cannot be written as JSON: {error}", where=str(folder)) from error
    if folder.exists() and not (folder / CONFIG_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(
            f"{folder.name} exists and is not a stored model: it is not overwritten",
            where=str(folder.parent),
            fix="choose another folder",
        )
    from safetensors import SafetensorError

    try:
        _replace_folder(folder, text, _unshared(model.state_dict()))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the model {folder.name} cannot be written: {getattr(error, 'strerror', None) or error}",
            where=str(folder.parent),
            fix="free some space or choose another folder; what stood there before is untouched",
        ) from error
    return digest


def load_model(folder: Path) -> LoadedModel:
    """Read what :func:`save_model` wrote. No other file is needed, and nothing that the folder holds is run.

    Raises:
        ModelError: a file is missing, truncated or damaged; the message names it.
        ConfigError: the settings do not build a model (a newer version wrote them).
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    state = read_state_dict(weights)
    modalities = {name: build_modality(settings) for name, settings in config["modalities"].items()}
    model: nn.Module = MODELS[config["kind"]](config["settings"], 0)
    check_keys(model, state, weights)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in state and state[name].dtype != tensor.dtype:
            # A model in half precision stays in it.
            tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(state, strict=False)
    if weights_sha256(model) != config["weights_sha256"]:
        raise ModelError(
            f"the weights in {weights.name} are not those that {CONFIG_FILE} names: their SHA-256 differs",
            where=str(weights),
            fix="one of the two files was changed or belongs to another model; copy the folder again",
        )
    return LoadedModel(model.eval(), modalities, config)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"there is no {file.name}: this is no folder of a stored model", where=str(file.parent)
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file.name} cannot be read: {error}", where=str(file)) from error
    if not isinstance(config, dict) or config.get("schema") != SCHEMA:
        found = config.get("schema") if isinstance(config, dict) else None
        raise ModelError(
            f"{file.name} has schema {found!r}",
            where=str(file),
            expected=f"schema {SCHEMA}",
            fix="read it with the version of forgetmi that wrote it",
        )
    needed = ("kind", "settings", "modalities", "task", "extra", "weights_sha256")
    if lacking := [key for key in needed if key not in config]:
        raise ModelError(f"{file.name} lacks {', '.join(lacking)}", where=str(file))
    return config


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One entry a storage: safetensors refuses shared memory, and tied weights are tied again by the model."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        kept[name] = tensor.detach().cpu().contiguous()
    return kept


def _replace_folder(folder: Path, config: str, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Its mode is 0700, so that nobody else reads the files before they have theirs.
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        save_file(state, part / WEIGHTS_FILE)
        (part / CONFIG_FILE).write_text(config, encoding="utf-8")
        for file in (part / WEIGHTS_FILE, part / CONFIG_FILE):
            file.chmod(0o600)
            _flush(file)
        _flush(part)
        # A folder that is not empty cannot be renamed over: the old one steps aside, and back if that fails.
        aside = part.with_suffix(".old")
        replacing = folder.exists()
        if replacing:
            os.rename(folder, aside)
        try:
            os.rename(part, folder)
        except BaseException:
            if replacing:
                os.rename(aside, folder)
            raise
        shutil.rmtree(aside, ignore_errors=True)
        _flush(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
