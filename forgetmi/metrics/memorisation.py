"""What a language model gives away: how much of an answer it has by heart, and what it writes when it is asked.

With x the prompt, y_1 ... y_T the answer's tokens, and the likeliest token at t given *the true* tokens before it:

===========  ==========================================================================================================
accuracy     share of t whose likeliest token is y_t: exact memorisation, g(x) of "To Each (Textual Sequence) Its Own"
             (Barbulescu & Triantafillou 2024, arXiv 2405.03097), memorisation accuracy of Tirumala et al. 2022
verbatim     tokens before the first t at which it is another. Greedy decoding writes exactly these, and then leaves the
             text: so a prefix is *extracted* (Carlini et al. 2021 and 2023, arXiv 2202.07646) where it is no longer
             than this, and no text need be generated to know it
===========  ==========================================================================================================

What is written after the first wrong token is another question; :func:`greedy_answers` asks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import DataError
from forgetmi.metrics.roc import Floats, Ints
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.tokens import IGNORED
from forgetmi.training.modes import scoring


@dataclass(frozen=True)
class Memorised:
    """How much of each record's answer a model has by heart.

    Attributes:
        right: tokens that are the likeliest one, given the true ones before [N].
        verbatim: tokens before the first that is not [N].
        n_tokens: of the answer [N].
    """

    right: Ints
    verbatim: Ints
    n_tokens: Ints

    @property
    def accuracy(self) -> Floats:
        """Share of the tokens that are right [N]."""
        return np.asarray(self.right / self.n_tokens, dtype=np.float64)

    @property
    def extracted(self) -> NDArray[np.bool_]:
        """Whether greedy decoding from the prompt writes the whole answer [N]."""
        return np.asarray(self.verbatim == self.n_tokens, dtype=np.bool_)


def memorised(model: nn.Module, task: CausalLMTask, batches: Iterable[Batch], device: torch.device) -> Memorised:
    """Measure the records of some batches, in their order; batch size and padding change nothing.

    Args:
        model: left in the mode it came in.
        task: says where the answers are.
        batches: N records in all.
        device: where the model is.

    Raises:
        DataError: a record has no answer token.
    """
    columns: list[Tensor] = []
    with scoring(model):
        for batch in batches:
            task.check_labels(batch)
            moved = batch.to(device)
            right, there = task.over_tokens(_is_likeliest, moved, task.output(model, moved))
            unbroken = torch.where(there, right, 1.0).cumprod(dim=1) * there
            columns.append(torch.stack([right.sum(dim=1), unbroken.sum(dim=1), there.sum(dim=1)]).long().cpu())
    if not columns:
        raise DataError("there is no record whose memorisation could be measured")
    right, verbatim, n_tokens = torch.cat(columns, dim=1).numpy()
    return Memorised(right, verbatim, n_tokens)


def greedy_answers(model: CausalLM, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the model writes after each record's prompt, its likeliest token each time, beside what is true.

    Plain greedy decoding: what a model's folder says of sampling, penalties and forbidden tokens plays no part, and a
    token that ends a text does not end it here, so that every true token has one beside it.

    Args:
        model: left in the mode it came in.
        tokens: ``input_ids``, ``attention_mask`` and ``labels`` [B, T] of a batch, on the model's device; each record
            must have a token before its answer.

    Returns:
        (written [B, L], true [B, L]), L the longest answer of the batch; ``true`` is -100 behind a shorter one.

    Raises:
        DataError: a record has no answer, or nothing before it.
    """
    ids, there = tokens["input_ids"], tokens["attention_mask"].bool()
    answer = tokens["labels"] != IGNORED
    n_prompt, n_answer = (there & (answer.cumsum(dim=1) == 0)).sum(dim=1), answer.sum(dim=1)
    if bool((n_answer == 0).any()) or bool((n_prompt == 0).any()):
        raise DataError("a record to be continued has no answer, or no token before it", expected="prompt and answer")
    longest, width = int(n_answer.max()), int(n_prompt.max())
    true = ids.new_full((len(ids), longest), IGNORED)
    true[torch.arange(longest, device=ids.device) < n_answer[:, None]] = ids[answer]
    # Prompts end at one place, so that what is written begins at one: padding is on the left.
    filled = torch.arange(width, device=ids.device) >= width - n_prompt[:, None]
    prompts = torch.zeros_like(ids[:, :1]).expand(-1, width).clone()
    prompts[filled] = ids[there & (answer.cumsum(dim=1) == 0)]
    with scoring(model), _plain_decoding(model.lm, longest):
        written = model.lm.generate(input_ids=prompts, attention_mask=filled.long())
    return written[:, width:], true


def matching_share(written: Tensor, true: Tensor) -> Tensor:
    """[B]: the share of the true tokens that were written at their own place.

    Args:
        written, true: [B, L] of :func:`greedy_answers`.
    """
    counted = true != IGNORED
    return ((written == true) & counted).sum(dim=1) / counted.sum(dim=1)


def _is_likeliest(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == labels).float()


@contextmanager
def _plain_decoding(lm: nn.Module, length: int) -> Iterator[None]:
    """A model's settings of generation are defaults of every call: they are put aside."""
    from transformers import GenerationConfig

    own = lm.generation_config
    lm.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=length, pad_token_id=0, eos_token_id=None, use_cache=True
    )  # type: ignore[assignment]
    try:
        yield
    finally:
        lm.generation_config = own
