"""The config's ``model`` section: modalities, and the settings of the model that reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.options import build_options
from forgetmi.settings import Settings, absolute_paths

if TYPE_CHECKING:
    from forgetmi.inputs import InputOptions
    from forgetmi.modalities.base import Modality

_OWN = ("kind", "load", "modalities")


@dataclass(frozen=True)
class ModelConfig:
    """The model of a run.

    Attributes:
        modalities: name to how its values are prepared. Empty where a stored model is loaded.
        kind: a name of :data:`forgetmi.models.MODELS`.
        settings: of that kind, less what comes from the task and the modalities (:meth:`complete`).
        load: the folder of a stored model; then it is not trained.
    """

    modalities: Mapping[str, InputOptions] = field(default_factory=dict)
    kind: str = "classifier"
    settings: Mapping[str, Any] = field(default_factory=dict)
    load: Path | None = None

    @property
    def is_given(self) -> bool:
        """Whether the original comes with its weights, and is not trained here."""
        return self.load is not None or self.settings.get("checkpoint") is not None

    def complete(self, modalities: Mapping[str, Modality], n_outputs: int) -> dict[str, Any]:
        """The settings from which the model is built: channels, vocabulary and outputs filled in."""
        if self.kind == "causal_lm":
            return _complete_causal_lm(self.settings, modalities)
        learned = {name: size for name, modality in modalities.items() if (size := _learned(modality)) is not None}
        return _complete(self.kind, self.settings, self.modalities, learned, n_outputs)


def _learned(modality: Modality) -> int | None:
    """What a modality learned from the training split and its encoder must know: the size of its vocabulary or row."""
    tokenizer = getattr(modality, "tokenizer", None)
    size: int | None = getattr(modality, "features", None) if tokenizer is None else tokenizer.get_vocab_size()
    return size


def read_model(values: Mapping[str, Any], settings: Settings) -> ModelConfig:
    """The ``model`` section.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    from forgetmi.inputs import INPUTS
    from forgetmi.models import MODELS

    if values.get("load") is not None:
        extra = [name for name in values if name != "load"]
        problems = [f"model.{name}: a stored model brings its own; leave it out beside load" for name in extra]
        if not isinstance(values["load"], str | Path):
            problems.append("model.load: expected the folder of a stored model")
        if problems:
            raise ConfigError(problems)
        return ModelConfig(load=settings.path("model.load", values["load"]))
    problems = []
    kind = values.get("kind", "classifier")
    if kind not in MODELS:
        problems.append(f"model.kind: unknown model kind {kind!r}. {did_you_mean(str(kind), MODELS)}")
    inputs: dict[str, InputOptions] = {}
    given = values.get("modalities")
    if not isinstance(given, Mapping) or not given:
        problems.append("model.modalities: name at least one, for instance `image: {size: 224, channels: 1}`")
        given = {}
    for name, options in given.items():
        where = f"model.modalities.{name}"
        options = dict(options or {})
        input_kind = options.pop("kind", "dialogue" if kind == "causal_lm" else name)
        if input_kind == "dialogue" and isinstance(values.get("path"), str):
            options.setdefault("tokenizer", str(settings.path("model.path", values["path"])))
        if input_kind not in INPUTS:
            problems.append(f"{where}: give its `kind`, one of {', '.join(INPUTS)}")
            continue
        try:
            of_kind = INPUTS[input_kind]
            inputs[name] = build_options(of_kind, absolute_paths(of_kind, options, where, settings), where=where)
        except ConfigError as error:
            problems += error.problems
            inputs.setdefault(name, INPUTS[input_kind]())  # the encoders are checked all the same
    rest = {name: value for name, value in values.items() if name not in _OWN}
    if kind in MODELS:
        try:
            rest = _absolute(kind, rest, settings)
            _complete(kind, rest, inputs, dict.fromkeys(inputs, 64), n_outputs=2)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return ModelConfig(inputs, kind, rest)


def _absolute(kind: str, values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    from forgetmi.models.encoders import ENCODERS

    found = dict(values)
    for name in ("checkpoint", "path"):
        if isinstance(found.get(name), str):
            found[name] = str(settings.path(f"model.{name}", found[name]))
    if kind == "classifier" and isinstance(found.get("encoders"), Mapping):
        found["encoders"] = {
            name: absolute_paths(ENCODERS[options["name"]].Options, options, f"model.encoders.{name}", settings)
            if isinstance(options, Mapping) and options.get("name") in ENCODERS
            else options
            for name, options in found["encoders"].items()
        }
    return found


def _complete(
    kind: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, InputOptions],
    learned: Mapping[str, int],
    n_outputs: int,
) -> dict[str, Any]:
    """Settings with what the modalities and the task fix; all of it checked."""
    if kind == "classifier":
        return _complete_classifier(settings, inputs, learned, n_outputs)
    if kind == "causal_lm":
        from forgetmi.models.causal_lm import CausalLMConfig

        found = _complete_causal_lm(settings, {})
        problems = _problems(CausalLMConfig, found, "model")
        if found.get("tuning") == "qlora":
            problems.append("model.tuning: a run stores whole models, and weights in 4 bits are not stored; use lora")
        if len(inputs) > 1:
            problems.append(f"model.modalities: a language model reads one, not {len(inputs)}")
        problems += [
            f"model.modalities.{name}: a language model reads texts (kind: dialogue) or tokens, not {item.kind}"
            for name, item in inputs.items()
            if item.kind not in ("dialogue", "tokens")
        ]
        if problems:
            raise ConfigError(problems)
        return found
    from forgetmi.models.forget_mi_classifier import ForgetMIClassifierConfig

    found = dict(settings)
    if found.get("checkpoint") is None:
        found["network"] = {"num_labels": n_outputs, **(found.get("network") or {})}
    build_options(ForgetMIClassifierConfig, found, where="model")
    return found


def _complete_causal_lm(settings: Mapping[str, Any], modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """Of an architecture without weights, the tokens that its tokenizer has."""
    found = dict(settings)
    tokenizer = next((getattr(modality, "tokenizer", None) for modality in modalities.values()), None)
    if isinstance(found.get("config"), Mapping) and tokenizer is not None:
        own = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        found["config"] = {"vocab_size": tokenizer.size, **own, **found["config"]}
    return found


def _complete_classifier(
    settings: Mapping[str, Any], inputs: Mapping[str, InputOptions], learned: Mapping[str, int], n_outputs: int
) -> dict[str, Any]:
    from forgetmi.models.classifier import ClassifierConfig
    from forgetmi.models.encoders import ENCODERS
    from forgetmi.models.fusion import FUSIONS

    found = {**settings, "n_outputs": n_outputs}
    encoders = found.get("encoders")
    encoders = dict(encoders) if isinstance(encoders, Mapping) else {}
    problems = [f"model.encoders: no modality {name!r}. {did_you_mean(name, inputs)}" for name in encoders
                if name not in inputs]  # fmt: skip
    problems += [f"model.encoders.{name}: the modality has no encoder. Available: {', '.join(ENCODERS)}."
                 for name in inputs if name not in encoders]  # fmt: skip
    for name, given in encoders.items():
        where = f"model.encoders.{name}"
        options = dict(given) if isinstance(given, Mapping) else {}
        encoder = options.pop("name", None)
        if encoder not in ENCODERS:
            problems.append(f"{where}.name: unknown encoder {encoder!r}. {did_you_mean(str(encoder), ENCODERS)}")
        elif name in inputs:
            derived = _derived(ENCODERS[encoder].Options, inputs[name], learned.get(name, 0))
            problems += [
                f"{where}.{key}: {options[key]!r}, but the modality {name} has {value}"
                for key, value in derived.items()
                if key in ("channels", "in_chans", "leads") and options.get(key, value) != value
            ]
            options = {**derived, **options}
            problems += _problems(ENCODERS[encoder].Options, options, where)
            encoders[name] = {"name": encoder, **options}
    fusion = found.get("fusion")
    if fusion is not None:
        options = {"name": fusion} if isinstance(fusion, str) else dict(fusion)
        name = options.pop("name", None)
        if name not in FUSIONS:
            problems.append(f"model.fusion: unknown fusion {name!r}. {did_you_mean(str(name), FUSIONS)}")
        else:
            problems += _problems(FUSIONS[name].Options, options, "model.fusion")
    found["encoders"] = encoders
    problems += _problems(ClassifierConfig, found, "model")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return found


def _derived(options: type[Any], modality: InputOptions, learned: int) -> dict[str, Any]:
    """What a modality fixes of its encoder's options. ``learned``: size of its vocabulary, or width of its rows."""
    channels = getattr(modality, "channels", None)
    known = {
        "channels": channels,
        "in_chans": channels,
        "vocab_size": learned or None,
        "features": learned or None,
        "leads": getattr(modality, "leads", None),
        "max_length": getattr(modality, "max_length", None),
    }
    names = {option.name for option in dataclasses.fields(options)}
    return {name: value for name, value in known.items() if name in names and value is not None}


def _problems(kind: type[Any], values: Mapping[str, Any], where: str) -> list[str]:
    try:
        build_options(kind, values, where=where)
    except ConfigError as error:
        return list(error.problems)
    return []
