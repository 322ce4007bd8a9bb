"""SemEval-2025 task 4 (LUME), put to one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from forgetmi.data_adapters.lume import Lume
from forgetmi.data_adapters.text_files import find_set
from forgetmi.errors import DataError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.lume import AWARD_GATE, CELLS, SOURCES, LossAttack, LumeScore, TaskScores, loss_attack
from forgetmi.metrics.lume_run import DECODING, document_nll, write_outputs
from forgetmi.metrics.multiple_choice import Asking, questions_of
from forgetmi.records import RecordDataset
from forgetmi.runs.benchmarks.base import Benchmark, Data, Findings, Part, Score, absent, values_of
from forgetmi.runs.benchmarks.questions import choose, read_mmlu
from forgetmi.runs.evaluation import Subject, codes
from forgetmi.training.seeds import derive_seed

_NO_MIA = "there are no documents to attack: put member.jsonl and nonmember.jsonl there, or name their folder as mia"
_NO_MMLU = "MMLU was not measured: give its folder, or its accuracy, as mmlu"


@dataclass(frozen=True)
class LumeBenchmark(Benchmark):
    """SemEval-2025 task 4 (LUME, Ramakrishna et al. 2025), see :mod:`forgetmi.metrics.lume`; as the adapter ``lume``.

    Attributes:
        retain: the folder with the retain files, if elsewhere.
        parts: of the challenge's files.
        mia: the folder with member and nonmember documents; by default the data's own, where it has them.
        mmlu: the folder of MMLU, or its accuracy as measured elsewhere: a share from 0 to 1.
        asking: how MMLU is asked.
        gate: the MMLU accuracy above which a submission was eligible.
        decoding: of outputs; with a temperature above 0 sampled ones stand beside the greedy ones.
    """

    name: ClassVar[str] = "lume"
    summary: ClassVar[str] = "SemEval-2025 task 4 (LUME): task score, attack score, MMLU gate, final score"

    retain: Path | None = None
    parts: tuple[Literal["train", "validation"], ...] = ("train",)
    mia: Path | None = None
    mmlu: float | Path | None = None
    asking: Asking = field(default_factory=lambda: Asking(shots=5))
    gate: float = AWARD_GATE
    decoding: Decoding = DECODING

    def problems(self) -> list[str]:
        """What is wrong with the own options."""
        wrong = isinstance(self.mmlu, int | float) and not 0.0 <= self.mmlu <= 1.0
        return [f"mmlu must be a folder, or a share from 0 to 1, not {self.mmlu}"] if wrong else []

    @property
    def of_one_model(self) -> tuple[str, ...]:
        """MMLU's accuracy, where it is a number."""
        return ("mmlu",) if isinstance(self.mmlu, int | float) else ()

    def for_others(self) -> LumeBenchmark:
        """Without a number that is one model's."""
        return replace(self, mmlu=None) if self.of_one_model else self

    def load(self, folder: Path) -> Data:
        """Rows of the tasks; documents and MMLU where there are some."""
        found = {"tasks": Lume(folder, retain_root=self.retain, parts=self.parts).load()}
        if self.mia is not None or _holds_documents(folder):
            found["documents"] = Lume(self.mia or folder, part="mia").load()
        if isinstance(self.mmlu, Path):
            found |= read_mmlu(self.mmlu, self.asking.shots)
        return found

    def run(self, subject: Subject, data: Data, folder: Path) -> Findings:
        """The cells, the attack, MMLU, and the score of all three."""
        tasks, greedy = data["tasks"], replace(self.decoding, temperature=0.0, top_p=1.0, samples=1)
        written = {"": self._written(subject, tasks, greedy, self.seed)}
        if self.decoding.temperature > 0:
            one = replace(self.decoding, samples=1)
            seeds = [derive_seed(self.seed, "sample", n) for n in range(self.decoding.samples)]
            runs = [self._written(subject, tasks, one, seed) for seed in seeds]
            written["_sampled"] = replace(runs[0], values=np.mean([run.values for run in runs], axis=0))
        attack = self._attack(subject, data)
        mmlu = self._mmlu(subject, data)
        scores: dict[str, Score] = {
            "mia_score": absent(_NO_MIA) if attack is None else {"value": attack.score, **attack.to_dict()},
            "mmlu": absent(_NO_MMLU)
            if mmlu is None
            else {"value": mmlu, "gate": self.gate, "passes": mmlu > self.gate},
        }
        for suffix, made in written.items():
            interval = made.interval(self.generator("tasks"), **self.intervals)
            aggregate: dict[str, Any] = {"value": made.aggregate, "interval": interval.to_dict(), **made.to_dict()}
            if made.aggregate is None:
                aggregate["reason"] = interval.reason
            scores[f"task_aggregate{suffix}"] = aggregate
            scores[f"final{suffix}"] = _final(LumeScore(made, attack, mmlu, self.gate), aggregate.get("reason"))
        return Findings(_parts(written), scores, written[""])

    def texts(self, data: Data) -> tuple[str, list[Any]]:
        """What is true after the inputs of documents to retain."""
        return "outputs that stay", values_of(data["tasks"], source_split="retain")

    def _written(self, subject: Subject, tasks: RecordDataset, decoding: Decoding, seed: int) -> TaskScores:
        tokenizer = subject.modality.tokenizer
        return write_outputs(subject.model, tokenizer, tasks, decoding=decoding, seed=seed, batch_size=self.batch_size)

    def _attack(self, subject: Subject, data: Data) -> LossAttack | None:
        if "documents" not in data:
            return None
        members, others = (
            document_nll(
                subject.model,
                subject.modality.tokenizer,
                values_of(data["documents"], "text", source_split=name),
                max_length=self.max_length,
                batch_size=self.batch_size,
            )
            for name in ("member", "nonmember")
        )
        return loss_attack(members, others, self.generator("mia"), **self.intervals)

    def _mmlu(self, subject: Subject, data: Data) -> float | None:
        if not isinstance(self.mmlu, Path):
            return None if self.mmlu is None else float(self.mmlu)
        examples = questions_of(data["examples"]) if "examples" in data else []
        asked = questions_of(data["questions"])
        return float(choose(subject, asked, self.asking, examples, self.batch_size).correct.mean())


def _holds_documents(folder: Path) -> bool:
    try:
        find_set([folder, folder / "mia_data", folder / "mia"], ["member"])
    except DataError:
        return False
    return True


def _final(score: LumeScore, aggregate: str | None) -> Score:
    """The score of the task, or all that it lacks."""
    said = {"destroyed": score.destroyed, "passes_gate": score.passes_gate, "sentence": score.sentence}
    lacks = [] if aggregate is None else [aggregate]
    lacks += [_NO_MIA] if score.mia is None else []
    lacks += [_NO_MMLU] if score.mmlu is None else []
    return {"value": score.final, **({"reason": "; ".join(lacks)} if lacks else {}), **said}


def _parts(written: Mapping[str, TaskScores]) -> dict[str, Part]:
    """Of forget and of retain: all rows, each cell's metric with values of its own rows only."""
    parts: dict[str, Part] = {}
    for source in SOURCES:
        metrics = []
        for suffix, made in written.items():
            rows = [row for row, of in enumerate(made.sources) if of == source]
            for cell in CELLS:
                if cell[0] != source or cell in made.missing:
                    continue
                example = made.example(source, cell[2], cell[1])  # type: ignore[arg-type]
                values = np.full(len(made.values), np.nan)
                values[made.rows(source, cell[2], cell[1])] = example.values  # type: ignore[arg-type]
                name = f"{example.name}{suffix}"
                metrics.append(replace(example, name=name, values=values[rows], missing="it is of another cell"))
        documents = written[""].documents
        parts[source] = Part(codes([documents[row] for row in rows]), tuple(metrics))
    return parts
