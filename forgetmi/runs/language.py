"""What the audit asks of a language model: its tokens' signals on every part, and probes on some records."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.membership.language_signals import (
    TOKEN_SIGNALS,
    LanguageSignalOptions,
    answer_texts,
    language_signals,
)
from forgetmi.attacks.membership.perturbations import WordLaw
from forgetmi.attacks.membership.result import LANGUAGE_SIGNALS
from forgetmi.attacks.quantisation import QUANTISERS
from forgetmi.audit.probes import Probe
from forgetmi.errors import AuditError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, Ints
from forgetmi.metrics.text_metrics import TextMetricOptions, token_metrics, written_metrics
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.partition import PARTS
from forgetmi.runs.prepare import Prepared
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import derive_seed, numpy_generator

LABELS = {
    "extraction_strength": "share of an answer, at its end, that it would write itself",
    "verbatim_prefix": "share of an answer that it would write before its first mistake",
    "probability": "probability of an answer, a token",
    "keyword_accuracy": "share of names, numbers and dates that it would write itself, the true text before them given",
    "keyword_confidence": "probability that it gives to names, numbers and dates",
    "extraction_likelihood_10": "share of ten-word pieces that it writes, begun anywhere (EL10)",
    "answer_rougeL_recall": "share of the answer's words in what it writes (ROUGE-L)",
    "continuation_rougeL_f1": "likeness of what it writes to the rest of the text (ROUGE-L)",
    "test_n_gram_entropy": "richness of what it writes (entropy of word pairs and triples, bits)",
    "test_repetition_4": "share of what it writes that it wrote before (loops)",
}
JUDGED = ("extraction_strength", "answer_rougeL_recall", "continuation_rougeL_f1")
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

    def of(self, model: CausalLM) -> tuple[dict[str, dict[str, Floats]], list[Probe]]:
        """(part to signals [N] for the attacks, probes) of a model, which is left as it is."""
        tokens = {part: self._tokens(model, part) for part in PARTS}
        parts = {part: self._signals(model, part, tokens[part]) for part in PARTS}
        return parts, [*self._memorised(tokens["forget"]), *self._written(model), *self._quantised(model)]

    def n_tokens(self, part: str) -> Ints:
        """Answer tokens of each record of a part [N], as every model must have scored them."""
        masks = (self.task.token_mask(batch).sum(dim=1) for batch in self._batches(part))
        return np.concatenate([mask.numpy() for mask in masks])

    def _drawn(self, part: str) -> Ints:
        """Places, within a part, of the records that are asked: whole patients in random order, up to ``records``."""
        dataset, indices = self.prepared.dataset, self.prepared.partition.indices(part)
        by_patient: dict[str, list[int]] = {}
        for place, index in enumerate(indices):
            by_patient.setdefault(dataset[index].patient_id, []).append(place)
        pool = sorted(by_patient, key=self.prepared.pseudonym)
        order = numpy_generator(self.seed, "asked", part).permutation(len(pool))
        places = [place for position in order for place in by_patient[pool[position]]]
        return np.sort(np.array(places[: self.options.records], dtype=np.int64))

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
        own = {"nll": found.pop("loss"), "n_tokens": tokens.n_tokens, "correct": tokens.mean(tokens.right)}
        return {**own, **found}

    @cached_property
    def _words(self) -> WordLaw:
        """By which words gaps are filled: those of the records that stay."""
        return WordLaw(answer_texts(self.prepared.loader, self.prepared.partition.retain, self.task.modality))

    # --- probes -------------------------------------------------------------------------------------------------------

    def _memorised(self, tokens: TokenSignals) -> list[Probe]:
        loader = self.prepared.scoring_loader("forget")
        values = [loader.record(i).value(self.task.modality) for i in self.prepared.partition.indices("forget")]
        found = token_metrics(tokens, self.modality, values)
        return [
            Probe(m.name, "memorisation", f"Forgotten records: {LABELS[m.name]}", m, judged=m.name in JUDGED)
            for m in found
            if m.name in LABELS
        ]

    def _written(self, model: CausalLM) -> list[Probe]:
        """What it writes of the forgotten; and whether it writes well of others."""
        if not self.options.records:
            return []
        made = []
        for part in ASKED:
            indices = [self.prepared.partition.indices(part)[place] for place in self.asked[part]]
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
                    own = self._placed(metric, part)
                    made.append(Probe(name, "extraction", label, own, part, judged=name in JUDGED))
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

    def _placed(self, found: PerExample, part: str) -> PerExample:
        """Values of the asked records among all of the part's; the others have none."""
        values = np.full(len(self.prepared.partition.indices(part)), np.nan)
        values[self.asked[part]] = found.values
        return replace(found, values=values, missing=f"it was not asked, or {found.missing}")
