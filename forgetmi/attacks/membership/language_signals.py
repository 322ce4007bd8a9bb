"""The signals that membership attacks on language models read: one pass over the tokens gives all but two of them.

=====================  ===========================================================================  ==================
signal                 of a record with answer tokens y_1 ... y_T                                   members have it
=====================  ===========================================================================  ==================
``loss``               mean of -log p_t(y_t), in nats                                               lower
``zlib``               -loss / bytes of the answer's text, compressed                               higher
``min_k``              mean of its k least likely tokens' log p_t(y_t)                              higher
``min_k_plus_plus``    the same of (log p_t(y_t) - mu_t) / sigma_t                                  higher
``gradient_norm``      norm of the gradient of ``loss``; see :mod:`forgetmi.attacks.gradient_norms` lower
``perturbation``       d = mean log p of the answer - the mean of that over texts like it           higher (or far)
=====================  ===========================================================================  ==================

``gradient_norm`` takes one pass more, with gradients, and ``perturbation`` one for each perturbed version of the texts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.gradient_norms import GradientOptions, gradient_norms
from forgetmi.attacks.membership.perturbations import Filler, PerturbationOptions, perturbed
from forgetmi.attacks.membership.result import LANGUAGE_SIGNALS
from forgetmi.batch import Loader
from forgetmi.errors import AuditError, ConfigError, did_you_mean
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.token_signals import (
    TokenSignals,
    likelihood,
    min_k,
    min_k_plus_plus,
    token_signals,
    zlib_lengths,
    zlib_ratio,
)
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.records import Record
from forgetmi.tasks.causal_lm import CausalLMTask

TOKEN_SIGNALS = ("loss", "zlib", "min_k", "min_k_plus_plus")


@dataclass(frozen=True)
class LanguageSignalOptions:
    """Which signals, and how.

    Attributes:
        names: of the signals.
        k: share of the tokens that ``min_k`` and ``min_k_plus_plus`` look at. (Published: 0.2; MUSE: 0.4.)
        drop_last: leave out the last token of each answer, as some published code does; of ``loss``, ``zlib`` and
            ``min_k*`` only.
        gradient: see :class:`~forgetmi.attacks.gradient_norms.GradientOptions`.
        perturbation: see :class:`~forgetmi.attacks.membership.perturbations.PerturbationOptions`.
    """

    names: tuple[str, ...] = TOKEN_SIGNALS
    k: float = 0.2
    drop_last: bool = False
    gradient: GradientOptions = field(default_factory=GradientOptions)
    perturbation: PerturbationOptions = field(default_factory=PerturbationOptions)

    def __post_init__(self) -> None:
        known = ("loss", *LANGUAGE_SIGNALS)
        problems = [f"names: unknown signal {n!r}. {did_you_mean(n, known)}" for n in self.names if n not in known]
        if not 0 < self.k <= 1:
            problems.append(f"k must be in (0, 1], not {self.k}")
        if problems:
            raise ConfigError(problems)


def language_signals(
    model: nn.Module,
    task: CausalLMTask,
    loader: Loader,
    indices: Sequence[int],
    device: torch.device,
    options: LanguageSignalOptions | None = None,
    *,
    batch_size: int,
    seed: int,
    filler: Filler | None = None,
    tokens: TokenSignals | None = None,
) -> dict[str, Floats]:
    """Signals of these records under a model: name to [N].

    Args:
        model: left as it is.
        task, loader: score it and give the records; their texts, where a signal needs them, too.
        indices: positions, N of them.
        device: where the model is.
        options: see :class:`LanguageSignalOptions`.
        batch_size: changes speed and memory only.
        seed: of the perturbed texts, which are the same for every model.
        filler: of the gaps in perturbed texts; needed for ``perturbation``.
        tokens: the pass over these records' tokens, where it was made already.

    Raises:
        AuditError: a signal needs texts and the records are tokens, or needs a filler and there is none.
        DataError, ModelError: see :func:`~forgetmi.metrics.token_signals.token_signals`.
    """
    options = options or LanguageSignalOptions()
    wanted = options.names
    if "perturbation" in wanted and filler is None:
        raise AuditError(
            "the signal 'perturbation' replaces words, and nothing says by which",
            fix="give a WordLaw of public or retained texts, or a MaskedLMFiller",
        )
    written = answer_texts(loader, indices, task.modality) if {"zlib", "perturbation"} & set(wanted) else []
    if tokens is None and {*TOKEN_SIGNALS, "perturbation"} & set(wanted):
        tokens = token_signals(model, task, loader.batches(indices, batch_size), device)
    found: dict[str, Floats] = {}
    if tokens is not None:
        kept = tokens.without_last() if options.drop_last else tokens
        found |= {
            "loss": -likelihood(kept),
            "min_k": min_k(kept, options.k),
            "min_k_plus_plus": min_k_plus_plus(kept, options.k),
        }
        if "zlib" in wanted:
            found["zlib"] = zlib_ratio(kept, zlib_lengths(written))
        if filler is not None and "perturbation" in wanted:
            likely = [
                likelihood(token_signals(model, task, other.batches(indices, batch_size), device))
                for other in _perturbed_loaders(loader, indices, written, task.modality, filler, options, seed)
            ]
            found["perturbation"] = likelihood(tokens) - np.mean(likely, axis=0)
    if "gradient_norm" in wanted:
        found["gradient_norm"] = gradient_norms(
            model, task, loader.batches(indices, batch_size), device, options.gradient
        )
    return {name: found[name] for name in wanted}


def answer_texts(loader: Loader, indices: Sequence[int], modality: str) -> list[str]:
    """What the records' models are scored on, as text: the answer, or the whole of a plain text.

    Raises:
        AuditError: the records are tokens.
    """
    texts = []
    for index in indices:
        value = loader.record(index).value(modality)
        text = value.get("answer") if isinstance(value, Mapping) else value
        if not isinstance(text, str):
            raise AuditError(
                f"the record at position {index} has no text: its {modality!r} are tokens, or missing",
                expected='a string, or {"prompt": ..., "answer": ...}',
                fix="leave out the signals zlib and perturbation, which read texts",
            )
        texts.append(text)
    return texts


def _perturbed_loaders(
    loader: Loader,
    indices: Sequence[int],
    texts: Sequence[str],
    modality: str,
    filler: Filler,
    options: LanguageSignalOptions,
    seed: int,
) -> Iterator[Loader]:
    """A loader of each perturbed version of the records. One that outgrows the longest input loses its end."""
    keys = [loader.record(index).sample_id for index in indices]
    shortening = {name: _shortening(reader) for name, reader in loader.modalities.items()}
    for number in range(options.perturbation.n):
        others = perturbed(texts, keys, filler, options.perturbation, seed=seed, number=number)
        records = {
            index: _rewritten(loader.record(index), modality, other)
            for index, other in zip(indices, others, strict=True)
        }
        yield Loader(loader.dataset, shortening, cache=False).restricted_to(records)


def _shortening(reader: Any) -> Any:
    if not isinstance(reader, DialogueModality):
        return reader
    other = copy.copy(reader)
    other.on_long = "cut"
    return other


def _rewritten(record: Record, modality: str, text: str) -> Record:
    value = record.value(modality)
    other = {**value, "answer": text} if isinstance(value, Mapping) else text
    return replace(record, modalities={**record.modalities, modality: other})
