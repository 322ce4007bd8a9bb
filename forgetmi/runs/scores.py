"""What the audit is given: scores of the models and of the shadow models, labels and patients of the parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forgetmi.audit.probes import Probe
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo, ReferenceScores
from forgetmi.errors import ModelError
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.persistence import load_model
from forgetmi.models.weights import weights_sha256
from forgetmi.partition import PARTS
from forgetmi.records import Record
from forgetmi.runs.controls import destroyed_copy
from forgetmi.runs.folder import RunFolder, timed
from forgetmi.runs.groups import groups_of
from forgetmi.runs.language import LanguageAudit
from forgetmi.runs.prepare import Prepared
from forgetmi.runs.shadows import shadow_references
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.queries import collect_by_modality, collect_queries
from forgetmi.training.scoring import collect_signals
from forgetmi.training.seeds import derive_seed, torch_generator

logger = logging.getLogger("forgetmi")

_ATTACKED = ("forget", "test")  # parts whose records an attack puts side by side


def audit_context(prepared: Prepared, language: LanguageAudit | None) -> AuditContext:
    """The task, as the audit needs to know it; of language models, when they were asked."""
    if isinstance(prepared.task, ClassificationTask):
        return AuditContext(kind=prepared.task.kind, n_classes=prepared.task.n_classes)
    return AuditContext(kind="causal_lm", n_classes=1 if language is None else language.vocabulary)


def model_scores(
    prepared: Prepared, folder: RunFolder, name: str, device: torch.device, language: LanguageAudit | None = None
) -> ModelScores:
    """The scores of a stored model on every part, and what the configured attacks need besides.

    Args:
        prepared: the data.
        folder: holds the model.
        name: of the model.
        device: where it is scored.
        language: puts the questions to a language model.

    Raises:
        ModelError: there is no such model, or not the one that this run made.
        AuditError: an attack asks what the model cannot be asked.
    """
    loaded, done = load_model(folder.model(name)), folder.done(name)
    if done is None or loaded.config["weights_sha256"] != done.facts["weights_sha256"]:
        raise ModelError(
            f"the stored {name} model is not the one that this run made: its weights differ",
            where=str(folder.model(name)),
            fix="run the stage again",
        )
    model = loaded.model.to(device)
    role, _, index = name.partition("-")
    parts: dict[str, Any]
    probes: list[Probe] = []
    if language is None:
        parts = {part: _part(prepared, model, part, device) for part in PARTS}
    else:
        logger.info("asking the %s model", name)  # it takes a while
        parts, probes = language.of(_written(model))
    return ModelScores(
        role=role,  # type: ignore[arg-type]
        parts=parts,
        probes=probes,
        weights_sha256=done.facts["weights_sha256"],
        index=int(index) if index.isdigit() else 0,
        seconds=timed(done),
        alone=done.facts.get("at_a_time", 1) == 1,
        peak_memory_mb=done.peak_memory_mb if done.facts.get("made_here", True) else None,
    )


def _written(model: torch.nn.Module) -> CausalLM:
    """The model as one that writes."""
    if not isinstance(model, CausalLM):
        raise ModelError(f"a {type(model).__name__} writes no text", expected="a CausalLM")
    return model


def _part(prepared: Prepared, model: torch.nn.Module, part: str, device: torch.device) -> dict[str, Any]:
    options = prepared.config.audit
    where: dict[str, Any] = {"batch_size": max(prepared.config.training.batch_size, 32), "device": device}
    asked = (model, prepared.task, prepared.scoring_loader(part), prepared.partition.indices(part))
    found = collect_signals(*asked, **where)
    if part not in _ATTACKED:
        return found
    if "label_only" in options.attacks:
        # another seed than any method's: the attacker does not know the copies that a method was fitted on
        seed = derive_seed(prepared.config.run.seed, "audit", "queries")
        found["correct"] = collect_queries(*asked, n_queries=options.label_queries, seed=seed, **where)["correct"]
    if "cross_modal" in options.attacks:
        found |= collect_by_modality(*asked, **where)
    return found


def reference_scores(prepared: Prepared, folder: RunFolder) -> dict[str, ReferenceScores]:
    """The shadow models' scores, by kind; empty where there are none."""
    return {kind: ReferenceScores(kind, parts) for kind, parts in shadow_references(prepared, folder).items()}


def destroyed_scores(
    prepared: Prepared, folder: RunFolder, device: torch.device, language: LanguageAudit
) -> ModelScores:
    """Scores of the original with its weights made noise."""
    seed = derive_seed(prepared.config.run.seed, "destroyed")
    model = destroyed_copy(load_model(folder.model("original")).model, torch_generator(seed)).to(device)
    parts, probes = language.of(_written(model))
    return ModelScores("control", parts, weights_sha256(model), probes=probes)


def part_infos(prepared: Prepared, language: LanguageAudit | None = None) -> dict[str, PartInfo]:
    """Labels (of language models: numbers of answer tokens), patients (as numbers) and groups of each part."""
    dataset = prepared.dataset
    groups = groups_of(dataset)
    # Numbered by their pseudonyms, so that not even the order of the ids shows.
    codes = {patient: code for code, patient in enumerate(sorted(dataset.patients(), key=prepared.pseudonym))}
    found = {}
    for part in PARTS:
        indices = list(prepared.partition.indices(part))
        records = [dataset[i] for i in indices]
        labels = _labels(records) if language is None else language.n_tokens(part)
        own = {name: values[indices] for name, values in groups.items()}
        found[part] = PartInfo(labels, np.array([codes[r.patient_id] for r in records], dtype=np.int64), own)
    return found


def _labels(records: Sequence[Record]) -> NDArray[Any]:
    return np.array(
        [[np.nan if v is None else v for v in r.label] if isinstance(r.label, tuple) else r.label for r in records]
    )
