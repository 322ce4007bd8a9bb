"""The audit of a file of signals: read, audit as far as the file permits, write documents and report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forgetmi.audit import arrays
from forgetmi.audit.evidence import build_audit
from forgetmi.audit.exposure import build_exposure, lacks_for_verdict, source_document
from forgetmi.audit.exposure_report import render_exposure, render_signals_report
from forgetmi.audit.exposure_rule import ExposureOptions
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.schema import validate_document
from forgetmi.audit.scores import REFERENCE_PARTS, AuditContext, ModelScores, PartInfo, ReferenceScores
from forgetmi.audit.signals_file import read_signals
from forgetmi.audit.signals_table import SignalsTable
from forgetmi.errors import ConfigError
from forgetmi.files import atomic_write, write_json, write_text
from forgetmi.partition import PARTS


@dataclass(frozen=True)
class SignalsAudit:
    """What an audit of a file of signals gives.

    Attributes:
        exposure: ``exposure.json``; its decision is ``None`` where there is a verdict.
        evidence: ``evidence.json`` with the verdict, where the file permits the full audit.
        arrays: bytes of the side file that goes with the evidence.
    """

    exposure: dict[str, Any]
    evidence: dict[str, Any] | None = None
    arrays: bytes | None = None

    @property
    def bad(self) -> bool:
        """Whether people were found: exposed, or the verdict is ``fail``."""
        if self.evidence is not None:
            return bool(self.evidence["verdict"]["decision"] == "fail")
        return bool(self.exposure["decision"]["outcome"] == "exposed")


def audit_signals(
    path: Path, options: ExposureOptions | None = None, seed: int = 0, *, probability_floor: float | None = None
) -> SignalsAudit:
    """Audit models that are not here from what they said of records.

    Where the file holds probabilities or logits of the original, the unlearned and at least two retrained models, for
    all four parts, that is the full audit with its verdict; otherwise the exposure audit.

    Args:
        path: the file; see :func:`forgetmi.audit.signals_file.read_signals`.
        options: what to do.
        seed: of folds, resamples and permutations.
        probability_floor: see there.

    Raises:
        DataError: the file cannot be used.
        AuditError: no attack can be made with these signals.
    """
    options = options or ExposureOptions()
    table = read_signals(path, probability_floor=probability_floor)
    if lacks_for_verdict(table):
        return SignalsAudit(build_exposure(table, options, seed))
    made = _full(table, options, seed)
    return SignalsAudit(source_document(table, options, seed), *made)


def check_folder(folder: Path) -> None:
    """Refuse, before anything is computed, a folder in which documents of something else would be replaced.

    Raises:
        ConfigError: the folder is a run's.
    """
    if (folder / "run.json").exists() or (folder / "config.yaml").exists():
        raise ConfigError(
            ["--out: this is the folder of a run, whose evidence would be replaced"],
            where=str(folder),
            fix="name another folder",
        )


def write_audit(found: SignalsAudit, folder: Path) -> Path:
    """Write the documents and the report; the report's path. What an earlier audit left there is replaced.

    Raises:
        ConfigError: the folder is a run's.
    """
    check_folder(folder)
    for name in ("evidence.json", arrays.FILE):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "exposure.json", found.exposure)
    if found.evidence is None or found.arrays is None:
        text = render_exposure(found.exposure)
    else:
        write_json(folder / "evidence.json", found.evidence)
        with atomic_write(folder / arrays.FILE) as file:
            file.write(found.arrays)
        text = render_signals_report(found.exposure, found.evidence)
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _full(table: SignalsTable, options: ExposureOptions, seed: int) -> tuple[dict[str, Any], bytes]:
    n_classes = table.n_classes or 0
    parts = {}
    for name, rows in table.parts.items():
        labels = np.zeros(0) if rows.labels is None else rows.labels
        groups = {**rows.groups, "label": labels.astype(str)}
        parts[name] = PartInfo(labels, rows.patients, groups)
    settings = AuditOptions(
        attacks=options.attacks,
        n_bootstrap=options.n_bootstrap,
        level=options.level,
        min_patients=options.min_patients,
        min_cell=options.min_cell,
        people_fpr=options.people_fpr,
    )
    made = build_audit(
        _scores(table, "original"),
        _scores(table, "unlearned"),
        [_scores(table, name, index) for index, name in enumerate(table.references("retrained"))],
        parts,
        AuditContext("multiclass", n_classes),
        settings,
        seed,
        references=_references(table),
    )
    models = made.evidence["models"]
    for model in (models["original"], models["unlearned"], *models["retrained"]):
        model["weights_sha256"] = None  # the weights are elsewhere: what stood here told the models apart
    made.evidence["patients"]["file"] = None  # nobody's id is kept, so that no file can say who they are
    return validate_document(made.evidence, "evidence"), made.arrays


def _scores(table: SignalsTable, name: str, index: int = 0) -> ModelScores:
    scores = table.scores_of(name)
    answers = hashlib.sha256(b"".join(np.ascontiguousarray(scores[part]["logits"]).tobytes() for part in PARTS))
    role: Any = name.partition("-")[0]
    return ModelScores(role, scores, answers.hexdigest(), index)


def _references(table: SignalsTable) -> dict[str, ReferenceScores]:
    """Shadow models, by kind, where they answered for the parts that references are needed for."""
    found = {}
    for kind in ("shadows", "unlearned_shadows"):
        names = table.references(kind)
        if names and all(part in table.values[name] for name in names for part in REFERENCE_PARTS):
            scores = [table.scores_of(name) for name in names]
            parts = {
                part: {
                    "nll": np.stack([s[part]["nll"] for s in scores]),
                    "logits": np.stack([s[part]["logits"] for s in scores]),
                    "seen": np.stack([table.seen[name][part] for name in names]),
                }
                for part in REFERENCE_PARTS
            }
            found[kind] = ReferenceScores(kind, parts)
    return found
