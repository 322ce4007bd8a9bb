"""Evaluation only: a language model of one's own on files of one's own. Nothing is trained, nothing is downloaded.

A result is kept under a name made of the hashes of the model's weights, its tokenizer, the data and the options: the
numbers of another model cannot be taken for this one's, whatever its folder is called.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import forgetmi
from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.language_signals import (
    TOKEN_SIGNALS,
    LanguageSignalOptions,
    answer_texts,
    language_signals,
)
from forgetmi.attacks.membership.perturbations import WordLaw
from forgetmi.attacks.membership.result import LANGUAGE_SIGNALS, PartSignals, References
from forgetmi.batch import Loader
from forgetmi.data_adapters.text_files import read_set
from forgetmi.data_adapters.text_records import TextColumns, TextRecords
from forgetmi.delimited import base_suffix, read_delimited
from forgetmi.errors import ConfigError, DataError, ModelError, did_you_mean
from forgetmi.files import atomic_write, sha256_file, write_json
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.text_metrics import TextMetricOptions, text_metrics
from forgetmi.metrics.token_signals import token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.models.causal_lm import CausalLM, CausalLMConfig, Dtype, build_causal_lm
from forgetmi.models.persistence import CONFIG_FILE, load_model
from forgetmi.models.weights import weights_sha256
from forgetmi.records import RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import derive_seed, numpy_generator

logger = logging.getLogger("forgetmi")

SCHEMA = "forgetmi.evaluation/1"
SETS = ("forget", "retain", "holdout")
"""Forget: to be forgotten. Retain: was trained on and stays. Holdout: never trained on: attacks compare with it."""
_PAIRS = (("prompt", "answer"), ("question", "answer"), ("input", "output"), ("instruction", "output"))
_PATIENT = ("patient_id", "patient", "subject_id", "group", "author")


@dataclass(frozen=True)
class EvaluateOptions:
    """How to evaluate; the keys that follow ``forgetmi evaluate``.

    Attributes:
        metrics: see :class:`~forgetmi.metrics.text_metrics.TextMetricOptions`.
        attacks: on forget against holdout; ``reference`` needs a reference model.
        signals: of the attacks.
        format: what stands around a prompt, ``{prompt}`` in it; ``None``: the tokenizer's chat template, or
            "Question: ... Answer: " where it has none.
        max_length: longer texts are cut, and counted.
        dtype: of the weights.
        n_bootstrap, level: of the intervals, which are by patient where the file says whose a text is.
        seed: of resamples, folds and samples.
    """

    metrics: TextMetricOptions = field(default_factory=TextMetricOptions)
    attacks: tuple[str, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus")
    signals: LanguageSignalOptions = field(default_factory=LanguageSignalOptions)
    format: str | None = None
    max_length: int | None = None
    dtype: Dtype = "float32"
    n_bootstrap: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        known = ("loss", *LANGUAGE_SIGNALS, "reference")
        problems = [f"attacks: unknown {a!r}. {did_you_mean(a, known)}" for a in self.attacks if a not in known]
        if self.n_bootstrap < 200:
            problems.append(f"n_bootstrap must be at least 200, not {self.n_bootstrap}: the interval's ends would jump")
        if not 0.5 <= self.level < 1.0:
            problems.append(f"level must lie in [0.5, 1), not {self.level}")
        if self.seed < 0:
            problems.append(f"seed must be at least 0, not {self.seed}")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Evaluation:
    """What one model is worth on the files.

    Attributes:
        document: of schema ``forgetmi.evaluation/1``.
        path: where it is kept.
        kept: whether it was there already.
    """

    document: dict[str, Any]
    path: Path
    kept: bool


def evaluate(
    model: Path,
    files: Mapping[str, Path],
    out: Path,
    options: EvaluateOptions | None = None,
    *,
    reference: Path | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Metrics of a model on each file, and attacks on forget against holdout.

    Args:
        model: a folder of transformers, a GGUF file, or a model that forgetmi stored.
        files: set (of :data:`SETS`) to a file of JSON lines, Parquet or CSV.
        out: folder of results; gets ``NAME.json`` and ``NAME.csv``, one row a record, NAME made of hashes.
        options: how.
        reference: a model that never saw the forget set, for the attack ``reference``.
        device: for torch.

    Raises:
        ConfigError: all that is wrong with what was asked.
        DataError: a file cannot be used.
        ModelError: a model cannot be read, or is broken.
    """
    options = options or EvaluateOptions()
    _check(files, options, reference)
    read, modality = _read_model(model, options)
    sets = {name: _read_file(path) for name, path in files.items()}
    key = _key(read, modality, files, options, reference)
    path = out / f"{key['weights'][:12]}-{key['rest'][:12]}.json"
    if (found := _kept(path, key)) is not None:
        logger.info("done already, kept: %s", path.name)
        return Evaluation(found, path, kept=True)
    place = torch.device(device)
    made = _Evaluator(read.to(place), modality, sets, options, place)
    document = {
        "schema": SCHEMA,
        "key": key,
        "forgetmi": forgetmi.__version__,
        "model": {
            "name": model.name,
            "weights_sha256": key["weights"],
            "n_parameters": sum(p.numel() for p in read.parameters()),
        },
        "reference": None if reference is None else reference.name,
        "options": _plain(asdict(options)),
        "sets": {name: made.described(name, files[name]) for name in sets},
        "figures": made.figures(),
        "attacks": made.attacks(None if reference is None else _read_model(reference, options)[0].to(place)),
    }
    with atomic_write(path.with_suffix(".csv")) as file:  # first: the document says that both are there
        file.write(made.table().encode())
    write_json(path, document)
    return Evaluation(document, path, kept=False)


class _Evaluator:
    """A model on the sets."""

    def __init__(
        self,
        model: CausalLM,
        modality: DialogueModality,
        sets: Mapping[str, RecordDataset],
        options: EvaluateOptions,
        device: torch.device,
    ) -> None:
        self.model, self.sets, self.options, self.device = model, sets, options, device
        kinds = {name: next(iter(dataset.modality_kinds)) for name, dataset in sets.items()}
        self.tasks = {name: CausalLMTask(modality=kind) for name, kind in kinds.items()}
        self.loaders = {name: Loader(dataset, {kinds[name]: modality}) for name, dataset in sets.items()}
        self.patients = {name: _codes([r.patient_id for r in dataset]) for name, dataset in sets.items()}
        self.modality, self.values = modality, {}  # type: ignore[var-annotated]
        self._tokens = {name: token_signals(model, self.tasks[name], self._batches(name), device) for name in sets}

    def _batches(self, name: str) -> Any:
        return self.loaders[name].batches(range(len(self.sets[name])), self.options.metrics.batch_size)

    def described(self, name: str, path: Path) -> dict[str, Any]:
        """What a set is."""
        return {
            "file": path.name,
            "sha256": sha256_file(path),
            "records": len(self.sets[name]),
            "patients": int(np.unique(self.patients[name]).size),
            "answer_tokens": int(self._tokens[name].n_tokens.sum()),
            "skipped": dict(self.sets[name].skipped.counts),
            "notes": list(self.sets[name].notes),
        }

    def figures(self) -> dict[str, dict[str, Any]]:
        """Set to metric to figure."""
        found: dict[str, dict[str, Any]] = {}
        for name, dataset in self.sets.items():
            metrics = text_metrics(
                self.model,
                self.tasks[name],
                self.loaders[name],
                range(len(dataset)),
                self.device,
                self.options.metrics,
                seed=derive_seed(self.options.seed, "evaluate", name),
                useful=name != "forget",
                tokens=self._tokens[name],
            )
            self.values[name] = metrics
            found[name] = {metric.name: self._figure(metric, name) for metric in metrics}
        return found

    def _figure(self, metric: PerExample, name: str) -> dict[str, Any]:
        rng = numpy_generator(self.options.seed, "figure", name, metric.name)
        settings: dict[str, Any] = {"n_resamples": self.options.n_bootstrap, "level": self.options.level}
        return {**metric.figure(self.patients[name], rng, **settings).to_dict(), "definition": metric.definition}

    def attacks(self, reference: CausalLM | None) -> dict[str, Any]:
        """Attack to figures, of forget against holdout; empty without both."""
        if not {"forget", "holdout"} <= set(self.sets) or not self.options.attacks:
            return {}
        other = None if reference is None else {name: self._losses(reference, name) for name in ("forget", "holdout")}
        codes = _codes([who for name in ("forget", "holdout") for who in self._people(name)])
        n = len(self.sets["forget"])
        sides = {"forget": codes[:n], "holdout": codes[n:]}
        parts = {name: PartSignals(self._signals(name), who, _references(other, name)) for name, who in sides.items()}
        found = {}
        for attack in self.options.attacks:
            settings: dict[str, Any] = {"n_resamples": self.options.n_bootstrap, "level": self.options.level}
            if attack == "reference":
                settings |= {"signal": "loss", "reference_models": "retrained"}
            made = ATTACKS["calibrated" if attack == "reference" else attack](**settings)
            result = made.result(parts["forget"], parts["holdout"], numpy_generator(self.options.seed, attack))
            figures = {key: figure.to_dict() for key, figure in result.figures.items()}
            found[attack] = {"definition": result.definition, "figures": figures}
        return found

    def _people(self, name: str) -> list[str]:
        """Whose each text is. A file that does not say so has nobody in common with another."""
        named = "patient" in self.sets[name].levels
        return [r.patient_id if named else f"{name} {r.patient_id}" for r in self.sets[name]]

    def _signals(self, name: str) -> dict[str, Floats]:
        wanted = tuple(dict.fromkeys((*TOKEN_SIGNALS, *(a for a in self.options.attacks if a in LANGUAGE_SIGNALS))))
        return language_signals(
            self.model,
            self.tasks[name],
            self.loaders[name],
            range(len(self.sets[name])),
            self.device,
            replace(self.options.signals, names=wanted),
            batch_size=self.options.metrics.batch_size,
            seed=self.options.seed,
            filler=self._words() if "perturbation" in wanted else None,
            tokens=self._tokens[name],
        )

    def _words(self) -> WordLaw:
        name = "retain" if "retain" in self.sets else "holdout"
        return WordLaw(answer_texts(self.loaders[name], range(len(self.sets[name])), self.tasks[name].modality))

    def _losses(self, model: CausalLM, name: str) -> Floats:
        tokens = token_signals(model, self.tasks[name], self._batches(name), self.device)
        return tokens.mean(tokens.nll)

    def table(self) -> str:
        """One row a record: set, row in its file (from 1), and every metric."""
        text = io.StringIO()
        names = list(dict.fromkeys(metric.name for metrics in self.values.values() for metric in metrics))
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["set", "row", *names])
        for name, metrics in self.values.items():
            columns = {metric.name: metric.values for metric in metrics}
            for place, record in enumerate(self.sets[name]):
                cells = [columns[m][place] if m in columns else np.nan for m in names]
                writer.writerow(
                    [name, int(record.sample_id), *("" if np.isnan(cell) else f"{cell:.8g}" for cell in cells)]
                )
        return text.getvalue()


def _kept(path: Path, key: Mapping[str, str]) -> dict[str, Any] | None:
    """A result that is there, whole, and of the same model, texts and options."""
    if not (path.is_file() and path.with_suffix(".csv").is_file()):
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        logger.warning("%s is damaged and is made again", path.name)
        return None
    return found if isinstance(found, dict) and (found.get("schema"), found.get("key")) == (SCHEMA, key) else None


def _check(files: Mapping[str, Path], options: EvaluateOptions, reference: Path | None) -> None:
    problems = [f"unknown set {name!r}. {did_you_mean(name, SETS)}" for name in files if name not in SETS]
    problems += [f"{name}: {path} is no file" for name, path in files.items() if not path.is_file()]
    if not files:
        problems.append(f"give at least one file of texts: {', '.join(SETS)}")
    if "reference" in options.attacks and reference is None:
        problems.append("the attack 'reference' needs a reference model (--reference), which never saw the forget set")
    if reference is not None and "reference" not in options.attacks:
        problems.append("a reference model was given and no attack uses it: add 'reference' to attacks")
    if problems:
        raise ConfigError(problems)


def _read_model(place: Path, options: EvaluateOptions) -> tuple[CausalLM, DialogueModality]:
    """The model in eval mode, and the modality that makes its tokens."""
    length: dict[str, Any] = {
        "max_length": options.max_length,
        "on_long": "error" if options.max_length is None else "cut",
    }
    if (place / CONFIG_FILE).is_file():
        loaded = load_model(place)
        modality = next((m for m in loaded.modalities.values() if isinstance(m, DialogueModality)), None)
        if modality is None or not isinstance(loaded.model, CausalLM):
            raise ModelError("the stored model is no language model", where=str(place))
        settings = {**modality.to_config(), **({} if options.max_length is None else length)}
        if options.format is not None:
            settings["format"] = options.format
        settings.pop("kind")
        return loaded.model, DialogueModality.from_config(settings)
    model = build_causal_lm(CausalLMConfig(path=place, dtype=options.dtype), 0).eval()
    return model, DialogueModality(read_lm_tokenizer(place), format=options.format, **length)


def _read_file(path: Path) -> RecordDataset:
    """A file's texts. Columns are known by their names."""
    columns = _column_names(path)
    pair = next((pair for pair in _PAIRS if set(pair) <= set(columns)), None)
    if pair is None and "text" not in columns:
        raise DataError(
            f"{path.name} has no column of texts that is known; it has {', '.join(columns) or 'none'}",
            where=str(path),
            expected="text; or " + ", or ".join(" and ".join(pair) for pair in _PAIRS),
            fix="rename the columns",
        )
    named = {"text": "text"} if pair is None else dict(zip(("prompt", "answer"), pair, strict=True))
    patient = next((name for name in _PATIENT if name in columns), None)
    dataset = TextRecords(path=path, columns=TextColumns(**named, patient_id=patient)).load()
    if not len(dataset):
        raise DataError(f"{path.name} has no text", where=str(path), expected="at least one row")
    return dataset


def _column_names(path: Path) -> list[str]:
    if base_suffix(path) in (".csv", ".tsv"):
        return list(read_delimited(path).header)
    rows = read_set([path], path.name).objects
    return list(rows[0]) if rows else []


def _key(
    model: CausalLM,
    modality: DialogueModality,
    files: Mapping[str, Path],
    options: EvaluateOptions,
    reference: Path | None,
) -> dict[str, str]:
    """Hashes of all that a result depends on."""
    other = None if reference is None else weights_sha256(_read_model(reference, options)[0])
    rest = [
        SCHEMA,
        forgetmi.__version__,
        modality.to_config(),
        {name: sha256_file(path) for name, path in files.items()},
        _plain(asdict(options)),
        other,
    ]
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return {"weights": weights_sha256(model), "rest": digest}


def _references(losses: Mapping[str, Floats] | None, name: str) -> dict[str, References]:
    if losses is None:
        return {}
    values = losses[name][None]
    return {"retrained": References({"loss": values}, np.zeros(values.shape, dtype=np.bool_))}


def _codes(patients: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64)


def _plain(value: Any) -> Any:
    plain: Any = json.loads(json.dumps(value, default=str))
    return plain
