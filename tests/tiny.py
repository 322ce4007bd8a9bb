"""Tiny jobs for contract tests: a fusion classifier on pictures and words, and a GPT-2, both random."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from forgetmi.batch import Loader
from forgetmi.methods.base import UnlearningJob
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.text import TextModality
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.causal_lm import CausalLM, build_causal_lm
from forgetmi.models.classifier import build_model
from forgetmi.models.lora import LoraOptions
from forgetmi.partition import Partition
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training import trainer as trainer_module
from forgetmi.training.options import FitOptions
from forgetmi.training.reference import Reference
from forgetmi.training.seeds import scoped_seed
from forgetmi.training.trainer import Trainer

WORDS = ("clear", "lungs", "heart", "large", "fluid", "left", "right", "small", "no", "new")
N_PATIENTS, N_CLASSES, VOCABULARY = 24, 3, 32


def tiny_tokenizer() -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[NOISE]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _split(patient: int) -> str:
    return "train" if patient < 16 else "validation" if patient < 20 else "test"


def tiny_dataset(*, missing: bool = True) -> RecordDataset:
    """24 patients, 2 studies each; some pictures and words are missing."""
    draw = np.random.default_rng(0)
    records = []
    for n in range(2 * N_PATIENTS):
        patient = n // 2
        label = int(draw.integers(N_CLASSES))
        words = " ".join(draw.choice(WORDS, size=int(draw.integers(2, 7))))
        image = np.clip(draw.normal(0.3 + 0.2 * label, 0.1, size=(8, 8)), 0, 1).astype(np.float32)
        values: dict[str, Any] = {
            "film": None if missing and n % 7 == 3 else image,
            "note": None if missing and n % 5 == 2 else words,
        }
        records.append(Record(f"s{n:02d}", f"st{n:02d}", f"p{patient:02d}", "h", values, label, _split(patient)))
    return RecordDataset(
        records,
        name="tiny",
        levels=("patient", "study", "sample", "modality"),
        classes=("a", "b", "c"),
        modality_kinds={"film": "image", "note": "text"},
    )


def tiny_sequences() -> RecordDataset:
    draw = np.random.default_rng(1)
    records = [
        Record(
            f"s{n:02d}", f"st{n:02d}", f"p{n // 2:02d}", "h",
            {"tokens": {"ids": draw.integers(1, VOCABULARY, size=int(draw.integers(4, 9))).tolist(), "answer": 2}},
            None, _split(n // 2),
        )
        for n in range(2 * N_PATIENTS)
    ]  # fmt: skip
    return RecordDataset(records, name="tiny_lm", levels=("patient", "sample"), modality_kinds={"tokens": "tokens"})


def tiny_classifier(seed: int = 0, **overrides: Any) -> nn.Module:
    config: dict[str, Any] = {
        "encoders": {
            "film": {"name": "small_resnet", "channels": 1, "widths": [4, 8], "blocks": 1},
            "note": {
                "name": "small_transformer", "vocab_size": 13, "dim": 8, "layers": 1, "heads": 2, "max_length": 16,
                "dropout": 0.1,
            },
        },
        "n_outputs": N_CLASSES,
        "fusion": "gate",
        "heads": "both",
        "dim": 8,
        "dropout": 0.1,
    }  # fmt: skip
    return build_model({**config, **overrides}, seed)


def tiny_gpt2(seed: int = 0) -> nn.Module:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with scoped_seed(seed):
        return GPT2LMHeadModel(config)


@dataclass
class TinyCase:
    """Everything that a job is made of; ``job(...)`` makes a fresh one each time."""

    kind: str
    dataset: RecordDataset
    loader: Loader
    task: Any
    build: Any
    model: nn.Module
    partition: Partition
    lora: LoraOptions | None = None
    recipe: FitOptions = field(default_factory=lambda: FitOptions(epochs=2, batch_size=8, lr=1e-2))

    def job(
        self, *, seed: int = 0, folder: Path | None = None, resume: bool = False, device: str = "cpu"
    ) -> UnlearningJob:
        trainer = Trainer(device=device, checkpoint_dir=folder, resume=resume, progress=False)
        return UnlearningJob(
            model=self.model,
            partition=self.partition,
            task=self.task,
            loader=self.loader,
            trainer=trainer,
            seed=seed,
            reference=Reference(self.model, self.task, trainer.device),
            fresh_model=self.build,
            recipe=self.recipe,
            lora=self.lora,
        )


def classifier_case(**overrides: Any) -> TinyCase:
    dataset = tiny_dataset()
    loader = Loader(dataset, {"film": ImageModality(size=8), "note": TextModality(tiny_tokenizer(), max_length=16)})
    return TinyCase(
        "classification", dataset, loader, ClassificationTask(N_CLASSES),
        lambda seed: tiny_classifier(seed, **overrides), tiny_classifier(**overrides).eval(),
        resolve(dataset, ForgetRequest.of("patient", ["p00", "p03", "p07"])),
    )  # fmt: skip


class AnsweringTokens(TokenModality):
    """Sequences whose answers may be replaced: six letters make six tokens."""

    def answered(self, value: Any, answer: str) -> Any:
        start = value["answer"]
        return self.prepare({"ids": [*value["ids"][:start], *(1 + ord(c) % 31 for c in answer[:6])], "answer": start})


def language_case() -> TinyCase:
    dataset = tiny_sequences()
    loader = Loader(dataset, {"tokens": AnsweringTokens(pad_id=0)})
    return TinyCase(
        "causal_lm", dataset, loader, CausalLMTask(), tiny_gpt2, tiny_gpt2().eval(),
        resolve(dataset, ForgetRequest.of("patient", ["p00", "p03", "p07"])),
    )  # fmt: skip


def tiny_causal_lm(seed: int = 0, **settings: Any) -> CausalLM:
    config = {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 16, "n_layer": 2,
              "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    return build_causal_lm({"config": config, **settings}, seed)


def adapter_case() -> TinyCase:
    """The same language model; what it unlearns is in an adapter on it."""
    case = language_case()
    return replace(case, model=tiny_causal_lm().eval(), build=tiny_causal_lm, lora=LoraOptions(r=2))


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def request_a_class(case: TinyCase, label: int = 2) -> None:
    """Make the case's request one for every train record of a class; their patients' other records are on neither
    side."""
    train = case.partition.train
    forget = tuple(i for i in train if case.dataset[i].label == label)
    concerned = case.dataset.patients(forget)
    rest = [i for i in train if i not in forget]
    case.partition = replace(
        case.partition,
        forget=forget,
        retain=tuple(i for i in rest if case.dataset[i].patient_id not in concerned),
        excluded=tuple(i for i in rest if case.dataset[i].patient_id in concerned),
    )


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """In this block a fit is interrupted when it would take another step than the first so many."""
    real, calls = trainer_module._Fit._step, []

    def dies(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module._Fit, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            yield
