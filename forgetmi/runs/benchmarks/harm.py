"""PKU-SafeRLHF, put to one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.safe_rlhf import SafeRlhf
from forgetmi.errors import ConfigError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.harm_classifier import LocalClassifier
from forgetmi.metrics.safe_rlhf import HarmClassifier, WordList, harmful_completions
from forgetmi.runs.benchmarks.base import Benchmark, Data, Findings, alone, files_sha256
from forgetmi.runs.evaluation import Subject, Written, greedy_and_sampled
from forgetmi.training.seeds import derive_seed


@dataclass(frozen=True)
class SafeRlhfBenchmark(Benchmark):
    """PKU-SafeRLHF (Ji et al. 2024), see :mod:`forgetmi.metrics.safe_rlhf`; its folder as the adapter ``safe_rlhf``.

    Attributes:
        classifier: a folder of transformers with a classifier of texts, which judges.
        labels: of the classifier, those that mean harm.
        reads: what the classifier is given: ``completion``, ``pair``, or a format.
        words: judge by a list of words instead: a baseline that sees no meaning.
        threshold: from which probability on a completion is harmful.
        split: whose prompts are asked.
        models: folders below ``data`` that are read; all by default.
        limit: so many prompts, the first ones; all by default.
        decoding: of completions; with a temperature above 0 sampled ones stand beside the greedy ones.
    """

    name: ClassVar[str] = "safe_rlhf"
    summary: ClassVar[str] = "PKU-SafeRLHF: harmful and refused answers, as a local classifier judges"

    classifier: Path | None = None
    labels: tuple[str | int, ...] = ()
    reads: str = "completion"
    words: tuple[str, ...] = ()
    threshold: float = 0.5
    split: Literal["train", "test"] = "test"
    models: tuple[str, ...] = ()
    limit: int | None = None
    decoding: Decoding = field(default_factory=Decoding)

    def problems(self) -> list[str]:
        """What is wrong with the own options."""
        found = []
        if (self.classifier is None) == (not self.words):
            found.append("give one judge: classifier (a folder, with labels), or words (a baseline)")
        if self.classifier is None and self.labels:
            found.append("labels are a classifier's: give classifier")
        try:
            self._judge()
        except ConfigError as error:
            found += error.problems if found == [] else []
        if self.limit is not None and self.limit < 1:
            found.append(f"limit must be at least 1, not {self.limit}")
        if not 0.0 < self.threshold <= 1.0:
            found.append(f"threshold must be in (0, 1], not {self.threshold}")
        return found

    def load(self, folder: Path) -> Data:
        """Prompts with their responses."""
        return {"prompts": SafeRlhf(folder, models=self.models).load()}

    def hashes(self, folder: Path) -> dict[str, str]:
        """Of the classifier."""
        return {} if self.classifier is None else files_sha256(self.classifier)

    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """Rates of harm and of refusal."""
        dataset, chosen = data["prompts"], self._chosen(data)
        judge = self._judge(str(next(subject.model.parameters()).device))

        def write(decoding: Decoding, seed: int) -> Written:
            found = harmful_completions(
                subject.model, subject.modality, dataset, chosen, judge, decoding=decoding, threshold=self.threshold,
                seed=seed, batch_size=self.batch_size,
            )  # fmt: skip
            return {m.name: m for m in (found.harmful, found.mean_probability, found.complied, found.refusal)}

        made = greedy_and_sampled(write, self.decoding, derive_seed(self.seed, "completions"))
        return Findings({"prompts": alone(list(made.values()))})

    def texts(self, data: Data) -> tuple[str, list[Any]]:
        """The prompts themselves: plain language."""
        return "prompts", [data["prompts"][i].value("dialogue")["prompt"] for i in self._chosen(data)]

    def _chosen(self, data: Data) -> list[int]:
        """Positions of one record of each prompt."""
        first: dict[str, int] = {}
        for position, record in enumerate(data["prompts"]):
            if record.split == self.split:
                first.setdefault(record.value("dialogue")["prompt"], position)
        return list(first.values())[: self.limit]

    def _judge(self, device: str = "cpu") -> HarmClassifier:
        if self.classifier is None:
            return WordList(self.words)
        return LocalClassifier(self.classifier, self.labels, self.reads, batch_size=self.batch_size, device=device)
