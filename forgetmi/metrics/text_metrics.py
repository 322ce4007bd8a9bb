"""Every metric of a language model on some records, in three passes: their tokens, every offset, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError
from forgetmi.metrics.extraction_likelihood import extraction_likelihood
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.fluency import n_gram_entropy, repetition
from forgetmi.metrics.generation import Decoding, continue_texts, prompts_of
from forgetmi.metrics.keywords import keyword_accuracy, keyword_confidence, keyword_mask
from forgetmi.metrics.memorisation import (
    exact_memorisation,
    extraction_strength,
    hardly_known,
    known_by_heart,
    verbatim_prefix,
)
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.rouge import rouge_of_samples, verbatim_continuation
from forgetmi.metrics.token_signals import TokenSignals, mean_nll, perplexity, probability, token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask


@dataclass(frozen=True)
class TextMetricOptions:
    """Which metrics, and how.

    Attributes:
        extraction_likelihood: the n of EL_n; 0: not at all. It asks for a continuation from every token that the model
            would not have written itself.
        keywords: whether words that identify somebody are looked at on their own.
        decoding: how answers are written; ``None``: nothing is written.
        prefix: the share of a plain text that is given before the model goes on with it.
        batch_size: speed and memory only.
    """

    extraction_likelihood: int = 10
    keywords: bool = True
    decoding: Decoding | None = field(default_factory=Decoding)
    prefix: float = 0.5
    batch_size: int = 32

    def __post_init__(self) -> None:
        problems = []
        if self.extraction_likelihood < 0:
            problems.append(f"extraction_likelihood must be at least 0, not {self.extraction_likelihood}")
        if not 0.0 < self.prefix < 1.0:
            problems.append(f"prefix must lie in (0, 1), not {self.prefix}")
        if self.batch_size < 1:
            problems.append(f"batch_size must be at least 1, not {self.batch_size}")
        if problems:
            raise ConfigError(problems)


def text_metrics(
    model: CausalLM,
    task: CausalLMTask,
    loader: Loader,
    indices: Sequence[int],
    device: torch.device,
    options: TextMetricOptions,
    *,
    seed: int,
    useful: bool = False,
    tokens: TokenSignals | None = None,
) -> list[PerExample]:
    """Every metric of these records, N values each.

    Args:
        model: left as it is.
        task, loader: score it and give the records, whose modality is a :class:`DialogueModality`.
        indices: positions, N of them.
        device: where the model is.
        options: which.
        seed: of sampled answers.
        useful: the records are to be known: what speaks of memory in forgotten records speaks of usefulness in these.
        tokens: the pass over these records' tokens, where it was made already.
    """
    modality = loader.modalities[task.modality]
    assert isinstance(modality, DialogueModality)  # who calls has made sure
    values = [loader.record(index).value(task.modality) for index in indices]
    if tokens is None:
        tokens = token_signals(model, task, loader.batches(indices, options.batch_size), device)
    found = token_metrics(tokens, modality, values, keywords=options.keywords)
    found += written_metrics(model, task, loader, indices, device, options, seed=seed)
    return [turned(metric) for metric in found] if useful else found


def token_metrics(
    tokens: TokenSignals, modality: DialogueModality, values: Sequence[Any], *, keywords: bool = True
) -> list[PerExample]:
    """Those that need the pass over the true tokens and nothing else.

    Args:
        tokens: of N records.
        modality: which made them.
        values: of the same records.
        keywords: whether words that identify somebody are looked at on their own.
    """
    found = [metric(tokens) for metric in _OF_TOKENS]
    if keywords:
        mask = keyword_mask(modality, values)
        found += [keyword_accuracy(tokens, mask), keyword_confidence(tokens, mask)]
    return found


def written_metrics(
    model: CausalLM,
    task: CausalLMTask,
    loader: Loader,
    indices: Sequence[int],
    device: torch.device,
    options: TextMetricOptions,
    *,
    seed: int,
) -> list[PerExample]:
    """Those for which the model writes: extraction likelihood, and ROUGE and fluency of answers or continuations.

    Arguments as of :func:`text_metrics`.
    """
    modality = loader.modalities[task.modality]
    assert isinstance(modality, DialogueModality)
    found = []
    if options.extraction_likelihood:
        batches = loader.batches(indices, options.batch_size)
        likelihoods = extraction_likelihood(model, task, batches, device, max_n=options.extraction_likelihood)
        found.append(likelihoods.metric(options.extraction_likelihood))
    if options.decoding is None:
        return found
    values = [loader.record(index).value(task.modality) for index in indices]
    decoding = options.decoding
    settings: dict[str, Any] = {"seed": seed, "batch_size": options.batch_size}
    if any(isinstance(value, str) for value in values):
        texts = [value if isinstance(value, str) else value["answer"] for value in values]
        tokenizer = modality.tokenizer
        return [*found, verbatim_continuation(model, tokenizer, texts, decoding, prefix=options.prefix, **settings)]
    written = continue_texts(model, modality.tokenizer, prompts_of(modality, values), decoding, **settings)
    answers = [value["answer"] for value in values]
    return [
        *found,
        rouge_of_samples("answer", answers, written, decoding),
        n_gram_entropy(written),
        repetition(written),
    ]


def turned(metric: PerExample) -> PerExample:
    """The same of records that are to be known."""
    return replace(metric, direction=_TURNED.get(metric.direction, metric.direction))


_TURNED: dict[Direction, Direction] = {"remembers_above": "useful_above", "remembers_below": "useful_below"}
_OF_TOKENS: tuple[Callable[[TokenSignals], PerExample], ...] = (
    mean_nll,
    probability,
    perplexity,
    exact_memorisation,
    known_by_heart,
    hardly_known,
    extraction_strength,
    verbatim_prefix,
)
