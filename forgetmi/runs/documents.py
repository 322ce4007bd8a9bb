"""``run.json``: what a run was asked, what it did, on which data, with what."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from forgetmi.audit.schema import validate_document
from forgetmi.config import Config
from forgetmi.files import write_json
from forgetmi.methods.base import PerturbsInputs
from forgetmi.modalities.base import resolve_noise
from forgetmi.options import first_paragraph
from forgetmi.runs.folder import Done, RunFolder, timed
from forgetmi.runs.prepare import Prepared
from forgetmi.runs.redact import redacted_given, resolved, without_folders, without_ids

_START = "stages/start.json"
_PACKAGES = (
    "accelerate",
    "numpy",
    "pandas",
    "safetensors",
    "scikit-learn",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)


def now() -> str:
    """The time, in UTC, as documents give it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def note_start(folder: RunFolder, config: Config, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Keep, for ``run.json``, when a run was first started and what its user gave.

    A run that is taken up by its own ``config.yaml`` (``forgetmi audit --run``) was given what it was given before, and
    the overrides: that file holds every default, and no user wrote it.

    Args:
        folder: the run's.
        config: what is carried out.
        before, settings: what was resolved when the run was last started, and now.
    """
    earlier, given = _start(folder), redacted_given(config)
    reread = config.source is not None and config.source.resolve() == (folder.path / "config.yaml").resolve()
    if earlier and reread:
        old, new = (without_folders(without_ids(found)) for found in (before, settings))
        given = _overridden(earlier["config_given"], old, new)
    write_json(folder.path / _START, {"created": earlier.get("created") or now(), "config_given": given})


def _start(folder: RunFolder) -> dict[str, Any]:
    file = folder.path / _START
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _overridden(given: Any, old: Any, new: Any) -> Any:
    """What was given, and of two resolved settings what differs, as the new ones have it."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    kept = given if isinstance(given, Mapping) else {}
    changed = {
        key: _overridden(kept.get(key), old.get(key), value) for key, value in new.items() if value != old.get(key)
    }
    return {**kept, **changed}


def run_document(prepared: Prepared, folder: RunFolder, models: Sequence[str]) -> dict[str, Any]:
    """The document of schema ``forgetmi.run/1``, checked against it.

    Args:
        prepared: the data and the request.
        folder: with the stages that are done.
        models: names of the models: original, unlearned, retrained ones.

    Raises:
        AuditError: it does not fit its schema.
    """
    config, request, dataset = prepared.config, prepared.request, prepared.dataset
    stages = {name: done for name in (*models, "audit") if (done := folder.done(name)) is not None}
    settings = resolved(config, prepared.pseudonym)
    start = _start(folder)
    n_train, n_retain = len(dataset.patients(prepared.partition.train)), len(prepared.partition.patients("retain"))
    document = {
        "name": folder.path.name,
        "created": start.get("created") or now(),
        "audited": stages["audit"].facts.get("audited") if "audit" in stages else None,
        "seed": config.run.seed,
        "environment": _environment(config.run.device),
        "config_given": start.get("config_given", redacted_given(config)),
        "config_resolved": without_folders(without_ids(settings)),
        "request": {
            "level": request.level,
            "source_kind": prepared.request_kind,
            "n_ids": len(request.ids),
            "digest": prepared.request_digest,
            "id_level": None if request.id_level == request.level else request.id_level,
            "modalities": None if request.modalities is None else list(request.modalities),
            "duplicates": request.duplicates,
            "notes": list(request.notes),
            "remains": list(prepared.partition.remains()),
        },
        "data": {
            "name": dataset.name,
            "fingerprint": prepared.data_digest,
            "counts": prepared.partition.counts(),
            "split": _split(config),
            "notes": list(dataset.notes),
            "license_note": dataset.license_note or None,
            "skipped": dict(dataset.skipped.counts),
            "leftovers": dict(prepared.partition.leftovers),
            "excluded": len(prepared.partition.excluded),
        },
        "models": {
            "original": _model("original", stages["original"], n_train),
            "unlearned": _model("unlearned", stages["unlearned"], n_train) if "unlearned" in stages else None,
            "retrained": [_model(name, stages[name], n_retain) for name in models if name.startswith("retrained-")],
        },
        "method": {
            "name": config.method.name,
            "paper": config.method.paper,
            "summary": first_paragraph(type(config.method)) or None,
            "options": {
                **without_folders({k: v for k, v in settings["unlearning"].items() if k != "method"}),
                **_noise(prepared),
            },
        },
        "stages": [
            {"name": name, "seconds": done.seconds, "peak_memory_mb": done.peak_memory_mb}
            for name, done in stages.items()
            if done.facts.get("made_here", True)
        ],
        "key_fingerprint": hashlib.sha256(b"forgetmi site key" + prepared.key).hexdigest()[:12],
        "case": config.case.to_json(),
    }
    return validate_document(document, "run")


def _noise(prepared: Prepared) -> dict[str, Any]:
    """The noise that was really made, of each modality: defaults too, and what was computed from the training split.

    Words of patients' texts are told by their number and a keyed hash.
    """
    method = prepared.config.method
    if not isinstance(method, PerturbsInputs):
        return {}
    asked = method.input_noise
    if asked is None:
        return {"noise": "none"}
    found: dict[str, dict[str, Any]] = {}
    for name, modality in prepared.modalities.items():
        noise = resolve_noise(modality, asked.get(modality.kind))
        if not dataclasses.is_dataclass(noise):
            continue
        found[name] = {field.name: getattr(noise, field.name) for field in dataclasses.fields(noise)}
        for option in getattr(noise, "from_texts", ()):
            words = found[name][option]
            said = json.dumps(words, sort_keys=True)
            found[name][option] = {"count": len(words), "keyed_hash": prepared.pseudonym(said)}
    return {"noise": found}


def _split(config: Config) -> str:
    drawn = config.split
    if drawn is None:
        return "The parts are those of the source"
    shares = f"{drawn.validation:.4g} of the patients for validation, {drawn.test:.4g} for test"
    return f"The parts were drawn at random by patient: {shares}, seed {drawn.seed}"


def _model(name: str, done: Done, n_patients: int) -> dict[str, Any]:
    made_here = done.facts["made_here"]
    return {
        "weights_sha256": done.facts["weights_sha256"],
        "seconds": timed(done),
        "path": f"models/{name}",
        "seed": done.facts["seed"] if made_here else None,
        "n_parameters": done.facts["n_parameters"],
        "parameters_per_patient": done.facts["n_parameters"] / n_patients,
        "peak_memory_mb": done.peak_memory_mb if made_here else None,
    }


def _environment(device: str) -> dict[str, Any]:
    import torch

    import forgetmi

    used = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return {
        "forgetmi": forgetmi.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"cuda: {torch.cuda.get_device_name()}" if used == "cuda" else "cpu",
    }
