"""What an attacker learns by asking a model about a record in several ways: noisy copies, one modality alone.

Costs, in passes of the model over the records (a pass of the scoring that an audit does anyway is one):
:func:`collect_queries` ``n_queries`` passes, noisy texts are read again at each; :func:`collect_by_modality` one pass
a modality, each value read once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Batch, Loader
from forgetmi.errors import AuditError, ConfigError, MethodError, ModelError
from forgetmi.tasks.base import Task
from forgetmi.training.scoring import collect_signals, score_batches


def collect_queries(
    model: nn.Module,
    task: Task,
    loader: Loader,
    indices: Sequence[int],
    *,
    n_queries: int,
    seed: int,
    noise: Mapping[str, Any] | None = None,
    batch_size: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Signals of ``n_queries`` views of each record: the record as it is first, then noisy copies of it.

    The copies are those that Forget-MI's noisy inputs are made by (each modality's own noise, missing modalities stay
    missing). A copy depends on ``(seed, query, sample)`` and on nothing else: not on batch size, order or which other
    records are asked about. Every model is to be asked with the same seed, and with another seed than an unlearning
    method drew its noise from, or the attacker would ask with the very copies that the method was fitted on.

    Args:
        model: left in the mode it came in.
        task: says what the signals are.
        loader: makes the views.
        indices: positions, N of them.
        n_queries: q; with 1 there is no noise.
        seed: of the noise.
        noise: kind of modality to noise options; ``None``, or a kind that it does not name: that modality's default.
        batch_size: changes speed and memory, not the result.
        device: where the model is.

    Returns:
        Signal name to [N, q] or [N, q, ...]: the task's own, and ``"correct"``: 1 where the answer is right, 0 where it
        is wrong (multilabel: the share of known labels answered right, and 1 where none is known, as such a record's
        loss is 0; language models: the share of answer tokens).

    Raises:
        ConfigError: ``n_queries`` below 1, or wrong noise options.
        AuditError: noise is asked for and a modality has none.
        DataError, ModelError: as :func:`~forgetmi.training.scoring.collect_signals`.
    """
    if n_queries < 1:
        raise ConfigError([f"n_queries must be at least 1, not {n_queries}"])

    def views(query: int) -> Iterator[Batch]:
        if query == 0:
            yield from loader.batches(indices, batch_size)
            return
        for start in range(0, len(indices), batch_size):
            yield loader.noisy_batch(indices[start : start + batch_size], noise, seed=seed, epoch=query)

    try:
        asked = [score_batches(model, task, views(query), device, correct=True) for query in range(n_queries)]
    except MethodError as error:  # which speaks of unlearning methods, the usual users of noise
        raise AuditError(
            f"noisy queries cannot be made: {error.what}", fix="ask with one query, without noise"
        ) from error
    return {name: np.stack([signals[name] for signals in asked], axis=1) for name in asked[0]}


def collect_by_modality(
    model: nn.Module, task: Task, loader: Loader, indices: Sequence[int], *, batch_size: int, device: torch.device
) -> dict[str, np.ndarray]:
    """Signals of each record when only one of its modalities is shown, for every modality of the loader.

    Args:
        model: left in the mode it came in. It must be one that takes records with missing modalities.
        task: says what the signals are.
        loader: makes clean batches; a modality that is missing in its version of a record stays missing.
        indices: positions, N of them.
        batch_size: changes speed and memory, not the result.
        device: where the model is.

    Returns:
        ``SIGNAL@MODALITY`` [N, ...] for each of the task's signals, and ``present@MODALITY`` [N], 1 or 0. Where it is
        0 the record lacks the modality, and the signal is what the model says when it is shown nothing.

    Raises:
        AuditError: there is one modality only, or the model does not take a record that lacks another one.
        DataError: as :func:`~forgetmi.training.scoring.collect_signals`.
    """
    if len(loader.modalities) < 2:
        raise AuditError(
            f"the records have one modality, {', '.join(loader.modalities)}: there is no pair to take apart",
            fix="leave out the attack 'cross_modal'",
        )
    records = {index: loader.record(index) for index in indices}
    found: dict[str, np.ndarray] = {}
    for name in loader.modalities:
        alone = loader.restricted_to({index: record.keep_only([name]) for index, record in records.items()})
        try:
            signals = collect_signals(model, task, alone, indices, batch_size=batch_size, device=device)
        except (ModelError, RuntimeError, ValueError, TypeError) as error:
            reason = error.what if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            raise AuditError(
                f"the model cannot be asked with {name!r} alone: {reason}",
                expected="a model that takes records with missing modalities",
                fix="leave out the attack 'cross_modal'",
            ) from error
        found |= {f"{signal}@{name}": values for signal, values in signals.items()}
        found[f"present@{name}"] = np.array([float(records[i].modalities.get(name) is not None) for i in indices])
    return found
