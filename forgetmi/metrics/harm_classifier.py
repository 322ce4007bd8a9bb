"""A local classifier of transformers that says how likely a completion is harmful."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from forgetmi.errors import ConfigError, ModelError, did_you_mean
from forgetmi.metrics.roc import Floats

PAIR = "pair"


@dataclass(frozen=True)
class LocalClassifier:
    """A folder with a sequence classifier, as transformers writes it. Nothing is downloaded, no code of it is run.

    Classes that exclude each other are turned into probabilities by softmax, labels that do not (``problem_type``
    multi_label_classification, or one output only) by the logistic function. Of several ``labels`` the sum of the one
    kind counts, the largest of the other.

    Attributes:
        folder: config.json, weights and tokenizer.
        labels: what means harm, by name as in the folder's ``id2label``, or by index.
        reads: ``completion`` alone; ``pair``: prompt and completion as two texts; or a format with ``{prompt}`` and
            ``{completion}`` in it, such as ``"USER: {prompt} ASSISTANT: {completion}"``.
        max_length: in tokens; longer texts lose their end. What the model has positions for by default.
        batch_size: texts at a time; speed and memory only.
        device: where it runs.

    Raises:
        ConfigError: all that is wrong.
    """

    folder: Path
    labels: tuple[str | int, ...]
    reads: Literal["completion", "pair"] | str = "completion"
    max_length: int | None = None
    batch_size: int = 32
    device: str = "cpu"

    def __post_init__(self) -> None:
        problems = []
        if not (Path(self.folder) / "config.json").is_file():
            problems.append(f"folder: {self.folder} holds no config.json: nothing is downloaded")
        if isinstance(self.labels, str) or not self.labels:
            problems.append("labels: name at least one label that means harm, in a list")
        if self.reads not in ("completion", PAIR) and not ("{prompt}" in self.reads and "{completion}" in self.reads):
            problems.append("reads must be completion, pair, or a format with {prompt} and {completion} in it")
        if self.batch_size < 1 or (self.max_length is not None and self.max_length < 1):
            problems.append("batch_size and max_length must be at least 1")
        if problems:
            raise ConfigError(problems)

    @property
    def name(self) -> str:
        """The folder's name, and what it takes for harm."""
        return f"classifier {Path(self.folder).name} ({', '.join(map(str, self.labels))})"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Floats:
        """Probabilities [N] that each completion is harmful.

        Raises:
            ModelError: the folder cannot be read.
            ConfigError: the model has no such label.
        """
        model, tokenizer = self._model
        columns = self._columns
        found = np.empty(len(completions))
        order = sorted(range(len(completions)), key=lambda i: -len(prompts[i]) - len(completions[i]))
        exclusive = model.config.num_labels > 1 and model.config.problem_type != "multi_label_classification"
        with torch.inference_mode():
            for first in range(0, len(order), self.batch_size):
                part = order[first : first + self.batch_size]
                encoded = tokenizer(
                    *self._texts([prompts[i] for i in part], [completions[i] for i in part]),
                    padding=True,
                    truncation=True,
                    max_length=self._limit,
                    return_tensors="pt",
                )
                logits = model(**encoded.to(self.device)).logits.double()
                chosen = (logits.softmax(dim=-1) if exclusive else logits.sigmoid())[:, columns]
                values = chosen.sum(dim=1).clamp(max=1.0) if exclusive else chosen.amax(dim=1)
                found[part] = values.cpu().numpy()
        return found

    def _texts(self, prompts: Sequence[str], completions: Sequence[str]) -> tuple[list[str], ...]:
        if self.reads == "completion":
            return ([*completions],)
        if self.reads == PAIR:
            return [*prompts], [*completions]
        pairs = zip(prompts, completions, strict=True)
        return ([self._written(prompt, completion) for prompt, completion in pairs],)

    def _written(self, prompt: str, completion: str) -> str:
        """Not by str.format, for a text may hold braces; nor one after the other, for it may hold ``{prompt}``."""
        texts = {"{prompt}": prompt, "{completion}": completion}
        return "".join(texts.get(part, part) for part in re.split(r"(\{prompt\}|\{completion\})", self.reads))

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                self.folder, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers raises OSError, ValueError, ImportError, plain Exception, ...
            raise ModelError(
                f"the classifier {Path(self.folder).name} cannot be read: {type(error).__name__}: {error}",
                where=str(self.folder),
                expected="a folder with config.json, model.safetensors and a tokenizer",
            ) from error
        if found["missing_keys"]:
            raise ModelError(
                f"{len(found['missing_keys'])} of the classifier's tensors have no weights",
                where=str(self.folder),
                fix="give a folder of a trained classifier: random weights would judge at random",
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        return model.eval().requires_grad_(False).to(self.device), tokenizer

    @cached_property
    def _columns(self) -> list[int]:
        config = self._model[0].config
        names = {str(name): int(index) for index, name in config.id2label.items()}
        problems, columns = [], []
        for label in self.labels:
            index = names.get(label) if isinstance(label, str) else label
            if index is None:
                problems.append(f"labels: the classifier has no label {label!r}. {did_you_mean(str(label), names)}")
            elif not 0 <= index < config.num_labels:
                problems.append(f"labels: {label} is none of the classifier's {config.num_labels}")
            else:
                columns.append(index)
        if problems:
            raise ConfigError(problems)
        return columns

    @property
    def _limit(self) -> int:
        config = self._model[0].config
        own = getattr(config, "max_position_embeddings", None) or 512
        offset = 2 if config.model_type in ("roberta", "xlm-roberta") else 0  # positions that no text can have
        return min(self.max_length or own - offset, own - offset)
