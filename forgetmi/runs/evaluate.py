"""Evaluation only: a language model of one's own on files of one's own. Nothing is trained, nothing is downloaded.

A result is kept under a name made of the hashes of the model's weights, its tokenizer, the data and the options: the
numbers of another model cannot be taken for this one's, whatever its folder is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from forgetmi.errors import DataError, did_you_mean
from forgetmi.files import sha256_file
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.text_metrics import TextMetricOptions, text_metrics, turned, written_metrics
from forgetmi.metrics.token_signals import token_signals
from forgetmi.models.causal_lm import CausalLM, Dtype
from forgetmi.records import RecordDataset
from forgetmi.runs import evaluation
from forgetmi.runs.evaluation import Evaluation, Subject, Written, codes, greedy_and_sampled, plain
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import derive_seed, numpy_generator

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
        evaluation.refuse([*problems, *evaluation.check_intervals(self.n_bootstrap, self.level, self.seed)])


def evaluate(
    model: Path,
    files: Mapping[str, Path],
    out: Path,
    options: EvaluateOptions | None = None,
    *,
    reference: Path | None = None,
    controls: bool = False,
    device: str = "cpu",
) -> Evaluation:
    """Metrics of a model on each file, and attacks on forget against holdout.

    Args:
        model: a folder of transformers, a GGUF file, or a model that forgetmi stored.
        files: set (of :data:`SETS`) to a file of JSON lines, Parquet or CSV.
        out: folder of results; gets ``NAME.json`` and ``NAME.csv``, one row a record, NAME made of hashes.
        options: how.
        reference: a model that never saw the forget set, for the attack ``reference``.
        controls: measure a destroyed copy of the model too, to stand beside it.
        device: for torch.

    Raises:
        ConfigError: all that is wrong with what was asked.
        DataError: a file cannot be used.
        ModelError: a model cannot be read, or is broken.
    """
    how = options or EvaluateOptions()
    _check(files, how, reference)
    read: dict[str, Any] = {"format": how.format, "max_length": how.max_length, "dtype": how.dtype}
    subject = evaluation.read_subject(model, **read)
    other = None if reference is None else evaluation.read_subject(reference, **read)
    sets = {name: _read_file(path) for name, path in files.items()}
    hashes = {name: sha256_file(path) for name, path in files.items()}
    beside = None if other is None else [other.weights, other.settings]
    key = evaluation.result_key(subject, [hashes, plain(asdict(how)), beside, controls])
    path = evaluation.result_path(out, key)
    if (found := evaluation.kept(path, key)) is not None:
        return found
    place = torch.device(device)
    compared = None if other is None else other.to(place).model
    made = _Evaluator(subject.to(place), sets, how, place)
    document: dict[str, Any] = {
        "benchmark": None,
        "reference": None if other is None else {"name": other.name, "weights_sha256": other.weights},
        "options": plain(asdict(how)),
        "sets": {name: made.described(name, files[name].name, hashes[name]) for name in sets},
        "figures": made.figures(),
        "attacks": made.attacks(compared),
    }
    control = _Evaluator(subject.destroyed(how.seed), sets, how, place) if controls else None
    if control is not None:
        document["controls"] = {"destroyed": {"figures": control.figures(), "attacks": control.attacks(compared)}}
    document["standing"] = made.standing(control)
    rows = ((name, [int(r.sample_id) for r in sets[name]], metrics) for name, metrics in made.values.items())
    return evaluation.save(path, subject, key, document, evaluation.table(rows))


class _Evaluator:
    """A model on the sets."""

    def __init__(
        self, subject: Subject, sets: Mapping[str, RecordDataset], options: EvaluateOptions, device: torch.device
    ) -> None:
        self.model, self.sets, self.options, self.device = subject.model, sets, options, device
        kinds = {name: next(iter(dataset.modality_kinds)) for name, dataset in sets.items()}
        self.tasks = {name: CausalLMTask(modality=kind) for name, kind in kinds.items()}
        self.loaders = {name: Loader(dataset, {kinds[name]: subject.modality}) for name, dataset in sets.items()}
        self.patients = {name: codes([r.patient_id for r in dataset]) for name, dataset in sets.items()}
        self.size = subject.modality.tokenizer.size
        self.values: dict[str, list[PerExample]] = {}
        self._tokens = {name: token_signals(self.model, self.tasks[name], self._batches(name), device) for name in sets}

    def _batches(self, name: str) -> Any:
        return self.loaders[name].batches(range(len(self.sets[name])), self.options.metrics.batch_size)

    def described(self, name: str, file: str, sha256: str) -> dict[str, Any]:
        """What a set is."""
        return {
            "file": file,
            "sha256": sha256,
            "records": len(self.sets[name]),
            "patients": int(np.unique(self.patients[name]).size),
            "answer_tokens": int(self._tokens[name].n_tokens.sum()),
            "skipped": dict(self.sets[name].skipped.counts),
            "notes": list(self.sets[name].notes),
        }

    def standing(self, control: _Evaluator | None) -> dict[str, Any]:
        """Whether the model is destroyed, by its loss on texts that it is not to forget."""
        kept = [name for name in ("retain", "holdout") if name in self.sets]
        if not kept:
            return evaluation.unknown_standing("it needs retain or holdout texts")
        ours, theirs = (None if of is None else of.losses(kept) for of in (self, control))
        assert ours is not None
        what = f"{' and '.join(kept)} texts"
        return evaluation.standing(ours, self.size, None if theirs is None else float(theirs.mean()), what)

    def losses(self, names: Sequence[str]) -> Floats:
        """Mean NLL of every text of some sets."""
        return np.concatenate([self._tokens[name].mean(self._tokens[name].nll) for name in names])

    def figures(self) -> dict[str, dict[str, Any]]:
        """Set to metric to figure."""
        for name in self.sets:
            self.values[name] = self._metrics(name)
        return {name: {m.name: self._figure(m, name) for m in metrics} for name, metrics in self.values.items()}

    def _metrics(self, name: str) -> list[PerExample]:
        """Of the tokens; and of what is written, greedily and, where asked for, sampled."""
        options, useful = self.options.metrics, name != "forget"
        given = (self.model, self.tasks[name], self.loaders[name], range(len(self.sets[name])), self.device)
        seed = derive_seed(self.options.seed, "evaluate", name)
        silent = replace(options, decoding=None)
        found = text_metrics(*given, silent, seed=seed, useful=useful, tokens=self._tokens[name])
        if options.decoding is None:
            return found

        def write(decoding: Any, seed: int) -> Written:
            how = replace(options, decoding=decoding, extraction_likelihood=0)
            metrics = written_metrics(*given, how, seed=seed)
            return {m.name: turned(m) if useful else m for m in metrics}

        return [*found, *greedy_and_sampled(write, options.decoding, seed).values()]

    def _figure(self, metric: PerExample, name: str) -> dict[str, Any]:
        rng = numpy_generator(self.options.seed, "figure", name, metric.name)
        settings: dict[str, Any] = {"n_resamples": self.options.n_bootstrap, "level": self.options.level}
        return {**metric.figure(self.patients[name], rng, **settings).to_dict(), "definition": metric.definition}

    def attacks(self, reference: CausalLM | None) -> dict[str, Any]:
        """Attack to figures, of forget against holdout; empty without both."""
        if not {"forget", "holdout"} <= set(self.sets) or not self.options.attacks:
            return {}
        other = None if reference is None else {name: self._losses(reference, name) for name in ("forget", "holdout")}
        everyone = codes([who for name in ("forget", "holdout") for who in self._people(name)])
        n = len(self.sets["forget"])
        sides = {"forget": everyone[:n], "holdout": everyone[n:]}
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


def _check(files: Mapping[str, Path], options: EvaluateOptions, reference: Path | None) -> None:
    problems = [f"unknown set {name!r}. {did_you_mean(name, SETS)}" for name in files if name not in SETS]
    problems += [f"{name}: {path} is no file" for name, path in files.items() if not path.is_file()]
    if not files:
        problems.append(f"give at least one file of texts: {', '.join(SETS)}")
    if "reference" in options.attacks and reference is None:
        problems.append("the attack 'reference' needs a reference model (--reference), which never saw the forget set")
    if reference is not None and "reference" not in options.attacks:
        problems.append("a reference model was given and no attack uses it: add 'reference' to attacks")
    evaluation.refuse(problems)


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


def _references(losses: Mapping[str, Floats] | None, name: str) -> dict[str, References]:
    if losses is None:
        return {}
    values = losses[name][None]
    return {"retrained": References({"loss": values}, np.zeros(values.shape, dtype=np.bool_))}
