"""The stages of a run: original, unlearned, retrained, audit, report. Each is skipped where it is done already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from forgetmi.attacks.membership.result import LANGUAGE_SIGNALS
from forgetmi.config import AdapterConfig
from forgetmi.errors import AuditError, ConfigError, MethodError, ModelError, TrainingError
from forgetmi.files import atomic_write, write_json, write_text
from forgetmi.methods.base import UnlearningJob, check_job
from forgetmi.methods.retrain import Retrain
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.persistence import load_model, save_model
from forgetmi.runs.controls import random_share_method
from forgetmi.runs.folder import Done, RunFolder, fingerprint
from forgetmi.runs.language import LanguageAudit
from forgetmi.runs.measure import measured
from forgetmi.runs.prepare import Prepared
from forgetmi.runs.redact import resolved, result_settings
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.executors import Executor, InProcess, ProcessPool, Work
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.reference import Reference
from forgetmi.training.runlog import RunLog
from forgetmi.training.seeds import derive_seed
from forgetmi.training.trainer import Trainer

logger = logging.getLogger("forgetmi")

_NOT_FOR = {
    True: ("entropy", "modified_entropy", "label_only", "cross_modal", "u_lira", "ruli"),
    False: LANGUAGE_SIGNALS,
}
"""Attacks that read what models of the other kind (whether a language model) do not say."""
_VERSION = 1  # raised when a stage comes to do something else with the same settings


def train_original(prepared: Prepared, folder: RunFolder) -> Done:
    """The model that knows everybody: trained on the whole train split, or given with its weights."""
    given = prepared.given_model()
    seed = prepared.config.run.seed

    def work(trainer: Trainer) -> nn.Module:
        if given is not None:
            return given
        model = prepared.fresh_model(derive_seed(seed, "original", "weights"))
        train_by_recipe(
            model,
            task=prepared.task,
            loader=prepared.loader,
            train=prepared.partition.train,
            validation=prepared.partition.validation,
            recipe=prepared.config.training,
            trainer=trainer,
            order_seed=derive_seed(seed, "original", "order"),
            seed=derive_seed(seed, "original"),
            name="original",
        )
        return model.eval()

    return _stage(prepared, folder, "original", original_depends(prepared), seed, work, made_here=given is None)


def unlearn(prepared: Prepared, folder: RunFolder) -> Done:
    """The original, made to forget by the configured method."""
    seed = prepared.config.run.seed
    depends = unlearned_depends(prepared, folder)

    def work(trainer: Trainer) -> nn.Module:
        job = replace(_job(prepared, folder, trainer, derive_seed(seed, "unlearned")), lora=prepared.config.lora)
        return _settled(prepared.config.method.unlearn(job), prepared.config.lora)

    return _stage(prepared, folder, "unlearned", depends, seed, work)


def _settled(model: nn.Module, lora: AdapterConfig | None) -> nn.Module:
    """The unlearned model with its adapter merged, if that is wanted."""
    if lora is None or not isinstance(model, CausalLM) or not model.has_adapter:
        return model
    if lora.merge:
        return model.without_adapter(merge=True)
    logger.warning(
        "the unlearned model is an adapter on the original's weights: whoever deletes the adapter has the original and "
        "what it knows again. unlearning.lora.merge: true puts it into the weights."
    )
    return model


def check_method(prepared: Prepared, folder: RunFolder) -> None:
    """Refuse now, and not when the original is trained, what the method cannot do: an untrained model stands in for it.

    Raises:
        MethodError: the method cannot do this job.
        ConfigError: the device is not there.
    """
    trainer = trainer_of(prepared, folder, None)
    model = prepared.given.model if prepared.given is not None else prepared.fresh_model(0)
    job = replace(job_of(model.to(trainer.device), prepared, trainer, 0), lora=prepared.config.lora)
    check_job(prepared.config.method, job)


def unlearned_depends(prepared: Prepared, folder: RunFolder) -> list[Any]:
    """What the unlearned model depends on; the original must be there."""
    original = _facts(folder, "original")["weights_sha256"]
    return [*original_depends(prepared), *_asked(prepared), settings_of(prepared)["unlearning"], original]


def retrained_seed(prepared: Prepared, index: int) -> int:
    """The seed of a retrained model."""
    return derive_seed(prepared.config.run.seed, "retrained", index) % 2**32


def retrain_one(prepared: Prepared, folder: RunFolder, index: int, *, at_a_time: int = 1) -> Done:
    """One model that never saw the forget set, trained by the original's recipe with a seed of its own.

    ``at_a_time``: how many processes share the machine; their times tell little about one that has it to itself.
    """
    seed = retrained_seed(prepared, index)

    def work(trainer: Trainer) -> nn.Module:
        return Retrain().unlearn(_job(prepared, folder, trainer, seed))

    depends = retrained_depends(prepared, index)
    return _stage(prepared, folder, f"retrained-{index}", depends, seed, work, at_a_time=at_a_time)


def retrained_depends(prepared: Prepared, index: int) -> list[Any]:
    """What a retrained model depends on."""
    return [*original_depends(prepared), *_asked(prepared), index]


def retrain_all(prepared: Prepared, folder: RunFolder) -> None:
    """The retrained models, side by side in ``audit.workers`` processes."""
    config = prepared.config

    def done(index: int) -> bool:
        return folder.is_done(f"retrained-{index}", fingerprint(*retrained_depends(prepared, index)))

    missing = [index for index in range(config.retrains) if not done(index)]
    if kept := config.retrains - len(missing):
        logger.info("retrained: %d of %d models done already, kept", kept, config.retrains)
    workers = min(config.workers, len(missing))
    work = Work(
        title="retrained models",
        done=done,
        here=lambda index: retrain_one(prepared, folder, index),
        worker="forgetmi.runs.worker:retrained_models",
        order=(config, folder.path, folder.resume, workers),
    )
    executor: Executor = ProcessPool(workers, config.run.threads, folder.progress) if workers > 1 else InProcess()
    executor.map(work, missing)


def random_share(prepared: Prepared, folder: RunFolder) -> str | None:
    """Make the control that unlearned a random share of the request; its name, or ``None`` where there is none."""
    config = prepared.config
    if not isinstance(prepared.task, CausalLMTask) or "random_share" not in config.language.controls:
        return None
    method = random_share_method(config, config.language.share)
    if isinstance(method, str):
        logger.info("no model is made that unlearned a random share of the request: %s", method)
        return None
    seed = derive_seed(config.run.seed, "unlearned")

    def work(trainer: Trainer) -> nn.Module:
        job = replace(_job(prepared, folder, trainer, seed), lora=config.lora)
        return _settled(method.unlearn(job), config.lora)

    name = "control-random_share"
    depends = ["random share", config.language.share, *unlearned_depends(prepared, folder)]
    try:
        _stage(prepared, folder, name, depends, seed, work)
    except (MethodError, TrainingError) as error:  # a control is no reason to be without an audit
        logger.warning("no model is made that unlearned a random share of the request: %s", error.what)
        return None
    return name


def check_audit(prepared: Prepared, device: torch.device | None = None) -> LanguageAudit | None:
    """Refuse what cannot be audited; of language models, what will be asked on ``device``, planned.

    Raises:
        AuditError: attacks that are not for such models, shadow models of a language model, or records of one that are
            no texts.
    """
    language = prepared.config.task.name != "classification"
    if wrong := [name for name in prepared.config.audit.attacks if name in _NOT_FOR[language]]:
        raise AuditError(
            f"{', '.join(wrong)}: not for {'language models' if language else 'classifiers'}",
            where="audit.attacks",
            fix="leave it empty for the standard attacks",
        )
    if not language:
        return None
    if prepared.config.shadow.shadows:
        raise AuditError(
            "shadow models are for classifiers: the audit of a language model compares with retrained models",
            where="audit.shadows",
            fix="set audit.shadows: 0, and audit.retrains higher",
        )
    made = LanguageAudit(prepared, device or torch.device("cpu"))
    made.check()
    return made


def audit(prepared: Prepared, folder: RunFolder, *, again: bool = False) -> dict[str, Any]:
    """Score the models, attack them, judge: writes ``evidence.json`` and ``run.json``; returns the evidence.

    Args:
        prepared: the data.
        folder: holds the models.
        again: also where it was done already.

    Raises:
        AuditError: the audit cannot be made as asked.
        ModelError: a model is not there, or broken.
    """
    import json

    from forgetmi.audit import arrays, patients
    from forgetmi.audit.declared import combine
    from forgetmi.audit.evidence import SCHEMA, build_audit
    from forgetmi.runs.documents import now, run_document
    from forgetmi.runs.scores import audit_context, destroyed_scores, model_scores, part_infos, reference_scores

    config = prepared.config
    names = ["original", "unlearned", *(f"retrained-{index}" for index in range(config.retrains))]
    hashes = [_facts(folder, name)["weights_sha256"] for name in names]
    depends = [*original_depends(prepared), *_asked(prepared), settings_of(prepared)["audit"], hashes]
    share = random_share(prepared, folder)
    if share is not None:
        depends.append(_facts(folder, share)["weights_sha256"])
    mark = fingerprint(SCHEMA, *depends)
    evidence_file = folder.path / "evidence.json"
    done: Done | None = None
    if again or not (folder.is_done("audit", mark) and evidence_file.is_file()):
        device = trainer_of(prepared, folder, None).device
        language = check_audit(prepared, device)
        with measured(device) as cost:
            scores = [model_scores(prepared, folder, name, device, language) for name in names]
            controls = (
                {} if share is None else {"random_share": model_scores(prepared, folder, share, device, language)}
            )
            if language is not None and "destroyed" in config.language.controls:
                controls["destroyed"] = destroyed_scores(prepared, folder, device, language)
            references = reference_scores(prepared, folder)
            logger.info("attacking and comparing %d models", len(names))
            made = build_audit(
                scores[0],
                scores[1],
                scores[2:],
                part_infos(prepared, language),
                audit_context(prepared, language),
                config.audit,
                config.run.seed,
                references,
                controls,
            )
        pseudonyms = sorted(map(prepared.pseudonym, prepared.dataset.patients()))
        with atomic_write(folder.path / arrays.FILE) as file:
            file.write(made.arrays)
        table = patients.restricted_table(made.forgotten, made.retained, pseudonyms)
        write_text(folder.path / patients.FILE, table)
        evidence = made.evidence
        done = Done(mark, cost.seconds, cost.peak_memory_mb, {"audited": now()})
    else:
        logger.info("audit: done already, kept")
        evidence = json.loads(evidence_file.read_text(encoding="utf-8"))
    # what people declare may change without another audit
    evidence["declared"] = combine(config.case.to_json(), evidence)
    write_json(evidence_file, evidence)
    if done is not None:  # only now that its document is there
        folder.finish("audit", done)
    write_json(folder.path / "run.json", run_document(prepared, folder, names))
    return evidence


def report(path: Path) -> Path:
    """Write ``report.html`` and ``model_card.md`` from the two documents of a run folder; the report's path.

    Raises:
        AuditError: a document is missing or not valid.
    """
    import json

    from forgetmi.audit.report import render_model_card, render_report

    documents = []
    for name in ("run.json", "evidence.json"):
        try:
            documents.append(json.loads((path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise AuditError(
                f"{name} is missing or cannot be read", where=str(path), fix="forgetmi audit --run makes it"
            ) from error
    write_text(path / "model_card.md", render_model_card(*documents))
    write_text(path / "report.html", render_report(*documents))
    return path / "report.html"


def _stage(
    prepared: Prepared,
    folder: RunFolder,
    name: str,
    depends: list[Any],
    seed: int,
    work: Callable[[Trainer], nn.Module],
    *,
    made_here: bool = True,
    at_a_time: int = 1,
) -> Done:
    """Do a stage unless it is done; its model is stored before it is marked as done."""
    mark = fingerprint(*depends)
    done = folder.done(name)
    if done is not None and done.fingerprint == mark and folder.model(name).is_dir():
        logger.info("%s: done already, kept", name)
        return done
    checkpoints = folder.checkpoints(name, mark)
    whole = not any(checkpoints.glob("*.pt"))  # the time of a resumed stage is that of its rest
    trainer = trainer_of(prepared, folder, checkpoints)
    logger.info("%s: started", name)
    folder.log.event("stage_started", stage=name)
    with measured(trainer.device) as cost:
        model = work(trainer)
    digest = save_model(
        model,
        folder.model(name),
        modalities=prepared.modalities,
        task_config={"name": prepared.task.name, **vars(prepared.task)},
        extra={"role": name.split("-")[0]},
    )
    facts = {
        "weights_sha256": digest,
        "seed": seed,
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "made_here": made_here,
        "whole": whole,
        "at_a_time": at_a_time,
    }
    done = Done(mark, cost.seconds, cost.peak_memory_mb, facts)
    folder.finish(name, done)
    logger.info("%s: done in %.1f s", name, cost.seconds)
    return done


def trainer_of(prepared: Prepared, folder: RunFolder | None, checkpoints: Path | None) -> Trainer:
    """The loop as the config asks for it; without a folder it neither logs, resumes nor shows progress."""
    run = prepared.config.run
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["run.device: cuda was asked for, and torch sees no CUDA device"], fix="use device: auto")
    return Trainer(
        device=None if run.device == "auto" else run.device,
        precision="no" if run.precision == "fp32" else run.precision,
        checkpoint_dir=checkpoints,
        resume=folder is not None and folder.resume,
        log=None if folder is None else folder.log,
        num_workers=run.num_workers,
        progress=folder is not None and folder.progress,
    )


def _job(prepared: Prepared, folder: RunFolder, trainer: Trainer, seed: int) -> UnlearningJob:
    original = load_model(folder.model("original")).model.to(trainer.device)
    return job_of(original, prepared, trainer, seed, folder.log)


def job_of(
    model: nn.Module, prepared: Prepared, trainer: Trainer, seed: int, log: RunLog | None = None
) -> UnlearningJob:
    """A job on this model, which stands on the trainer's device."""
    return UnlearningJob(
        model=model,
        partition=prepared.partition,
        task=prepared.task,
        loader=prepared.loader,
        trainer=trainer,
        seed=seed,
        reference=Reference(model, prepared.task, trainer.device, log),
        fresh_model=prepared.fresh_model,
        recipe=prepared.config.training,
    )


def settings_of(prepared: Prepared) -> dict[str, Any]:
    """What the models and figures depend on, resolved."""
    return result_settings(resolved(prepared.config, prepared.pseudonym))


def original_depends(prepared: Prepared) -> list[Any]:
    """What the original, and so every model, depends on."""
    settings = settings_of(prepared)
    given = None if prepared.given is None else prepared.given.config["weights_sha256"]
    run = {key: settings["run"].get(key) for key in ("seed", "precision", "limit")}
    parts = [settings[name] for name in ("data", "task", "model", "training")]
    return [_VERSION, *parts, run, prepared.data_digest, given]


def _asked(prepared: Prepared) -> list[Any]:
    return [prepared.request_digest, prepared.config.request.remaining]


def _facts(folder: RunFolder, stage: str) -> dict[str, Any]:
    done = folder.done(stage)
    if done is None:
        raise ModelError(
            f"the run has no {stage} model yet",
            where=str(folder.path),
            fix="forgetmi run --config ... makes all that is missing",
        )
    return dict(done.facts)
