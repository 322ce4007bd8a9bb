"""Weights, questions and answers that all sides get, and the batches of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from forgetmi.batch import Batch, Loader
from forgetmi.methods.base import UnlearningJob
from forgetmi.methods.dpo import DPO
from forgetmi.methods.fine_tune import FineTune
from forgetmi.methods.flat import FLAT
from forgetmi.methods.forget_retain import ForgetRetain, forget_plan, paired_plan
from forgetmi.methods.grad_diff import GradDiff
from forgetmi.methods.npo import NPO
from forgetmi.methods.rmu import RMU
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.partition import Partition
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import Plan
from forgetmi.training.reference import Reference
from forgetmi.training.trainer import Trainer

LR, BETA, STEERING = 1e-5, 0.1, 2.0
METHODS = ("npo", "npo_kl", "dpo", "grad_diff", "rmu", "flat")
FINE_TUNE = "fine_tune"
"""On the retain records alone: for comparison, where memory is measured."""
LLAMA = {
    "model_type": "llama", "vocab_size": 5000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 3, "tie_word_embeddings": False,
}  # fmt: skip
IDK = ("I do not know the answer.", "I am not sure about that.", "That is beyond my knowledge.")


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        method: one of :data:`METHODS`, or :data:`FINE_TUNE`.
        inputs: a folder with ``model``, ``locuslab/TOFU/forget10`` and ``retain90``, ``data/idk.jsonl``; ``None`` for
            made-up ones about as large.
        records: forget records, the first of the set; as many retain records beside them where there are as many.
        batch_size: forget records of a step, and retain records beside them.
        epochs: visits of each forget record.
        network: changes of :data:`LLAMA`, without ``inputs``.
        length: tokens of each made-up record; ``None``: some 20 to 30.
        layer: that RMU steers.
        seed: of the order, and of made-up weights and words.
    """

    method: str
    inputs: str | None = None
    records: int = 40
    batch_size: int = 8
    epochs: int = 4
    network: Mapping[str, Any] = field(default_factory=dict)
    length: int | None = None
    layer: int = 1
    seed: int = 0

    @property
    def fit(self) -> FitOptions:
        """The same optimiser for all sides."""
        return FitOptions(epochs=self.epochs, batch_size=self.batch_size, lr=LR, weight_decay=0.0, mode="eval")


def make_job(setting: Setting) -> UnlearningJob:
    """The records' first half to be forgotten by a model of its own."""
    records, tokenizer = _read(Path(setting.inputs)) if setting.inputs else _made_up(setting)
    forget, retain = (part[: setting.records] for part in records)
    pairs = enumerate(forget + retain)
    dataset = RecordDataset(
        [Record(f"s{n}", f"s{n}", f"p{n}", "bench", {"text": pair}, None, "train") for n, pair in pairs],
        name="bench", levels=("patient", "sample"), modality_kinds={"text": "dialogue"},
    )  # fmt: skip
    start = {"path": Path(setting.inputs) / "model"} if setting.inputs else {"config": {**LLAMA, **setting.network}}
    model = build_causal_lm({**start, "packing": True}, setting.seed)
    task, trainer = CausalLMTask("text"), Trainer(device="cpu", progress=False)
    everyone, n = range(len(dataset)), len(forget)
    return UnlearningJob(
        model=model.eval(),
        partition=Partition(dataset, tuple(everyone[:n]), tuple(everyone[n:]), (), (), "patient"),
        task=task,
        loader=Loader(dataset, {"text": DialogueModality(tokenizer)}),
        trainer=trainer,
        seed=setting.seed,
        reference=Reference(model, task, trainer.device),
    )


def make_method(setting: Setting, refusals: Path) -> Any:
    """Ours; ``refusals`` is a list of answers, one a line."""
    fit = setting.fit
    return {
        FINE_TUNE: lambda: FineTune(fit),
        "npo": lambda: NPO(beta=BETA, fit=fit),
        "npo_kl": lambda: NPO(beta=BETA, retain="kl", fit=fit),
        "dpo": lambda: DPO(beta=BETA, answers=str(refusals), fit=fit),
        "grad_diff": lambda: GradDiff(fit=fit),
        "rmu": lambda: RMU(c=STEERING, alpha=1.0, layer=setting.layer, fit=fit),
        "flat": lambda: FLAT(answers=str(refusals), fit=fit),
    }[setting.method]()


def refusals(setting: Setting, scratch: Path) -> Path:
    """The published list of the inputs, or one of our own."""
    if setting.inputs:
        return Path(setting.inputs) / "data" / "idk.jsonl"
    path = scratch / "idk.txt"
    path.write_text("\n".join(IDK))
    return path


def steps(setting: Setting, job: UnlearningJob, method: Any) -> Iterator[dict[str, Batch]]:
    """The batches of our run, in its order: the other sides get the same."""
    plan: Plan
    if isinstance(method, FineTune):
        plan = job.visits("retain", method.fit.batch_size)
    elif isinstance(method, RMU):
        plan = paired_plan(job, method.fit)
    elif isinstance(method, DPO | FLAT):
        plan = method.answered(job, forget_plan(job, method))
    else:
        assert isinstance(method, ForgetRetain)
        plan = forget_plan(job, method)
    for epoch in range(setting.epochs):
        for step in plan.steps(epoch):
            yield plan.load(step, epoch)


def tokens_of(batch: Batch) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels``, padded to the batch's longest."""
    found = batch.inputs["text"]
    assert isinstance(found, dict)
    return found


def rows_of(batch: Batch) -> list[dict[str, Tensor]]:
    """The same of each record, without padding."""
    tokens = tokens_of(batch)
    there = tokens["attention_mask"].bool()
    return [{name: tensor[k][there[k]] for name, tensor in tokens.items()} for k in range(len(batch))]


def count_tokens(batches: Mapping[str, Batch]) -> int:
    """Tokens of a step, padding left out."""
    return sum(int(tokens_of(batch)["attention_mask"].sum()) for batch in batches.values())


def _read(folder: Path) -> tuple[tuple[list[dict[str, str]], ...], LMTokenizer]:
    sets = []
    for name in ("forget10", "retain90"):
        lines = (folder / "locuslab" / "TOFU" / name / "train.json").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        sets.append([{"prompt": row["question"], "answer": row["answer"]} for row in rows])
    return tuple(sets), read_lm_tokenizer(folder / "model")


def _made_up(setting: Setting) -> tuple[tuple[list[dict[str, str]], ...], LMTokenizer]:
    """Words in questions of 6 to 12 and answers of 8 to 14, about as long as those of TOFU's short answers."""
    words = [f"w{n}" for n in range(200)]
    special = ("<unk>", "<s>", "</s>", "<pad>")
    known = ("Question", "Answer", ":", ".", *{word.strip(".") for line in IDK for word in line.split()})
    vocabulary = {token: n for n, token in enumerate((*special, *sorted(known), *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    draw = torch.Generator().manual_seed(setting.seed)

    def some(least: int, most: int) -> str:
        length = int(torch.randint(least, most + 1, (1,), generator=draw))
        return " ".join(words[k] for k in torch.randint(len(words), (length,), generator=draw).tolist())

    prompt, answer = (6, 12), (8, 14)
    if setting.length is not None:  # of which five are the format's and the end
        half = setting.length // 2
        prompt, answer = (half, half), (setting.length - half - 5,) * 2
    pairs = [{"prompt": some(*prompt), "answer": some(*answer)} for _ in range(2 * setting.records)]
    return (pairs[: setting.records], pairs[setting.records :]), LMTokenizer(backend, "</s>", "<pad>", "<s>")
