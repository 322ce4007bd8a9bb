"""WMDP and MMLU, put to one model: multiple choice, and the same questions asked openly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from forgetmi.data_adapters.mmlu import Mmlu
from forgetmi.data_adapters.wmdp import Subject as WmdpSubject
from forgetmi.data_adapters.wmdp import Wmdp
from forgetmi.metrics.choice_scoring import score_choices
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.multiple_choice import Asking, Choices, Question, questions_of
from forgetmi.metrics.open_answers import DECODING, ask_openly
from forgetmi.metrics.per_example import PerExample
from forgetmi.runs.benchmarks.base import Benchmark, Data, Findings, Score, alone
from forgetmi.runs.evaluation import Subject, Written, greedy_and_sampled
from forgetmi.training.seeds import derive_seed


@dataclass(frozen=True)
class _Questions(Benchmark):
    """What WMDP and MMLU have in common.

    Attributes:
        asking: how the options are scored, see :class:`~forgetmi.metrics.multiple_choice.Asking`.
        openly: ask the same questions without options too.
        decoding: of open answers; with a temperature above 0 sampled ones stand beside the greedy ones.
        limit: so many questions, the first ones; all by default.
    """

    direction: ClassVar[Direction]

    asking: Asking = field(default_factory=Asking)
    openly: bool = True
    decoding: Decoding = DECODING
    limit: int | None = None

    def problems(self) -> list[str]:
        """What is wrong with the own options."""
        return [] if self.limit is None or self.limit > 0 else [f"limit must be at least 1, not {self.limit}"]

    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """Accuracy by choice, of all questions and of each subject, beside chance; open answers."""
        questions = self._asked(data)
        examples = questions_of(data["examples"]) if "examples" in data else []
        choices = choose(subject, questions, self.asking, examples, self.batch_size)
        metrics = [choices.accuracy(self.direction), choices.true_probability(self.direction)]
        if self.openly:
            metrics += self._open(subject, questions, examples)
        scores: dict[str, Score] = {"chance": {"value": choices.chance}}
        for name in dict.fromkeys(filter(None, choices.subjects)):
            metric = choices.accuracy(self.direction, name)
            figure = metric.figure(np.arange(len(metric.values)), self.generator(name), **self.intervals)
            scores[metric.name] = figure.to_dict()
        calibration = choices.calibration()
        scores["calibration_error"] = {"value": calibration.error, **calibration.to_dict()}
        return Findings({"questions": alone(metrics)}, scores, choices)

    def texts(self, data: Data) -> tuple[str, list[Any]]:
        """The questions themselves, without their answers: plain language."""
        return "questions", [question.text for question in self._asked(data)]

    def _asked(self, data: Data) -> list[Question]:
        return questions_of(data["questions"])[: self.limit]

    def _open(self, subject: Subject, questions: Sequence[Question], examples: Sequence[Question]) -> list[PerExample]:
        def write(decoding: Decoding, seed: int) -> Written:
            found = ask_openly(
                subject.model, subject.modality.tokenizer, questions, examples=examples, shots=self.asking.shots,
                decoding=decoding, seed=seed, batch_size=self.batch_size,
            )  # fmt: skip
            return {metric.name: metric for metric in (found.recall(self.direction), found.names_right(self.direction))}

        return list(greedy_and_sampled(write, self.decoding, derive_seed(self.seed, "open")).values())


@dataclass(frozen=True)
class WmdpBenchmark(_Questions):
    """WMDP (Li et al. 2024): hazardous knowledge by multiple choice, and by open answers, which show what choices hide.

    Attributes:
        subjects: whose questions are read.
        asking, openly, decoding, limit: how they are asked.
    """

    name: ClassVar[str] = "wmdp"
    summary: ClassVar[str] = "WMDP: hazardous knowledge, by multiple choice and by open answers"
    direction: ClassVar[Direction] = "remembers_above"

    subjects: tuple[WmdpSubject, ...] = ("bio", "chem", "cyber")

    def problems(self) -> list[str]:
        """What is wrong with the own options."""
        none = ["asking.shots must be 0: WMDP has no examples"] if self.asking.shots else []
        return [*super().problems(), *none]

    def load(self, folder: Path) -> Data:
        """The questions."""
        return {"questions": Wmdp(folder, part="questions", subjects=self.subjects).load()}


@dataclass(frozen=True)
class MmluBenchmark(_Questions):
    """MMLU (Hendrycks et al. 2021): general knowledge by multiple choice, with examples of the same subject.

    Attributes:
        subjects: whose questions are read; all by default.
        asking, openly, decoding, limit: how they are asked.
    """

    name: ClassVar[str] = "mmlu"
    summary: ClassVar[str] = "MMLU: general knowledge by multiple choice"
    direction: ClassVar[Direction] = "useful_above"

    asking: Asking = field(default_factory=lambda: Asking(shots=5))
    openly: bool = False
    subjects: tuple[str, ...] = ()

    def load(self, folder: Path) -> Data:
        """The questions, and those that are shown before them."""
        return read_mmlu(folder, self.asking.shots, self.subjects)


def read_mmlu(folder: Path, shots: int, subjects: tuple[str, ...] = ()) -> dict[str, Any]:
    """MMLU's test questions and, where some are shown, its examples."""
    parts = {"questions": "test", **({"examples": "dev"} if shots else {})}
    return {name: Mmlu(folder, part, subjects).load() for name, part in parts.items()}  # type: ignore[arg-type]


def choose(
    subject: Subject, questions: Sequence[Question], asking: Asking, examples: Sequence[Question], batch_size: int
) -> Choices:
    """What a model thinks of each option."""
    return score_choices(
        subject.model, subject.modality.tokenizer, questions, asking, examples=examples, batch_size=batch_size
    )
