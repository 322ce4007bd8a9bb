"""The whole attack: planned once, then made on each of the models that are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.extraction.asking import Cut, Secret, cut_answer, cut_as_asked, fitted, judge, secret_of, write
from forgetmi.attacks.extraction.contests import build_contests
from forgetmi.attacks.extraction.exposure import Contest, Exposures, exposures
from forgetmi.attacks.extraction.identifiers import Span, identifiers_of
from forgetmi.attacks.extraction.options import ExtractionOptions
from forgetmi.attacks.extraction.prefix import likeliest, prefix_measures
from forgetmi.attacks.extraction.templates import PLAIN, chosen_templates
from forgetmi.errors import AuditError, DataError, ModelError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.leakage import leak_at_k
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import derive_seed

_SECRETS = {
    "identifiers": ("identifiers", "the share of a record's identifiers that stand in what is written"),
    "answer": ("the answer", "ROUGE-L recall of the true text (as much of it as may be written), words stemmed"),
}


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction attack got out of one model.

    Attributes:
        measures: name to a value of each record.
        exposures: of the identifiers; ``None`` where there is none, or they were not asked for.
        counts: of identifiers, and of those that have no exposure, by reason.
        options: of the attack.
    """

    measures: Mapping[str, PerExample]
    exposures: Exposures | None
    counts: Mapping[str, int]
    options: ExtractionOptions = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Means and counts, JSON-able: no text, no identifier, no single record."""
        return {
            "measures": {name: summary(measure) for name, measure in self.measures.items()},
            "exposure": None if self.exposures is None else self.exposures.to_dict(),
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class ExtractionPlan:
    """What every model will be asked; it holds records' texts, and is not to be stored.

    Attributes:
        options: of the attack.
        modality: which made the prompts.
        seed: of alternatives and samples.
        contests: of identifiers.
        cuts: prompt and answer of each record.
        asked: by template, what each record's prompt is in its words.
        secrets: what is to be found out of each.
        counts: see :class:`ExtractionResult`.
    """

    options: ExtractionOptions
    modality: DialogueModality = field(repr=False)
    seed: int
    contests: Sequence[Contest] = field(repr=False)
    cuts: Sequence[Cut] = field(repr=False)
    asked: Mapping[str, Sequence[Cut]] = field(repr=False)
    secrets: Sequence[Secret] = field(repr=False)
    counts: Mapping[str, int]

    def attack(
        self,
        model: nn.Module,
        task: CausalLMTask,
        *,
        device: torch.device,
        batch_size: int = 32,
        progress: bool = False,
    ) -> ExtractionResult:
        """Ask one model; see :func:`extraction_attack`."""
        parts, options = self.options.parts, self.options
        if not isinstance(model, CausalLM) and {"templates", "samples"} & set(parts):
            raise ModelError(f"a {type(model).__name__} writes no text", expected="a CausalLM, or other parts")
        measures: dict[str, PerExample] = {}
        found = None
        if "exposure" in parts and self.contests:
            found = exposures(model, self.contests, len(self.cuts), device=device, batch_size=8 * batch_size)
            measures |= found.measures()
        if "prefix" in parts:
            cuts = fitted(model, self.cuts)
            right = likeliest(model, task, self.modality, cuts, device=device, batch_size=batch_size)
            measures |= prefix_measures(
                model, self.modality, cuts, right, options.prefixes,
                max_new_tokens=options.max_new_tokens, batch_size=batch_size, progress=progress,
            )  # fmt: skip
        if isinstance(model, CausalLM) and "templates" in parts:
            measures |= self._templates(model, batch_size, progress)
        if isinstance(model, CausalLM) and "samples" in parts:
            measures |= self._samples(model, batch_size, progress)
        return ExtractionResult(measures, found, self.counts, options)

    def _templates(self, model: CausalLM, batch_size: int, progress: bool) -> dict[str, PerExample]:
        """By template, and the most that any of them brings out of a record."""
        decoding = Decoding(self.options.max_new_tokens)
        rows = [cut for cuts in self.asked.values() for cut in cuts]
        secrets = list(self.secrets) * len(self.asked)
        together = self._judged(model, rows, secrets, decoding, batch_size, progress)
        split = {key: np.split(values[:, 0], len(self.asked)) for key, values in together.items()}
        judged = {name: {key: parts[n] for key, parts in split.items()} for n, name in enumerate(self.asked)}
        made = {}
        for secret, (words, how) in _SECRETS.items():
            for name, values in judged.items():
                what = "Asked plainly" if name == PLAIN else f"Asked by the template {name}"
                sentence = f"{what}, the model gives away {{value:.3f}} of {words}."
                made[f"template_{name}_{secret}"] = self._example(
                    f"template_{name}_{secret}", values[secret], sentence, how
                )
            most = _largest(np.stack([values[secret] for values in judged.values()]))
            sentence = f"Asked in the best of {len(judged)} ways, the model gives away {{value:.3f}} of {words}."
            how = f"{how}; the largest over {len(judged)} ways to ask, record by record"
            made[f"template_best_{secret}"] = self._example(f"template_best_{secret}", most, sentence, how)
        return made

    def _samples(self, model: CausalLM, batch_size: int, progress: bool) -> dict[str, PerExample]:
        """The most among k samples of the plain prompt."""
        judged = self._judged(model, self.asked[PLAIN], self.secrets, self.options.sampling, batch_size, progress)
        made = {}
        for secret, (words, how) in _SECRETS.items():
            for k in self.options.leak_at:
                measure = leak_at_k(judged[secret], k, leak=f"share of {words}")
                definition = f"{measure.definition}; {how}; {self.options.sampling.words}"
                name = f"leak_at_{k}_{secret}"
                made[name] = replace(measure, name=name, definition=definition)
        return made

    def _judged(
        self,
        model: CausalLM,
        cuts: Sequence[Cut],
        secrets: Sequence[Secret],
        decoding: Decoding,
        batch_size: int,
        progress: bool,
    ) -> dict[str, Floats]:
        written = write(
            model,
            self.modality,
            [cut.before for cut in cuts],
            [decoding.max_new_tokens] * len(cuts),
            decoding,
            seed=derive_seed(self.seed, "samples"),
            batch_size=batch_size,
            progress=progress,
        )
        decode = self.modality.tokenizer.decode
        texts = [None if samples is None else [decode(tokens) for tokens in samples] for samples in written]
        return judge(secrets, texts)

    def _example(self, name: str, values: Floats, sentence: str, how: str) -> PerExample:
        definition = f"{how}; {Decoding(self.options.max_new_tokens).words}"
        missing = "it has no such secret, or its prompt does not fit into the model"
        return PerExample(name, values, "remembers_above", sentence, definition=definition, missing=missing)


def plan_extraction(
    modality: DialogueModality, values: Sequence[Any], options: ExtractionOptions, *, seed: int
) -> ExtractionPlan:
    """Draw what every model will be asked.

    Dates are compared with the days between the first and the last that ``values`` hold, and alternatives are drawn by
    a record's position. So plan the records of all parts (forgotten people, test people) at once, in one order.

    Args:
        modality: of the task's input, with the model's tokenizer.
        values: of N records: texts, or ``{"prompt": ..., "answer": ...}``, with ``"identifiers"`` where they are known.
        options: of the attack.
        seed: of alternatives and samples.

    Raises:
        AuditError: there is no record.
        DataError: a value of another form, a named identifier that is not in its answer, templates that cannot be read.
        ConfigError: templates that are wrong.
    """
    if not values:
        raise AuditError("there is no record to extract", expected="one at least")
    counts: Counter[str] = Counter()
    contests: list[Contest] = []
    spans = [_identifiers(value, options, n) for n, value in enumerate(values)]
    counts["identifiers"] = sum(map(len, spans))
    counts["records with identifiers"] = sum(map(bool, spans))
    if "exposure" in options.parts:
        contests, without = build_contests(
            modality, values, spans, options.formats, count=options.alternatives, seed=seed
        )
        counts.update({f"identifiers without exposure: {reason}": n for reason, n in without.items()})
    templates = chosen_templates(options.templates, options.templates_file) if "templates" in options.parts else ()
    if not templates and "samples" in options.parts:
        templates = chosen_templates((), None)
    words = options.opening_words
    return ExtractionPlan(
        options=options,
        modality=modality,
        seed=seed,
        contests=contests,
        cuts=[cut_answer(modality, value) for value in values],
        asked={t.name: [cut_as_asked(modality, value, t, words) for value in values] for t in templates},
        secrets=[secret_of(modality, value, words, options.kinds, options.max_new_tokens) for value in values],
        counts=dict(counts),
    )


def extraction_attack(
    model: nn.Module,
    task: CausalLMTask,
    modality: DialogueModality,
    values: Sequence[Any],
    options: ExtractionOptions,
    *,
    seed: int,
    device: torch.device,
    batch_size: int = 32,
    progress: bool = False,
) -> ExtractionResult:
    """Ask a model for what records say. With one seed, every model is asked the same.

    Args:
        model: a :class:`~forgetmi.models.causal_lm.CausalLM` (any other that returns ``.logits`` writes nothing: parts
            ``exposure`` and ``prefix``, without ROUGE); left in the mode it came in.
        task: says how answers are scored.
        modality, values, options, seed: see :func:`plan_extraction`, which is to be preferred for several models.
        device: where the model is.
        batch_size: continuations, or records, at a time; it changes nothing but speed and memory.
        progress: show how far it is.

    Raises:
        AuditError, DataError, ConfigError: as :func:`plan_extraction`.
        ModelError: the model is broken, or cannot write and is to.
    """
    plan = plan_extraction(modality, values, options, seed=seed)
    return plan.attack(model, task, device=device, batch_size=batch_size, progress=progress)


def summary(measure: PerExample) -> dict[str, Any]:
    """A measure's mean over the records that have a value, JSON-able; no single record."""
    known = measure.values[measure.known]
    return {
        "mean": float(known.mean()) if known.size else None,
        "n": int(known.size),
        "n_without_value": int(measure.values.size - known.size),
        "direction": measure.direction,
        "definition": measure.definition,
        "counts": dict(measure.counts),
    }


def _identifiers(value: Any, options: ExtractionOptions, position: int) -> list[Span]:
    try:
        return identifiers_of(value, options.kinds)
    except DataError as error:
        where = f"record at position {position}"
        raise DataError(error.what, where=where, expected=error.expected, fix=error.fix) from error


def _largest(values: Floats) -> Floats:
    """The largest over the first axis of what is known; NaN where nothing is."""
    most = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    return np.where(np.isneginf(most), np.nan, most)
