"""From a configuration to what stages work on: records, partition, task, modalities, and how a model is built."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from forgetmi.batch import Loader
from forgetmi.config import Config
from forgetmi.errors import ConfigError, ModelError, RequestError, did_you_mean
from forgetmi.inputs import INPUTS, kinds_read, training_noise
from forgetmi.methods.base import PerturbsInputs
from forgetmi.modalities.base import Modality, resolve_noise
from forgetmi.models import MODELS
from forgetmi.models.persistence import LoadedModel, load_model
from forgetmi.partition import Partition
from forgetmi.pseudonyms import load_or_create_key, patient_hasher, request_digest
from forgetmi.records import RecordDataset
from forgetmi.requests import ForgetRequest, read_request, resolve
from forgetmi.runs.texts import check_texts, check_tokens
from forgetmi.splits import split_by_patient
from forgetmi.tasks import TASKS, Task, build_task
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import numpy_generator

logger = logging.getLogger("forgetmi")

_CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, repr=False)  # a repr would show the key and who is to be forgotten
class Prepared:
    """What every stage needs. No stage reads the source, the request or the config again.

    Attributes:
        config: the configuration.
        dataset, request, partition: the records, who is to be forgotten, and what that makes of them.
        request_kind: where the request comes from: ``csv``, ``json``, ``list``, ``fhir``, ``query``, ``config`` or
            ``drawn``.
        task: how the model is scored.
        modalities, loader: how records become batches.
        key: the site's.
        given: the stored model, where the original is not trained here.
        longest: the most tokens that a language model's record has; 0 for other tasks.
    """

    config: Config
    dataset: RecordDataset
    request: ForgetRequest
    request_kind: str
    partition: Partition
    task: Task
    modalities: Mapping[str, Modality]
    loader: Loader
    key: bytes
    given: LoadedModel | None = None
    longest: int = 0

    @property
    def pseudonym(self) -> Callable[[str], str]:
        """Id to keyed hash."""
        return patient_hasher(self.key)

    @cached_property
    def request_digest(self) -> str:
        """Keyed hash of what was asked, and of what becomes of the same patients' other records."""
        return request_digest(self.request, self.key)

    @cached_property
    def data_digest(self) -> str:
        """Keyed hash of every record's ids, label, split and texts (those that need not be read first), in order."""
        digest = hmac.new(self.key, digestmod=hashlib.sha256)
        for r in self.dataset:
            present = sorted(name for name, value in r.modalities.items() if value is not None)
            texts = [r.modalities[name] for name in present if isinstance(r.modalities[name], str | Mapping)]
            row = (r.patient_id, r.study_id, r.sample_id, r.institution, r.label, r.split, present)
            digest.update(repr((*row, texts) if texts else row).encode())
        return digest.hexdigest()

    @cached_property
    def model_settings(self) -> tuple[str, dict[str, Any]]:
        """The kind and the settings from which an untrained model of the original's kind is built."""
        if self.given is not None:
            return self.given.config["kind"], self.given.config["settings"]
        kind, settings = self.config.model.kind, self._completed
        if settings.get("checkpoint") is None:
            return kind, settings
        if kind == "causal_lm":  # what it was fine-tuned from
            settings = {name: value for name, value in settings.items() if name != "checkpoint"}
        else:
            settings = MODELS[kind](settings, 0).to_config()
        return kind, settings

    @cached_property
    def _completed(self) -> dict[str, Any]:
        return self.config.model.complete(self.modalities, getattr(self.task, "n_classes", 0))

    def fresh_model(self, seed: int) -> nn.Module:
        """An untrained model of the original's kind; frozen encoders are those of a model that was given.

        Raises:
            ModelError: it was fine-tuned from a pretrained model that is not at hand, or does not fit the tokens.
        """
        kind, settings = self.model_settings
        if self.given is not None and settings.get("pretrained"):
            raise ModelError(
                "the stored model was fine-tuned from a pretrained one, which is not stored with it: none can be "
                "retrained from there",
                fix="instead of model.load, give model.path (the pretrained model) and model.checkpoint (the original, "
                "as a folder of transformers)",
            )
        model: nn.Module = MODELS[kind](settings, seed)
        check_tokens(model, self.modalities, self.longest)
        if self.given is not None and settings.get("freeze_encoders"):
            model.get_submodule("encoders").load_state_dict(self.given.model.get_submodule("encoders").state_dict())
        return model

    @cached_property
    def _forget_loader(self) -> Loader:
        return self.loader.restricted_to(self.partition.forget_records())

    def scoring_loader(self, part: str) -> Loader:
        """How a part's records are scored: forget records as the request sees them, with the named modalities only."""
        return self._forget_loader if part == "forget" and self.partition.modalities else self.loader

    def given_model(self) -> nn.Module | None:
        """The original, where it comes with its weights."""
        if self.given is not None:
            return self.given.model
        if self._completed.get("checkpoint") is None:
            return None
        model: nn.Module = MODELS[self.config.model.kind](self._completed, 0)
        check_tokens(model, self.modalities, self.longest)
        return model


def prepare(config: Config, *, create_key: bool = True) -> Prepared:
    """Read the data and the request, and check that they, the task and the model fit together.

    Args:
        config: the configuration.
        create_key: where there is no key file yet, write one; else a passing key is used, and nothing is written.

    Raises:
        ConfigError: a modality, the task or the noise does not fit the data.
        DataError: the source is not what its format says, or a label does not fit the task.
        RequestError: the request cannot be carried out.
        ModelError: a stored model cannot be read.
    """
    key = site_key(config, create=create_key)
    dataset = config.adapter.load()
    if config.split is not None:
        split = config.split
        dataset = split_by_patient(dataset, validation=split.validation, test=split.test, seed=split.seed)
    request, kind = _request(config, dataset, key)
    partition = resolve(dataset, request, remaining=config.request.remaining)
    if config.run.limit is not None:
        dataset = _limited(dataset, partition, config.run.limit, config.run.seed)
        partition = resolve(dataset, request, remaining=config.request.remaining)
    if not partition.test:
        raise ConfigError(
            ["data: there is no test record, and a model cannot be audited without"],
            fix="give data.split a test share, or mark test records in the source",
        )
    given = None if config.model.load is None else load_model(config.model.load)
    task = _task(config, dataset, config.model.modalities if given is None else given.modalities)
    modalities = _modalities(config, dataset, given)
    _check_noise(config, modalities)
    loader = Loader(dataset, modalities, cache=_keeps_examples(config, modalities, len(dataset)))
    longest = check_texts(loader, task, partition) if isinstance(task, CausalLMTask) else 0
    return Prepared(config, dataset, request, kind, partition, task, modalities, loader, key, given, longest)


def site_key(config: Config, *, create: bool = True) -> bytes:
    """The key from which pseudonyms are made; a new one is announced."""
    path = config.run.key_file.expanduser()
    new = not path.exists()
    if new and not create:
        return secrets.token_bytes(32)
    key = load_or_create_key(path, run_folder=config.run.folder)
    if new:
        logger.info("a key for pseudonyms was made: %s. Keep it, and keep it secret.", path)
    return key


def _request(config: Config, dataset: RecordDataset, key: bytes) -> tuple[ForgetRequest, str]:
    asked = config.request
    if asked.file is not None:
        request = read_request(asked.file, level=asked.level, column=asked.column, dataset=dataset)
        return request, request.kind
    if asked.query is not None:
        return asked.as_query().find(dataset), "query"
    if asked.draw is not None:
        pool = sorted(dataset.patients(dataset.indices("train")))
        if asked.draw.patients >= len(pool):
            raise RequestError(
                f"{asked.draw.patients} patients are to be drawn, and the train split has {len(pool)}",
                where="request.draw",
                fix="draw fewer: someone must be left to retain",
            )
        rng = numpy_generator(asked.draw.seed, "request")
        drawn = [pool[i] for i in sorted(rng.choice(len(pool), asked.draw.patients, replace=False))]
        return ForgetRequest.of("patient", drawn, source="drawn at random"), "drawn"
    assert asked.level is not None  # RequestConfig has checked it
    ids = asked.ids if asked.ids is not None else _unhashed(asked, dataset, key)
    return ForgetRequest.of(asked.level, ids, asked.modalities, id_level=asked.id_level, source="config"), "config"


def _unhashed(asked: Any, dataset: RecordDataset, key: bytes) -> list[str]:
    """Who the keyed hashes stand for."""
    level = asked.id_level or ("sample" if asked.level in ("modality", "section") else asked.level)
    attribute = "institution" if level == "institution" else f"{level}_id"
    pseudonym = patient_hasher(key)
    identifiers = {getattr(r, attribute) for r in dataset} | set(dataset.aliases.get(level, {}))
    known = {pseudonym(identifier): identifier for identifier in identifiers}
    unknown = [hashed for hashed in asked.hashed_ids if hashed not in known]
    if unknown:
        raise RequestError(
            f"{len(unknown)} of {len(asked.hashed_ids)} hashed ids stand for nobody in {dataset.name}",
            where="request.hashed_ids",
            fix="use the key that they were made with (run.key_file), and the same data",
        )
    return [known[hashed] for hashed in asked.hashed_ids]


def _limited(dataset: RecordDataset, partition: Partition, limit: int, seed: int) -> RecordDataset:
    """The request's patients, and of each split whole patients up to so many records."""
    named = partition.patients("forget")
    kept = [record for record in dataset if record.patient_id in named]
    for split in ("train", "validation", "test"):
        by_patient: dict[str, list[int]] = {}
        for i in dataset.indices(split):
            if dataset[i].patient_id not in named:
                by_patient.setdefault(dataset[i].patient_id, []).append(i)
        pool, room = sorted(by_patient), limit
        for position in numpy_generator(seed, "limit", split).permutation(len(pool)):
            found = by_patient[pool[position]]
            if len(found) <= room:
                kept += [dataset[i] for i in found]
                room -= len(found)
    note = f"a trial with at most {limit} records of each split: its figures say nothing about the whole data"
    return dataset.with_records(kept, notes=[*dataset.notes, note])


def _task(config: Config, dataset: RecordDataset, modalities: Mapping[str, Any]) -> Task:
    options = dict(config.task.options)
    kind = TASKS[config.task.name]
    if "modality" in kind.__dataclass_fields__ and "modality" not in options and len(modalities) == 1:
        options["modality"] = next(iter(modalities))
    if "n_classes" in kind.__dataclass_fields__ and "n_classes" not in options:
        if not dataset.classes:
            raise ConfigError(["task.n_classes: the data does not name its classes; give their number"])
        options["n_classes"] = len(dataset.classes)
    task = build_task(config.task.name, options)
    if config.task.name == "classification":
        for labels in Loader(dataset, {}).batches(range(len(dataset)), 4096):
            task.check_labels(labels)
    return task


def _modalities(config: Config, dataset: RecordDataset, given: LoadedModel | None) -> dict[str, Modality]:
    wanted: Mapping[str, Any] = config.model.modalities if given is None else given.modalities
    problems = []
    for name, item in wanted.items():
        kind = dataset.modality_kinds.get(name)
        if kind is None:
            problems.append(
                f"model.modalities: {dataset.name} has no {name!r}. {did_you_mean(name, dataset.modality_kinds)}"
            )
        elif kind not in kinds_read(item):
            problems.append(f"model.modalities.{name}: {dataset.name} holds {kind} there, not {item.kind}")
    if problems:
        raise ConfigError(problems)
    train = dataset.indices("train")

    def values(name: str) -> list[Any]:
        return [value for value in (dataset[i].value(name) for i in train) if value is not None]

    if given is not None:
        learning = [name for name, modality in given.modalities.items() if INPUTS[modality.kind].learns]
        return {n: training_noise(m, values(n)) if n in learning else m for n, m in given.modalities.items()}
    return {name: item.build(values(name) if item.learns else ()) for name, item in config.model.modalities.items()}


def _check_noise(config: Config, modalities: Mapping[str, Modality]) -> None:
    """A method's noise options are wrong now, not after an hour of training."""
    asked = (config.method.input_noise if isinstance(config.method, PerturbsInputs) else None) or {}
    kinds = {modality.kind: modality for modality in modalities.values()}
    problems = [f"unlearning.noise: no modality of kind {kind!r}. {did_you_mean(kind, kinds)}" for kind in asked
                if kind not in kinds]  # fmt: skip
    for kind, options in asked.items():
        if kind not in kinds:
            continue
        try:
            resolve_noise(kinds[kind], options)
        except ConfigError as error:
            problems += [f"unlearning.noise.{kind}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)


def _keeps_examples(config: Config, modalities: Mapping[str, Modality], n: int) -> bool:
    if config.run.cache is not None:
        return config.run.cache
    sizes = [4 * math.prod((m.channels, *m.size)) for m in modalities.values() if hasattr(m, "channels")]  # type: ignore[attr-defined]
    return n * sum(sizes) <= _CACHE_BYTES
