"""TOFU and MUSE, put to one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from forgetmi.data_adapters.muse import Muse
from forgetmi.data_adapters.tofu import Tofu
from forgetmi.metrics.figure import measure
from forgetmi.metrics.generation import Decoding, continue_texts, prompts_of
from forgetmi.metrics.intervals import PatientBootstrap
from forgetmi.metrics.muse import KNOWMEM, MIN_K, VERBMEM, MuseResult, evaluate_muse, rel_diff
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import auc_statistic
from forgetmi.metrics.rouge import rouge_of_samples
from forgetmi.metrics.tofu import evaluate_tofu
from forgetmi.metrics.tofu_result import UTILITY, Definition, TofuOptions, TofuSet, forget_quality
from forgetmi.runs.benchmarks.base import (
    NO_REFERENCE,
    Benchmark,
    Data,
    Findings,
    Part,
    Score,
    absent,
    alone,
    compared,
    values_of,
)
from forgetmi.runs.evaluation import Subject, Written, greedy_and_sampled
from forgetmi.training.seeds import derive_seed

MusePart = Literal["verbmem", "knowmem", "privleak"]


@dataclass(frozen=True)
class TofuBenchmark(Benchmark):
    """TOFU (Maini et al. 2024), see :mod:`forgetmi.metrics.tofu`; its folder as the adapter ``tofu`` reads it.

    Attributes:
        sets: which are read; one forget set. Model utility needs retain, real authors and world facts.
        questions_per_author: of sets that are ordered by author.
        definition: of the paper, or of OpenUnlearning's code.
        decoding: of answers; with a temperature above 0 sampled ones stand beside the greedy ones.
    """

    name: ClassVar[str] = "tofu"
    summary: ClassVar[str] = "TOFU: made-up authors; model utility, and forget quality against a retrained model"

    sets: tuple[str, ...] = (
        "forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"
    )  # fmt: skip
    questions_per_author: int = 20
    definition: Definition = "paper"
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=200))

    def load(self, folder: Path) -> Data:
        """The sets, as one."""
        tofu = Tofu(folder, train=self.sets, test=(), questions_per_author=self.questions_per_author)
        return {"tofu": tofu.load()}

    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """Metrics of each set, and model utility."""
        how = TofuOptions(
            self.definition, replace(self.decoding, temperature=0.0, top_p=1.0, samples=1), self.batch_size, self.seed
        )
        found = evaluate_tofu(subject.model, subject.modality, data["tofu"], how)
        parts = {
            part.name: Part(part.patients, (*part.metrics.values(), *self._sampled(subject, data, part)))
            for part in found.sets.values()
        }
        scores: dict[str, Score] = {}
        if any(role in found.sets for role in UTILITY):
            scores["model_utility"] = found.utility_figure(self.generator("utility"), **self.intervals).to_dict()
        return Findings(parts, scores, found)

    def against(self, ours: Findings, theirs: Findings | None) -> dict[str, Score]:
        """Forget quality."""
        if theirs is None:
            return {"forget_quality": absent(NO_REFERENCE)}
        sides = [of.raw.sets["forget"].ratios for of in (ours, theirs)]
        if None in sides:
            return {"forget_quality": absent("the forget set has no wrong answers: name forgetNN_perturbed in sets")}

        def quality() -> Score:
            found = forget_quality(*sides)
            return {"value": found.p, **found.to_dict(), "sentence": found.sentence}

        return {"forget_quality": compared(quality)}

    def texts(self, data: Data) -> tuple[str, list[Any]]:
        """Questions and answers that stay; of the forget set where there are no others."""
        kept = [r.value("dialogue") for r in data["tofu"] if not r.attributes["source_split"].startswith("forget")]
        return ("answers that stay", kept) if kept else ("answers to be forgotten", values_of(data["tofu"]))

    def _sampled(self, subject: Subject, data: Data, part: TofuSet) -> list[PerExample]:
        if self.decoding.temperature == 0 or part.role == "holdout":
            return []
        values = values_of(data["tofu"], source_split=part.name)
        seed = derive_seed(self.seed, "sampled", part.name)
        prompts = prompts_of(subject.modality, values)
        written = continue_texts(
            subject.model, subject.modality.tokenizer, prompts, self.decoding, seed=seed, batch_size=self.batch_size
        )
        useful = part.role in UTILITY
        made = rouge_of_samples("answer", [value["answer"] for value in values], written, self.decoding)
        return [
            replace(
                made,
                name=f"{part.role}_rouge_sampled",
                direction="useful_above" if useful else "remembers_above",
                definition=f"{made.definition}; mean over {self.decoding.samples} samples",
            )
        ]


@dataclass(frozen=True)
class MuseBenchmark(Benchmark):
    """MUSE (Shi et al. 2025), see :mod:`forgetmi.metrics.muse`; its folder as the adapter ``muse`` reads it.

    Attributes:
        parts: which are read.
        continuation, answers: how VerbMem and KnowMem are written; with a temperature above 0 sampled ones stand beside
            the greedy ones.
        min_k: the share of tokens that PrivLeak's attack looks at.
        trailing_space: a space behind ``Answer:``, as published code has it.
    """

    name: ClassVar[str] = "muse"
    summary: ClassVar[str] = "MUSE: documents; VerbMem, KnowMem, and PrivLeak against a retrained model"

    parts: tuple[MusePart, ...] = ("verbmem", "knowmem", "privleak")
    continuation: Decoding = VERBMEM
    answers: Decoding = KNOWMEM
    min_k: float = MIN_K
    trailing_space: bool = False

    def problems(self) -> list[str]:
        """What is wrong with the own options."""
        found = (
            [] if self.parts and len(set(self.parts)) == len(self.parts) else ["parts: name at least one, each once"]
        )
        return found if 0.0 < self.min_k <= 1.0 else [*found, f"min_k must lie in (0, 1], not {self.min_k}"]

    def load(self, folder: Path) -> Data:
        """The parts."""
        return {part: Muse(folder, part=part).load() for part in self.parts}

    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """VerbMem, KnowMem of both sides, and the AUC of PrivLeak's attack."""

        def measured(part: str, decoding: Decoding, seed: int) -> MuseResult:
            return evaluate_muse(
                subject.model, subject.modality.tokenizer, {part: data[part]}, continuation=decoding, answers=decoding,
                k=self.min_k, trailing_space=self.trailing_space, seed=seed, batch_size=self.batch_size,
            )  # fmt: skip

        def writer(part: str) -> Callable[[Decoding, int], Written]:
            def write(decoding: Decoding, seed: int) -> Written:
                found = measured(part, decoding, seed)
                metrics = (found.verbmem, found.knowmem_forget, found.knowmem_retain)
                return {metric.name: metric for metric in metrics if metric is not None}

            return write

        made: dict[str, PerExample] = {}
        for part, decoding in (("verbmem", self.continuation), ("knowmem", self.answers)):
            if part in data:
                made |= greedy_and_sampled(writer(part), decoding, derive_seed(self.seed, part))
        parts = {}
        for name in ("verbmem", "knowmem_forget", "knowmem_retain"):
            if metrics := [metric for key, metric in made.items() if key.startswith(name)]:
                parts[name] = alone(metrics)
        if "privleak" not in data:
            return Findings(parts)
        attacked = measured("privleak", self.continuation, self.seed)
        return Findings(parts, {"auc": self._auc(attacked)}, attacked)

    def against(self, ours: Findings, theirs: Findings | None) -> dict[str, Score]:
        """PrivLeak, and every figure's relative difference."""
        found: dict[str, Score] = {}
        if "privleak" in self.parts:
            found["privleak"] = (
                absent(NO_REFERENCE)
                if theirs is None
                else compared(
                    lambda: ours.raw.privleak(theirs.raw, self.generator("privleak"), **self.intervals).to_dict()
                )
            )
        means = ours.means()
        other = {} if theirs is None else theirs.means()
        for name, value in means.items():
            found[f"rel_diff {name}"] = (
                absent(NO_REFERENCE)
                if theirs is None
                else compared(lambda value=value, name=name: {"value": rel_diff(value, other.get(name))})  # type: ignore[misc]
            )
        return found

    def texts(self, data: Data) -> tuple[str, list[Any]]:
        """Documents that were held out; else questions and answers about what stays."""
        if "privleak" in data:
            return "documents held out", values_of(data["privleak"], "text", source_split="holdout")
        if "knowmem" in data:
            return "answers that stay", values_of(data["knowmem"], source_split="retain_qa")
        return "texts", []

    def _auc(self, found: MuseResult) -> Score:
        assert found.scores is not None
        assert found.member is not None
        bootstrap = PatientBootstrap(
            np.arange(len(found.scores)), self.generator("auc"), strata=found.member, **self.intervals
        )
        return measure(
            "auc",
            auc_statistic(found.scores, found.member),
            bootstrap,
            direction="remembers_above",
            sentence=f"Min-{self.min_k:.0%} tells forget documents from held-out ones with AUC {{value:.3f}}.",
            bounds=(0.0, 1.0),
        ).to_dict()
