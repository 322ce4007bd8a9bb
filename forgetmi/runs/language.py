"""What the audit asks of a language model: its tokens' signals on every part, and probes on some records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.extraction.attack import ExtractionPlan, plan_extraction
from forgetmi.attacks.hierarchical import HierarchicalPlan, plan_hierarchy
from forgetmi.attacks.hierarchical_context import NOTHING
from forgetmi.attacks.membership.language_signals import (
    TOKEN_SIGNALS,
    LanguageSignalOptions,
    answer_texts,
    language_signals,
)
from forgetmi.attacks.membership.perturbations import WordLaw
from forgetmi.attacks.membership.result import LANGUAGE_SIGNALS
from forgetmi.attacks.quantisation import QUANTISERS
from forgetmi.attacks.relearning import RelearningOptions, choose_records, probability_measure, relearn
from forgetmi.audit.probes import Probe
from forgetmi.errors import AuditError
from forgetmi.metrics.generation import Decoding, prefixes_of, prompts_of
from forgetmi.metrics.memorisation import extraction_strength
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Bools, Floats, Ints
from forgetmi.metrics.text_metrics import TextMetricOptions, token_metrics, written_metrics
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.partition import PARTS
from forgetmi.runs.prepare import Prepared
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import derive_seed, numpy_generator
from forgetmi.training.trainer import Trainer

logger = logging.getLogger("forgetmi")

LABELS = {
    "extraction_strength": "share of an answer, at its end, that it would write itself",
    "verbatim_prefix": "share of an answer that it would write before its first mistake",
    "known_by_heart": "share of records of which it knows at least 60 % of the tokens",
    "hardly_known": "share of records of which it knows at most 15 % of the tokens",
    "probability": "probability of an answer, a token",
    "keyword_accuracy": "share of names, numbers and dates that it would write itself, the true text before them given",
    "keyword_confidence": "probability that it gives to names, numbers and dates",
    "extraction_likelihood_10": "share of ten-word pieces that it writes, begun anywhere (EL10)",
    "answer_rougeL_recall": "share of the answer's words in what it writes (ROUGE-L)",
    "continuation_rougeL_f1": "likeness of what it writes to the rest of the text (ROUGE-L)",
    "test_n_gram_entropy": "richness of what it writes (entropy of word pairs and triples, bits)",
    "test_repetition_4": "share of what it writes that it wrote before (loops)",
}
EXPOSURES = {
    "exposure": "bits by which a true identifier is ranked above made-up ones",
    "identifier_first": "share of identifiers that it holds likelier than every made-up one",
}
JUDGED = ("extraction_strength", "template_best_answer", "template_best_identifiers", "exposure")
"""Of what the audit asks for in other words, the most that any of them brings out.

Each is judged beside test records under the same model. A share itself moves with the seed, all records together: then
one retrained model in R + 1 has the highest, however many patients there are.
"""
HIERARCHY = {
    "rouge": "share of what is asked for in what it writes (ROUGE-L)",
    "identifiers": "share of identifiers in what it writes",
}
ASKED = ("forget", "test")
"""Parts of which some records are asked for an answer."""


class LanguageAudit:
    """Puts the same questions to each model of an audit.

    Args:
        prepared: data, task and options.
        device: where models are.

    Raises:
        AuditError: the records are not texts.
    """

    def __init__(self, prepared: Prepared, device: torch.device) -> None:
        task, modality = prepared.task, prepared.modalities.get(getattr(prepared.task, "modality", ""))
        if not isinstance(task, CausalLMTask) or not isinstance(modality, DialogueModality):
            raise AuditError("a language model can be audited on texts only, and its records are something else")
        self.task, self.modality, self.device, self.prepared = task, modality, device, prepared
        self.options, self.seed = prepared.config.language, derive_seed(prepared.config.run.seed, "audit", "language")
        self.asked = {part: self._drawn(part) for part in ASKED}
        self.vocabulary = 1  # of the models, known when one was asked
        self._said: set[str] = set()

    def of(self, model: CausalLM) -> tuple[dict[str, dict[str, Floats]], list[Probe]]:
        """(part to signals [N] for the attacks, probes) of a model, which is left as it is."""
        self.vocabulary = model.n_tokens
        tokens = {part: self._tokens(model, part) for part in PARTS}
        parts = {part: self._signals(model, part, tokens[part]) for part in PARTS}
        probes = [
            *self._memorised(tokens),
            *self._written(model),
            *self._extracted(model),
            *self._quantised(model),
            *self._relearned(model),
            *self._surrounded(model),
        ]
        return parts, probes

    def check(self) -> None:
        """Plan everything, so that what cannot be asked is refused before anything is trained.

        Raises:
            ForgetMIError: templates, steps or records that cannot be put into questions.
        """
        for _ in (self._asking, self._lesson, self._levels):
            pass

    def n_tokens(self, part: str) -> Ints:
        """Answer tokens of each record of a part [N], as every model must have scored them."""
        masks = (self.task.token_mask(batch).sum(dim=1) for batch in self._batches(part))
        return np.concatenate([mask.numpy() for mask in masks])

    def _drawn(self, part: str) -> Ints:
        """Places, within a part, of the records that are asked: one of every patient before a second of anybody."""
        dataset, indices = self.prepared.dataset, self.prepared.partition.indices(part)
        by_patient: dict[str, list[int]] = {}
        for place, index in enumerate(indices):
            by_patient.setdefault(dataset[index].patient_id, []).append(place)
        pool = sorted(by_patient, key=self.prepared.pseudonym)
        order = numpy_generator(self.seed, "asked", part).permutation(len(pool))
        ranked = [(rank, n, place) for n, at in enumerate(order) for rank, place in enumerate(by_patient[pool[at]])]
        return np.sort(np.array([place for *_, place in sorted(ranked)][: self.options.records], dtype=np.int64))

    def _batches(self, part: str) -> Any:
        indices = self.prepared.partition.indices(part)
        return self.prepared.scoring_loader(part).batches(indices, self.options.batch_size)

    def _tokens(self, model: nn.Module, part: str) -> TokenSignals:
        return token_signals(model, self.task, self._batches(part), self.device)

    def _signals(self, model: nn.Module, part: str, tokens: TokenSignals) -> dict[str, Floats]:
        named = self.prepared.config.audit.attacks
        names = tuple(dict.fromkeys((*TOKEN_SIGNALS, *(name for name in named if name in LANGUAGE_SIGNALS))))
        found = language_signals(
            model,
            self.task,
            self.prepared.scoring_loader(part),
            self.prepared.partition.indices(part),
            self.device,
            LanguageSignalOptions(names=names, k=self.options.min_k),
            batch_size=self.options.batch_size,
            seed=self.seed,
            filler=self._words if "perturbation" in names else None,
            tokens=tokens,
        )
        own: dict[str, Any] = {
            "nll": found.pop("loss"),
            "n_tokens": tokens.n_tokens,
            "correct": tokens.mean(tokens.right),
        }
        return {**own, **found}

    @cached_property
    def _words(self) -> WordLaw:
        """By which words gaps are filled: those of the records that stay."""
        return WordLaw(answer_texts(self.prepared.loader, self.prepared.partition.retain, self.task.modality))

    # --- probes -------------------------------------------------------------------------------------------------------

    def _memorised(self, tokens: Mapping[str, TokenSignals]) -> list[Probe]:
        loader = self.prepared.scoring_loader("forget")
        values = [loader.record(i).value(self.task.modality) for i in self.prepared.partition.indices("forget")]
        made = []
        for found in token_metrics(tokens["forget"], self.modality, values):
            if found.name in LABELS:
                made.append(Probe(found.name, "memorisation", f"Forgotten records: {LABELS[found.name]}", found))
            if found.name == extraction_strength.__name__:
                made += self._beside(made[-1], extraction_strength(tokens["test"]), LABELS[found.name])
        return made

    def _beside(self, probe: Probe, test: PerExample, words: str, asked: Bools | None = None) -> list[Probe]:
        """A judged probe: the same of test records beside it. None where not two patients of each part have a value.

        Which records have one (``asked``, of the forgotten) is a matter of the data (no identifier in them, a prompt
        too long) and not of a model: every model gets the same probes.
        """
        own = probe.values.known if asked is None else asked
        others = test.known if asked is None else np.ones_like(test.known)
        if min(self._patients("forget", own), self._patients("test", others)) < 2:
            self._say(f"{probe.key} is not judged: fewer than two patients of a part have a value")
            return []
        label = f"AUC of forgotten against test records: {words}"
        return [replace(probe, key=f"{probe.key}_auc", label=label, outsiders=test, judged=True, one_sided=True)]

    def _say(self, words: str) -> None:
        """Once, and not of every model."""
        if words not in self._said:
            self._said.add(words)
            logger.warning("audit: %s", words)

    def _patients(self, part: str, which: Bools) -> int:
        """How many patients have one of these records of a part."""
        dataset, indices = self.prepared.dataset, self.prepared.partition.indices(part)
        return len({dataset[index].patient_id for index, there in zip(indices, which, strict=True) if there})

    def _written(self, model: CausalLM) -> list[Probe]:
        """What it writes of the forgotten; and whether it writes well of others."""
        made = []
        for part in ASKED:
            places = self._with_room(part, model)
            if not places.size:
                continue
            indices = [self.prepared.partition.indices(part)[place] for place in places]
            options = TextMetricOptions(
                extraction_likelihood=10 if part == "forget" else 0,
                decoding=Decoding(max_new_tokens=self.options.max_new_tokens),
                batch_size=self.options.batch_size,
            )
            loader = self.prepared.scoring_loader(part)
            found = written_metrics(model, self.task, loader, indices, self.device, options, seed=self.seed)
            for metric in found:
                name = metric.name if part == "forget" else f"test_{metric.name}"
                if name in LABELS:
                    label = f"{'Forgotten' if part == 'forget' else 'Test'} records: {LABELS[name]}"
                    made.append(Probe(name, "extraction", label, self._placed(metric, part, places), part))
        return made

    def _with_room(self, part: str, model: CausalLM) -> Ints:
        """Places of the asked records behind whose prompt the model has room for an answer of the longest length."""
        limit = getattr(model.lm.config.get_text_config(), "max_position_embeddings", None)
        values, longest = self._values(part), self.options.max_new_tokens
        if limit is None or not values:
            return self.asked[part]
        if any(isinstance(value, str) for value in values):
            texts = [value if isinstance(value, str) else value["answer"] for value in values]
            cut = prefixes_of(self.modality.tokenizer, texts, TextMetricOptions().prefix, longest)
            prompts = [before for before, _ in cut]
        else:
            prompts = prompts_of(self.modality, values)
        fits = np.array([len(prompt) + longest <= limit for prompt in prompts])
        if not fits.all():
            self._say(
                f"{int((~fits).sum())} of {len(fits)} {part} records are not continued: behind their prompt the model "
                f"has no room for {longest} tokens (audit.language.max_new_tokens)"
            )
        return self.asked[part][fits]

    @cached_property
    def _asking(self) -> ExtractionPlan | None:
        """How the forgotten and the test records are asked for: in other words, and by their identifiers."""
        if self.options.extraction is None or not self.options.records:
            return None
        values = [value for part in ASKED for value in self._values(part)]
        return plan_extraction(self.modality, values, self.options.extraction, seed=self.seed)

    def _extracted(self, model: CausalLM) -> list[Probe]:
        if self._asking is None:
            return []
        n, made = len(self.asked["forget"]), []
        found = self._asking.attack(model, self.task, device=self.device, batch_size=self.options.batch_size).measures
        for name, metric in found.items():
            own, others = (
                self._placed(replace(metric, values=metric.values[rows]), part)
                for part, rows in zip(ASKED, (slice(n), slice(n, None)), strict=True)
            )
            if told(name):
                words = EXPOSURES.get(name) or asked_label(name)
                made.append(Probe(name, "extraction", f"Forgotten records: {words}", own))
                if name in JUDGED:
                    made += self._beside(made[-1], others, words)
        return made

    def _quantised(self, model: CausalLM) -> list[Probe]:
        found = []
        for name in self.options.quantisers:
            quantiser = QUANTISERS[name]()
            copy = quantiser.quantised(model)
            known, unknown = (
                PerExample(
                    f"quantised_{name}",
                    -tokens.mean(tokens.nll),
                    "remembers_above",
                    "The mean log-likelihood of a token is {value:.3f}.",
                    None,
                    f"mean log-likelihood of a token after rounding the weights to {quantiser.label}",
                )
                for tokens in (self._tokens(copy, part) for part in ASKED)
            )
            label = f"AUC of the attack on the loss after rounding to {quantiser.label}"
            found.append(Probe(f"quantised_{name}", "quantisation", label, known, outsiders=unknown, judged=True))
            del copy
        return found

    @cached_property
    def _lesson(self) -> tuple[RelearningOptions, list[int], list[int]] | None:
        """(options, records to teach, records to measure): whole patients, and somebody who is not taught."""
        options, forget = self.options.relearning, self.prepared.partition.forget
        if options is None:
            return None
        if self._patients("forget", np.ones(len(forget), dtype=np.bool_)) < 2:
            self._say("no relearning attack: it teaches some forgotten patients and looks at others, and there is one")
            return None
        loader = self.prepared.scoring_loader("forget")
        for n_records in range(options.n_records, 0, -1):
            fewer = replace(options, n_records=n_records)
            try:
                taught, rest = choose_records(loader, forget, fewer, seed=self.seed)
            except AuditError:  # all of them would be taught
                continue
            if n_records < options.n_records:
                self._say(f"relearning: {len(taught)} records are taught, not {options.n_records}; there are no more")
            return fewer, taught, rest
        return None

    def _relearned(self, model: CausalLM) -> list[Probe]:
        if self._lesson is None:
            return []
        options, taught, rest = self._lesson
        partition, loader = self.prepared.partition, self.prepared.scoring_loader("forget")
        trainer = Trainer(device=str(self.device), progress=False)
        probability = probability_measure(self.task, loader, trainer, self.options.batch_size)
        test = partition.indices("test")

        def with_test(pupil: nn.Module, indices: Sequence[int]) -> PerExample:
            return probability(pupil, [*indices, *test] if list(indices) == rest else indices)

        result = relearn(
            {"it": model}, self.task, loader, partition.forget, options=options, trainer=trainer, seed=self.seed,
            measure_by=with_test,
        )  # fmt: skip
        curve = result.curves["it"]
        places = {index: place for place, index in enumerate(partition.forget)}
        rows = [places[index] for index in rest]
        made = []
        for number, step in enumerate(options.steps):
            values, outside = np.full(len(partition.forget), np.nan), np.full(len(test), np.nan)
            definition, missing = "probability of a token", "it was taught"
            if number < len(curve.rest):
                values[rows], outside = np.split(curve.rest[number].values, [len(rest)])
                definition = curve.rest[number].definition
            else:
                missing = curve.stopped or missing
            metric = PerExample(
                f"relearned_{step}",
                values,
                "remembers_above",
                "The mean probability of a token of the records that were not taught is {value:.3f}.",
                definition=f"{definition}; after {step} steps on {len(taught)} other forgotten records",
                missing=missing,
            )
            words = f"probability of a token after {step} steps on {len(taught)} of them"
            made.append(Probe(f"relearned_{step}", "relearning", f"Other forgotten records: {words}", metric))
        there = np.isin(np.arange(len(partition.forget)), rows)
        words = f"probability of a token after {step} steps on {len(taught)} other forgotten records"
        return made + self._beside(made[-1], replace(metric, values=outside), words, there)

    @cached_property
    def _levels(self) -> HierarchicalPlan | None:
        if self.options.hierarchy is None or not self.options.records:
            return None
        indices = [self.prepared.partition.indices("forget")[place] for place in self.asked["forget"]]
        loader = self.prepared.scoring_loader("forget")
        return plan_hierarchy(loader, self.task.modality, indices, self.options.hierarchy)

    def _surrounded(self, model: CausalLM) -> list[Probe]:
        if self._levels is None:
            return []
        found = self._levels.attack(model, self.task, device=self.device, batch_size=self.options.batch_size)
        made = []
        for level in found.levels:
            for what, words in HIERARCHY.items():
                metric = found.measures.get(f"hierarchy_{level}_{what}")
                if metric is not None:
                    context = "nothing told" if level == NOTHING else f"told up to “{level}”"
                    label = f"Forgotten records, {context}: {words}"
                    made.append(Probe(metric.name, "hierarchical", label, self._placed(metric, "forget")))
        return made

    def _values(self, part: str) -> list[Any]:
        """Values of the asked records of a part."""
        loader, indices = self.prepared.scoring_loader(part), self.prepared.partition.indices(part)
        return [loader.record(indices[place]).value(self.task.modality) for place in self.asked[part]]

    def _placed(self, found: PerExample, part: str, places: Ints | None = None) -> PerExample:
        """Values of the asked records (or of those at ``places``) among all of the part's; the others have none."""
        values = np.full(len(self.prepared.partition.indices(part)), np.nan)
        values[self.asked[part] if places is None else places] = found.values
        return replace(found, values=values, missing=f"it was not asked, or {found.missing}")


def told(name: str) -> bool:
    """Whether a measure of the extraction attack stands in the report: of templates the plain prompt and the best."""
    if name.startswith("template_"):
        return name.startswith(("template_plain_", "template_best_"))
    return name in EXPOSURES or not name.startswith("exposure")


def asked_label(name: str) -> str:
    """A measure of the extraction attack in plain words."""
    kind, _, rest = name.partition("_")
    secret = "identifiers" if name.endswith("identifiers") else "the answer (ROUGE-L)"
    if kind == "template":
        how = "plainly" if rest.startswith("plain_") else "in the best way of all"
        return f"share of {secret} that it writes, asked {how}"
    if kind == "leak":
        return f"share of {secret} in the best of {rest.split('_')[1]} samples"
    return name.replace("_", " ")
