"""A run's configuration: strict, every problem at once, unknown keys with a suggestion.

Sections of a config file (``forgetmi init DIR`` writes a commented one)::

    data:        adapter: NAME, the adapter's options, split: {validation, test, seed} to draw splits by patient
    request:     file: CSV, JSON, list | level + ids or query | draw: {patients, seed}; remaining: refuse | exclude
    task:        name: classification, its options; n_classes comes from the data where it is left out
    model:       modalities, encoders, fusion, heads, dim, dropout | load: a folder of a stored model
    training:    epochs, batch_size, lr, ... (forgetmi.training.options.FitOptions): the original's recipe
    unlearning:  method: NAME, its options, tuned_for: a preset that they stand on, lora: an adapter (AdapterConfig)
    audit:       retrains, workers, shadows (ShadowConfig), and forgetmi.audit.options.AuditOptions
    run:         folder, seed, device, precision, num_workers, threads, cache, key_file, limit
    case:        what people declare, for the report: forgetmi.audit.case.Case

Paths are relative to the file; those of an override to the shell's folder.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from forgetmi.audit.case import Case
from forgetmi.errors import ConfigError, RequestError, did_you_mean
from forgetmi.model_settings import ModelConfig, read_model
from forgetmi.models.lora import LoraOptions
from forgetmi.options import build_options
from forgetmi.request_query import Query
from forgetmi.settings import Settings, absolute_paths, read_settings

if typing.TYPE_CHECKING:
    from forgetmi.audit.language_options import LanguageOptions
    from forgetmi.audit.options import AuditOptions
    from forgetmi.data_adapters import Adapter
    from forgetmi.methods import UnlearningMethod
    from forgetmi.training.options import FitOptions

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Level = Literal["institution", "patient", "study", "sample", "modality", "section"]
ValueT = TypeVar("ValueT")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SplitConfig(_Section):
    """Splits drawn by patient, in place of the data's own: shares of the patients, and the seed of the draw."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Seed = 0


class DrawConfig(_Section):
    """A request for trials: so many patients of the train split, drawn from the seed."""

    patients: Annotated[int, Field(ge=1)]
    seed: Seed = 0


class RequestConfig(_Section):
    """Who or what is to be forgotten: exactly one of ``file``, ``ids``, ``hashed_ids``, ``query`` and ``draw``.

    Attributes:
        file: a CSV or JSON request, an EHR's manifest of deletions or a list as a clerk types it, see
            :func:`forgetmi.request_sources.read_request`; ``level`` and ``column`` where a CSV does not say them.
        ids: identifiers at ``level``.
        hashed_ids: keyed hashes of identifiers, as a run folder's ``config.yaml`` holds them; the site's key finds who
            they are.
        query: attributes that the records must have, see :class:`forgetmi.request_query.Query`; ``missing`` says what
            becomes of records whose attribute is not known.
        draw: patients drawn at random.
        modalities, id_level: for levels ``modality`` and ``section`` (there ``modalities`` names sections).
        remaining: what becomes of the same patients' other train records.
    """

    file: Annotated[Path | None, Field(strict=False)] = None
    column: str | None = None
    level: Level | None = None
    ids: list[str] | None = None
    hashed_ids: list[str] | None = None
    query: dict[str, Any] | None = None
    missing: Literal["refuse", "leave"] = "refuse"
    draw: DrawConfig | None = None
    modalities: list[str] | None = None
    id_level: str = ""
    remaining: Literal["refuse", "exclude"] = "refuse"

    @model_validator(mode="after")
    def _one_source(self) -> RequestConfig:
        given = [name for name in ("file", "ids", "hashed_ids", "query", "draw") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of file, ids, query and draw, not {' and '.join(given) or 'none'}")
        if given[0] in ("ids", "hashed_ids", "query") and self.level is None:
            raise ValueError(f"{given[0]}: a level is needed: {', '.join(typing.get_args(Level))}")
        if self.query is not None:
            self.as_query()
        if given[0] == "draw" and self.level not in (None, "patient"):
            raise ValueError("draw draws patients: level must be patient, or left out")
        if given[0] != "file" and self.column is not None:
            raise ValueError("column belongs to a file")
        return self

    def as_query(self) -> Query:
        """The query, checked.

        Raises:
            ValueError: a condition cannot be used.
        """
        content: dict[str, Any] = {
            "level": self.level,
            "query": self.query,
            "missing": self.missing,
            "id_level": self.id_level,
        }
        if self.modalities:
            content["modalities"] = self.modalities
        try:
            return Query.from_mapping(content, source="request.query")
        except RequestError as error:
            raise ValueError(error.what) from None


class RunConfig(_Section):
    """How a run is carried out.

    Attributes:
        folder: where everything is written; ``runs/NAME`` beside the config NAME.yaml by default.
        seed: every draw depends on it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: of the forward passes while training.
        num_workers: processes that load batches; 0 loads in the training process.
        threads: of the CPU's arithmetic; ``None`` leaves it to torch. Small models are faster with 1.
        cache: whether prepared examples are kept in memory; ``None`` does so up to 2 GiB.
        key_file: the site's key, from which patients' pseudonyms are made.
        limit: at most so many records of each split, for a quick try; the request's patients always stay.
    """

    folder: Annotated[Path, Field(strict=False)]
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    num_workers: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] | None = None
    cache: bool | None = None
    key_file: Annotated[Path, Field(strict=False)] = Path("~/.config/forgetmi/site.key")
    limit: Annotated[int, Field(ge=1)] | None = None


class ShadowConfig(_Section):
    """Shadow models for attacks that look at each record separately; keys of the ``audit`` section.

    Attributes:
        shadows: how many, an even number; 0: none. 16 say little of a single patient, 64 are common.
        unlearned_shadows: also make each of them unlearn its target patients, by the configured method (U-LiRA).
        shadow_folder: where scores are kept; one for several runs lets them share shadow models, whatever their
            methods. ``None``: in the run's folder.
        keep_shadows: keep the weights too, which hold what is to be forgotten: then another method's unlearned shadows
            need no training.
        executor: who makes them: ``in_process``, ``processes`` (``audit.workers`` of them), ``slurm`` (an array, for
            which a script is written) or ``ensemble`` (all heads at once, over frozen encoders). ``auto``:
            ``processes`` where there are several workers, else ``in_process``.
        slurm: options of ``sbatch`` by their long names: ``{partition: gpu, mem: 32G}``.
    """

    shadows: int = 0
    unlearned_shadows: bool = False
    shadow_folder: Annotated[Path | None, Field(strict=False)] = None
    keep_shadows: bool = False
    executor: Literal["auto", "in_process", "processes", "slurm", "ensemble"] = "auto"
    slurm: dict[str, str | int] = {}

    @model_validator(mode="after")
    def _fits(self) -> ShadowConfig:
        from forgetmi.training.executors import check_slurm_options
        from forgetmi.training.shadows import check_count

        problems = [*check_count(self.shadows), *check_slurm_options(self.slurm)]
        if self.unlearned_shadows and not self.shadows:
            problems.append("unlearned_shadows are made of shadows, and their number is 0")
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class AdapterConfig(LoraOptions):
    """A language model unlearns in a low-rank adapter; the original's own weights stay as they are.

    Attributes:
        merge: the adapter is put into the weights afterwards. If it is not, whoever deletes the adapter from the
            unlearned model has the original again.
    """

    merge: bool = False


class CaseConfig(Case):
    """What only people know, for the report: see :class:`forgetmi.audit.case.Case`."""

    model_config = ConfigDict(strict=True)


class TaskConfig(_Section):
    """How the model is scored. ``options`` are the task's; ``n_classes`` may be left to the data."""

    name: str = "classification"
    options: dict[str, Any] = {}


@dataclass(frozen=True)
class Config:
    """A checked configuration: :func:`load_config` builds it.

    Attributes:
        adapter: what reads the data, with ``data_options``, and ``split`` where splits are to be drawn.
        request, task, model, run, case: the sections.
        training: the original's recipe.
        method: what unlearns, with ``method_options`` as they were given.
        lora: the adapter that it unlearns in; ``None`` for none.
        audit: the audit's options, ``retrains``, ``workers``, ``shadow`` and ``language`` beside them.
        given: the settings as given, overrides included. Holds the request's ids: never write it, see
            :func:`forgetmi.runs.redact.redacted`.
        source: the file.
    """

    adapter: Adapter
    data_options: Mapping[str, Any]
    split: SplitConfig | None
    request: RequestConfig
    task: TaskConfig
    model: ModelConfig
    training: FitOptions
    method: UnlearningMethod
    method_options: Mapping[str, Any]
    lora: AdapterConfig | None
    audit: AuditOptions
    retrains: int
    workers: int
    shadow: ShadowConfig
    language: LanguageOptions
    run: RunConfig
    case: CaseConfig
    given: Mapping[str, Any]
    source: Path | None


SECTIONS = ("data", "request", "task", "model", "training", "unlearning", "audit", "run", "case")
_SELECTORS = ("unlearning.method", "data.adapter", "task.name")
_REQUIRED = ("data", "request", "model", "unlearning")


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        source: a YAML file, or the settings as a mapping.
        overrides: ``"training.lr=1e-4"``, the values read as YAML.

    Raises:
        ConfigError: everything that is wrong, each with its line where there is one.
    """
    settings = read_settings(source, overrides, selectors=_SELECTORS)
    problems = [f"{name}: unknown section '{name}'. {did_you_mean(str(name), SECTIONS)}"
                for name in settings.values if name not in SECTIONS]  # fmt: skip
    problems += [f"section {name!r} is missing" for name in _REQUIRED if name not in settings.values]
    sections: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        value = settings.values.get(name)
        if value is not None and not isinstance(value, Mapping):
            problems.append(f"{name}: expected `key: value` lines, got {type(value).__name__}")
        sections[name] = dict(value) if isinstance(value, Mapping) else {}
    reader = _Reader(settings, problems)
    config = reader.config(sections)
    if problems or config is None:
        located = [settings.located(problem) for problem in dict.fromkeys(problems)]
        raise ConfigError(located, where=None if settings.source is None else str(settings.source))
    return config


class _Reader:
    """Reads sections, each on its own, and collects what is wrong with them."""

    def __init__(self, settings: Settings, problems: list[str]) -> None:
        self.settings, self.problems = settings, problems

    def config(self, sections: dict[str, dict[str, Any]]) -> Config | None:
        from forgetmi.audit.language_options import LanguageOptions
        from forgetmi.audit.options import AuditOptions
        from forgetmi.data_adapters import ADAPTERS
        from forgetmi.methods import METHODS
        from forgetmi.methods.presets import with_preset
        from forgetmi.training.options import FitOptions

        given = {name: section for name, section in self.settings.values.items() if name in SECTIONS}
        data, unlearning, audit = (sections[name] for name in ("data", "unlearning", "audit"))
        split = None
        drawn = data.get("split")
        if drawn is not None and not self.has_option(ADAPTERS, data.get("adapter"), "split"):
            split = self.section(SplitConfig, data.pop("split"), "data.split")
        adapter, data_options = self.named(ADAPTERS, data, "data", "adapter")
        unlearning = self.attempt(lambda: with_preset(unlearning)) or unlearning
        lora = self.lora(unlearning, METHODS)
        method, method_options = self.named(METHODS, unlearning, "unlearning", "method")
        retrains, workers = self.number(audit, "retrains", 5, 2), self.number(audit, "workers", 1, 1)
        language = audit.pop("language", {})
        shadow = {key: audit.pop(key) for key in ShadowConfig.model_fields if key in audit}
        if isinstance(shadow.get("shadow_folder"), str):
            shadow["shadow_folder"] = self.settings.path("audit.shadow_folder", shadow["shadow_folder"])
        for key in ("folder", "key_file"):
            if isinstance(sections["run"].get(key), str):
                sections["run"][key] = self.settings.path(f"run.{key}", sections["run"][key])
        sections["run"].setdefault("folder", self._default_folder())
        if isinstance(sections["request"].get("file"), str):
            sections["request"]["file"] = self.settings.path("request.file", sections["request"]["file"])
        parts: dict[str, Any] = {
            "adapter": adapter,
            "request": self.section(RequestConfig, sections["request"], "request") if "request" in given else None,
            "task": self.task(sections["task"]),
            "model": self.attempt(lambda: read_model(sections["model"], self.settings)) if "model" in given else None,
            "training": self.attempt(lambda: build_options(FitOptions, sections["training"], where="training")),
            "method": method,
            "audit": self.attempt(lambda: build_options(AuditOptions, audit, where="audit")),
            "shadow": self.section(ShadowConfig, shadow, "audit"),
            "language": self.attempt(lambda: build_options(LanguageOptions, language, where="audit.language")),
            "run": self.section(RunConfig, sections["run"], "run"),
            "case": self.section(CaseConfig, sections["case"], "case"),
        }
        if self.problems or any(part is None for part in parts.values()):
            return None
        return Config(
            **parts, split=split, data_options=data_options, method_options=method_options, lora=lora,
            retrains=retrains, workers=workers, given=given, source=self.settings.source,
        )  # fmt: skip

    def attempt(self, build: Callable[[], ValueT]) -> ValueT | None:
        try:
            return build()
        except ConfigError as error:
            self.problems.extend(error.problems)
            return None

    def section(self, kind: type[ValueT], values: Any, where: str) -> ValueT | None:
        """A pydantic section; its errors in our words."""
        assert issubclass(kind, BaseModel)
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            self.problems.extend(_in_words(item, kind, where) for item in error.errors(include_url=False))
            return None

    def named(self, registry: Any, values: dict[str, Any], where: str, key: str) -> tuple[Any, dict[str, Any]]:
        """Something of a registry with its options: a name under ``key``, the rest are options."""
        name = values.pop(key, None)
        if not isinstance(name, str):
            if where in self.settings.values:
                self.problems.append(f"{where}: option '{key}' is required. Available: {', '.join(registry)}.")
            return None, values
        kind = self.attempt(lambda: _prefixed(f"{where}.{key}", lambda: registry[name]))
        if kind is None:
            return None, values
        options = absolute_paths(kind, values, where, self.settings)
        return self.attempt(lambda: build_options(kind, options, where=where)), options

    def has_option(self, registry: Any, name: Any, option: str) -> bool:
        """Whether something of a registry has an option of its own under this name."""
        return name in registry and option in registry[name].__dataclass_fields__

    def lora(self, unlearning: dict[str, Any], methods: Any) -> AdapterConfig | None:
        """The adapter, taken out of the method's options where it is none of them."""
        if unlearning.get("lora") is None or self.has_option(methods, unlearning.get("method"), "lora"):
            return None
        given = unlearning.pop("lora")
        return self.attempt(lambda: build_options(AdapterConfig, given, where="unlearning.lora"))

    def task(self, values: dict[str, Any]) -> TaskConfig | None:
        from forgetmi.tasks import TASKS

        name = values.pop("name", "classification")
        kind = self.attempt(lambda: _prefixed("task.name", lambda: TASKS[name]))
        if kind is None:
            return None
        filled = {"n_classes": 2, **values} if "n_classes" in kind.__dataclass_fields__ else values
        if self.attempt(lambda: build_options(kind, filled, where="task")) is None:
            return None
        return TaskConfig(name=name, options=values)

    def number(self, values: dict[str, Any], key: str, default: int, least: int) -> int:
        value = values.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.problems.append(f"audit.{key}: must be a whole number of at least {least}, got {value!r}")
            return default
        return value

    def _default_folder(self) -> Path:
        source = self.settings.source
        return Path.cwd() / "runs" / "run" if source is None else source.parent / "runs" / source.stem


def _prefixed(where: str, build: Callable[[], ValueT]) -> ValueT:
    try:
        return build()
    except ConfigError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from None


def _in_words(item: Any, kind: type[BaseModel], where: str) -> str:
    """One of pydantic's errors; values under ``request`` are not repeated, they may be ids."""
    names = [str(part) for part in item["loc"]]
    key = ".".join([where, *names])
    if item["type"] == "extra_forbidden":
        section: Any = kind
        for name in names[:-1]:
            choices = typing.get_args(section.model_fields[name].annotation)
            section = next((choice for choice in choices if hasattr(choice, "model_fields")), section)
        parent = ".".join([where, *names[:-1]])
        return f"{parent}: unknown option '{names[-1]}'. {did_you_mean(names[-1], section.model_fields)}"
    if item["type"] == "missing":
        return f"{key}: required"
    message = item["msg"].removeprefix("Value error, ")
    if names and names[0] == "ids":
        return f"{key}: {message}; quote ids in YAML: '0012'"
    if item["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message}, got {item['input']!r}"
