"""What every evaluation of a language model shares: reading the model, tables of records, results kept under hashes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import forgetmi
from forgetmi.errors import ConfigError, ModelError
from forgetmi.files import atomic_write, write_json
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.per_example import PerExample
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.models.causal_lm import CausalLM, CausalLMConfig, Dtype, build_causal_lm
from forgetmi.models.persistence import CONFIG_FILE, load_model
from forgetmi.models.weights import weights_sha256
from forgetmi.runs.controls import destroyed_copy
from forgetmi.training.seeds import derive_seed, torch_generator

logger = logging.getLogger("forgetmi")

SCHEMA = "forgetmi.evaluation/1"
MARGIN = 0.05
"""By how much of the bar, see :func:`standing`, a model has to be better than one that knows nothing."""
Written = Mapping[str, PerExample]


@dataclass(frozen=True)
class Evaluation:
    """What one model is worth.

    Attributes:
        document: of schema ``forgetmi.evaluation/1``.
        path: where it is kept.
        kept: whether it was there already.
    """

    document: dict[str, Any]
    path: Path
    kept: bool


@dataclass(frozen=True)
class Subject:
    """A model that is measured, in eval mode, and the modality that makes its tokens.

    Attributes:
        name: of its folder or file.
        model, modality: see above.
    """

    name: str
    model: CausalLM
    modality: DialogueModality

    @property
    def weights(self) -> str:
        """Hash of its weights."""
        return weights_sha256(self.model)

    @property
    def settings(self) -> list[Any]:
        """What its numbers depend on beside its weights: the architecture (heads, rotations), the reading of text."""
        config = {key: value for key, value in self.model.lm.config.to_dict().items() if key != "_name_or_path"}
        lora = self.model.settings.lora.to_config() if self.model.has_adapter else None
        return [plain(config), lora, self.modality.to_config()]

    def to(self, device: torch.device) -> Subject:
        """On that device."""
        return replace(self, model=self.model.to(device))

    def destroyed(self, seed: int) -> Subject:
        """A copy with noise for weights: what a score is worth where nothing is known."""
        copy = destroyed_copy(self.model, torch_generator(seed, "destroyed"))
        assert isinstance(copy, CausalLM)
        return replace(self, name="destroyed", model=copy)


def read_subject(place: Path, *, format: str | None, max_length: int | None, dtype: Dtype) -> Subject:
    """A model of transformers, a GGUF file, or a model that forgetmi stored.

    Args:
        place: the folder or file.
        format: what stands around a prompt, instead of what the model brings.
        max_length: longer texts are cut; with ``None``, they are an error.
        dtype: of the weights.

    Raises:
        ModelError: it cannot be read, or is no language model.
    """
    length: dict[str, Any] = {"max_length": max_length, "on_long": "error" if max_length is None else "cut"}
    if (place / CONFIG_FILE).is_file():
        loaded = load_model(place)
        modality = next((m for m in loaded.modalities.values() if isinstance(m, DialogueModality)), None)
        if modality is None or not isinstance(loaded.model, CausalLM):
            raise ModelError("the stored model is no language model", where=str(place))
        settings = {**modality.to_config(), **({} if max_length is None else length)}
        if format is not None:
            settings["format"] = format
        settings.pop("kind")
        return Subject(place.name, loaded.model, DialogueModality.from_config(settings))
    model = build_causal_lm(CausalLMConfig(path=place, dtype=dtype), 0).eval()
    return Subject(place.name, model, DialogueModality(read_lm_tokenizer(place), format=format, **length))


def standing(
    texts: Sequence[float] | np.ndarray[Any, Any], size: int, control: float | None = None, what: str = "texts"
) -> dict[str, Any]:
    """Whether a model is destroyed: whether its loss is hardly better than that of a model that knows nothing.

    *Our reading.* The bar is the loss of the uniform law over the vocabulary, log V, or that of the model's destroyed
    copy where it was measured and is lower. A model is called destroyed where its loss is not at least 5 % below the
    bar: knowing which words are frequent is already worth more than that.

    Args:
        texts: mean NLL of each text, in nats a token.
        size: V, of the vocabulary.
        control: mean loss of the destroyed copy on the same texts.
        what: the texts are, for the sentence.
    """
    loss, uniform = float(np.mean(texts)), math.log(size)
    bar = uniform if control is None else min(uniform, control)
    destroyed = not loss < (1.0 - MARGIN) * bar
    sentence = (
        f"The model is {'destroyed' if destroyed else 'not destroyed'}: its loss on {len(texts)} {what} is {loss:.3f} "
        f"nats a token; one that knows nothing has {bar:.3f}."
    )
    return {
        "destroyed": destroyed, "mean_nll": loss, "uniform_nll": uniform, "control_nll": control, "n_texts": len(texts),
        "sentence": sentence,
    }  # fmt: skip


def unknown_standing(reason: str) -> dict[str, Any]:
    """That it cannot be said whether a model is destroyed, and why."""
    return {"destroyed": None, "sentence": f"Whether the model is destroyed was not measured: {reason}."}


def greedy_and_sampled(
    write: Callable[[Decoding, int], Written], decoding: Decoding, seed: int
) -> dict[str, PerExample]:
    """Metrics of written text: greedy, and beside them (named ``..._sampled``) the means over samples.

    Args:
        write: metrics of what is written with a decoding of one sample, and a seed.
        decoding: samples are written where its temperature is above 0.
        seed: of all samples.
    """
    found = dict(write(replace(decoding, temperature=0.0, top_p=1.0, samples=1), seed))
    if decoding.temperature > 0:
        one = replace(decoding, samples=1)
        samples = [write(one, derive_seed(seed, "sample", n)) for n in range(decoding.samples)]
        for name in samples[0]:
            found |= sampled([made[name] for made in samples])
    return found


def sampled(metrics: Sequence[PerExample]) -> dict[str, PerExample]:
    """The mean of a metric over samples, under its name with ``_sampled``; of the samples that have a value."""
    values = np.stack([metric.values for metric in metrics])
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    first = metrics[0]
    name = first.name if first.name.endswith("_sampled") else f"{first.name}_sampled"
    counts = {key: sum(metric.counts.get(key, 0) for metric in metrics) for key in first.counts}
    definition = f"{first.definition}; mean over {len(metrics)} samples"
    return {name: replace(first, name=name, values=mean, definition=definition, counts=counts)}


def table(rows: Iterable[tuple[str, Sequence[Any], Sequence[PerExample]]]) -> str:
    """One row a record: set, its row or name, and every metric. Empty where a record has no value.

    Args:
        rows: set, what its records are called, its metrics.
    """
    parts = list(rows)
    names = list(dict.fromkeys(metric.name for _, _, metrics in parts for metric in metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "row", *names])
    for part, labels, metrics in parts:
        columns = {metric.name: metric.values for metric in metrics}
        for place, label in enumerate(labels):
            cells = [columns[name][place] if name in columns else np.nan for name in names]
            writer.writerow([part, label, *("" if np.isnan(cell) else f"{cell:.8g}" for cell in cells)])
    return text.getvalue()


def result_key(subject: Subject, rest: Sequence[Any]) -> dict[str, str]:
    """Hashes of all that a result depends on: weights; schema, version, architecture, tokenizer, what else is given."""
    given = [SCHEMA, forgetmi.__version__, subject.settings, *rest]
    return {"weights": subject.weights, "rest": hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()}


def result_path(out: Path, key: Mapping[str, str]) -> Path:
    """Where a result is kept."""
    return out / f"{key['weights'][:12]}-{key['rest'][:12]}.json"


def kept(path: Path, key: Mapping[str, str]) -> Evaluation | None:
    """A result that is there, whole, and of the same model, data and options."""
    if not (path.is_file() and path.with_suffix(".csv").is_file()):
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        logger.warning("%s is damaged and is made again", path.name)
        return None
    if not isinstance(found, dict) or (found.get("schema"), found.get("key")) != (SCHEMA, key):
        return None
    logger.info("done already, kept: %s", path.name)
    return Evaluation(found, path, kept=True)


def save(path: Path, subject: Subject, key: Mapping[str, str], document: Mapping[str, Any], rows: str) -> Evaluation:
    """Keep a result: the records' table first, for the document says that both are there."""
    size = sum(p.numel() for p in subject.model.parameters())
    told = {"name": subject.name, "weights_sha256": key["weights"], "n_parameters": size}
    whole = plain({"schema": SCHEMA, "key": dict(key), "forgetmi": forgetmi.__version__, "model": told, **document})
    with atomic_write(path.with_suffix(".csv")) as file:
        file.write(rows.encode())
    write_json(path, whole)
    return Evaluation(whole, path, kept=False)


def check_intervals(n_bootstrap: int, level: float, seed: int) -> list[str]:
    """Problems of an evaluation's settings of intervals."""
    problems = []
    if n_bootstrap < 200:
        problems.append(f"n_bootstrap must be at least 200, not {n_bootstrap}: the interval's ends would jump")
    if not 0.5 <= level < 1.0:
        problems.append(f"level must lie in [0.5, 1), not {level}")
    if seed < 0:
        problems.append(f"seed must be at least 0, not {seed}")
    return problems


def refuse(problems: Sequence[str]) -> None:
    """Raise :class:`ConfigError` where there are problems."""
    if problems:
        raise ConfigError(list(problems))


def codes(groups: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Groups as integers."""
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def plain(value: Any) -> Any:
    """JSON's own types; of a path its last name, for a result may be handed on."""
    found: Any = json.loads(
        json.dumps(value, default=lambda other: other.name if isinstance(other, Path) else str(other))
    )
    return found
