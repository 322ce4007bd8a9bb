"""``evidence_arrays.npz``: what every attack figure can be computed from again, beside ``evidence.json``.

Arrays are named ``ATTACK/member``, ``ATTACK/patient`` (arbitrary numbers), ``ATTACK/MODEL/scores``,
``ATTACK/MODEL/called`` and ``cross_entropy/MODEL/PART``; MODEL is ``original``, ``unlearned`` or ``retrained-0`` and so
on. The file holds one row a record and stays at the site (mode 0600). Its hash stands in ``evidence.json``. Intervals
follow from the seed; values and counts need nothing but these arrays.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetmi.audit.measurements import Measurement
from forgetmi.audit.pictures import reduced_roc
from forgetmi.errors import AuditError
from forgetmi.metrics.roc import auc as area
from forgetmi.metrics.roc import balanced_accuracy_statistic, evaluate, roc_curve, tpr_at_fpr

FILE = "evidence_arrays.npz"
_KEYS = "ATTACK/member, ATTACK/patient, ATTACK/MODEL/scores, ATTACK/MODEL/called, cross_entropy/MODEL/PART"
_LOSS_PARTS = ("forget", "test")


def packed(original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement]) -> tuple[bytes, int]:
    """(the file's bytes, the number of arrays). The same figures give the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    models = {"original": original, "unlearned": unlearned}
    models |= {f"retrained-{index}": m for index, m in enumerate(retrained)}
    for model, measurement in models.items():
        for attack, result in measurement.attacks.items():
            for name, values in result.arrays().items():
                if name in ("member", "patient"):
                    arrays[f"{attack}/{name}"] = values
                elif name in ("scores", "called"):
                    arrays[f"{attack}/{model}/{name}"] = values
        for part in _LOSS_PARTS:
            arrays[f"cross_entropy/{model}/{part}"] = np.asarray(measurement.scores.parts[part]["nll"])
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue(), len(arrays)


def section(content: bytes, n_arrays: int) -> dict[str, Any]:
    """What the evidence says of the file."""
    return {"file": FILE, "sha256": hashlib.sha256(content).hexdigest(), "n_arrays": n_arrays, "keys": _KEYS}


def load_arrays(folder: Path, evidence: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a run folder.

    Raises:
        AuditError: the file is missing, or is not the one that the evidence names.
    """
    named = evidence["arrays"]
    try:
        content = (folder / named["file"]).read_bytes()
    except OSError as error:
        raise AuditError(f"{named['file']} is missing", where=str(folder), fix="audit the run again") from error
    if hashlib.sha256(content).hexdigest() != named["sha256"]:
        raise AuditError(f"{named['file']} is not the file that evidence.json names: its hash differs")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def recompute(evidence: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Every attack figure again, from the arrays.

    Args:
        evidence: says which attacks, models and figures there are.
        arrays: of :func:`load_arrays`.

    Returns:
        JSON pointer into the evidence to the value found: figures of every attack on every model, ROC vertices, and the
        people of the decision box. Figures without a value are left out, and so is the published attack on batches.
    """
    n_retrained = len(evidence["models"]["retrained"])
    models = {"original": "original", "unlearned": "unlearned"}
    models |= {f"retrained-{index}": f"retrained/{index}" for index in range(n_retrained)}
    options, found = evidence["options"], {}
    for attack in evidence["attacks"]:
        member, patient = arrays[f"{attack}/member"], arrays[f"{attack}/patient"]
        for model, pointer in models.items():
            scores = arrays[f"{attack}/{model}/scores"]
            called = arrays.get(f"{attack}/{model}/called")
            losses = {part: arrays[f"cross_entropy/{model}/{part}"] for part in _LOSS_PARTS}
            for name, figure in _at(evidence, f"models/{pointer}/attacks/{attack}").items():
                value = None if figure["value"] is None else _figure(name, scores, member, called, losses)
                if value is not None:
                    found[f"models/{pointer}/attacks/{attack}/{name}/value"] = value
            for name, counts in reduced_roc(roc_curve(scores, member)).items():
                found[f"roc/{attack}/{pointer}/{name}"] = counts
            if attack == options["headline"]:
                for way, sign in (("known", 1.0), ("marked", -1.0)):
                    highest = np.full(int(patient.max()) + 1, -np.inf)
                    np.maximum.at(highest, patient, sign * scores)
                    forgotten = np.zeros(highest.size, dtype=np.bool_)
                    forgotten[patient] = member
                    point = tpr_at_fpr(highest, forgotten, options["people_fpr"])
                    found[f"people/{way}/{pointer}/found"] = point.tp
                    found[f"people/{way}/{pointer}/accused"] = point.fp
    return found


def _figure(
    name: str,
    scores: NDArray[Any],
    member: NDArray[Any],
    called: NDArray[Any] | None,
    losses: Mapping[str, NDArray[Any]],
) -> float | None:
    """A figure that all attacks share; ``None`` for one that an attack has of its own."""
    if name == "auc":
        return area(scores, member)
    if name.endswith("_loss"):
        return float(np.asarray(losses[name.removesuffix("_loss")], dtype=np.float64).mean())
    if name.startswith("tpr_at_fpr_"):
        return tpr_at_fpr(scores, member, float(name.removeprefix("tpr_at_fpr_"))).value
    if called is not None and name == "balanced_accuracy":
        return evaluate(balanced_accuracy_statistic(called, member), scores.size)
    if called is not None and name == "share_called_member":
        return float(called[member].mean())
    return None


def _at(evidence: Mapping[str, Any], pointer: str) -> Any:
    value: Any = evidence
    for step in pointer.split("/"):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def differing(evidence: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Pointers at which the evidence says something else than was found; empty when it can be trusted."""
    wrong = []
    for pointer, value in found.items():
        held = _at(evidence, pointer)
        same = math.isclose(held, value, rel_tol=1e-9, abs_tol=1e-12) if isinstance(value, float) else held == value
        wrong += [] if same else [pointer]
    return wrong
