"""Multiple-choice questions put to a language model: the likelihood of each option, see
:mod:`forgetmi.metrics.multiple_choice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetmi.batch import Batch
from forgetmi.data_adapters.wmdp import LETTERS
from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.metrics.generation import prompt_tokens
from forgetmi.metrics.multiple_choice import Asking, Choices, Question
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.shared_prefix import SharedPrefixTask, can_share, score_examples
from forgetmi.metrics.token_signals import TokenSignals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.modalities.tokens import TokenExample, TokenModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.divergence import wide
from forgetmi.training.modes import scoring

_TASK = CausalLMTask(modality="tokens")


def score_choices(
    model: CausalLM,
    tokenizer: LMTokenizer,
    questions: Sequence[Question],
    asking: Asking | None = None,
    *,
    examples: Sequence[Question] = (),
    batch_size: int = 16,
) -> Choices:
    """How likely the model finds each option. Batch size, padding and the order of the questions change nothing.

    Args:
        model: where it stands; left in the mode it came in.
        tokenizer: the model's.
        questions: N of them.
        asking: how; by default by letter without examples.
        examples: from which ``asking.shots`` are taken.
        batch_size: sequences scored at a time; speed and memory only.

    Raises:
        ConfigError: ``batch_size`` below 1.
        DataError: no question, too few examples, or a prompt that does not fit into the model.
        ModelError: a letter is not one token of its own, or the model's scores are not finite.
    """
    asking = asking or Asking()
    if not questions:
        raise DataError("there is no question to be asked")
    if batch_size < 1:
        raise ConfigError([f"batch_size must be at least 1, not {batch_size}"])
    prompts = asking.prompts(questions, examples)
    if asking.form == "letter":
        # Questions of a subject have their examples in common: those go through the model once a batch.
        task = SharedPrefixTask(modality="tokens") if asking.shots and can_share(model) else _TASK
        found = _letters(model, tokenizer, task, prompts, max(len(q.choices) for q in questions), batch_size)
    else:
        found = _texts(model, tokenizer, prompts, questions, asking.normalise, batch_size)
    offered = np.arange(found.shape[1]) < np.array([[len(q.choices)] for q in questions])
    truth = np.array([q.answer for q in questions], dtype=np.int64)
    return Choices(np.where(offered, found, -np.inf), truth, tuple(q.subject for q in questions), asking.words)


def score_values(model: CausalLM, modality: TokenModality, values: Sequence[Any], batch_size: int) -> TokenSignals:
    """Signals of what a modality reads (texts, prompts with answers), in their order; what they have in common is
    scored once.

    Raises:
        DataError: what the modality refuses, or a sequence that does not fit into the model.
    """
    examples = [modality.prepare(value) for value in values]
    _check_lengths(model, [len(example.ids) for example in examples])
    return score_examples(model, modality, examples, batch_size=batch_size)


def _texts(
    model: CausalLM,
    tokenizer: LMTokenizer,
    prompts: Sequence[str],
    questions: Sequence[Question],
    normalise: str,
    batch_size: int,
) -> Floats:
    """[N, K] log p of the options' texts."""
    modality = DialogueModality(tokenizer, format="{prompt} ")
    places = [(row, column) for row, q in enumerate(questions) for column in range(len(q.choices))]
    values = [{"prompt": prompts[row], "answer": questions[row].choices[column]} for row, column in places]
    # The token that ends an answer is no part of the option.
    log_p = -score_values(model, modality, values, batch_size).without_last().nll.sum(axis=1)
    if normalise == "bytes":
        log_p = log_p / np.array([len(value["answer"].encode()) for value in values])
    found = np.full((len(questions), max(len(q.choices) for q in questions)), -np.inf)
    found[tuple(np.array(places).T)] = log_p
    return found


def _letters(
    model: CausalLM,
    tokenizer: LMTokenizer,
    task: CausalLMTask,
    prompts: Sequence[str],
    n_letters: int,
    batch_size: int,
) -> Floats:
    """[N, K] log p of the letters after each prompt."""
    letters = torch.tensor(_letter_ids(tokenizer, n_letters), device=model.lm.device)
    modality = TokenModality(tokenizer.pad_id)
    ids = [torch.tensor(prompt_tokens(tokenizer, prompt, special=True)) for prompt in prompts]
    _check_lengths(model, [len(row) for row in ids])
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    shared = isinstance(task, SharedPrefixTask)
    if shared:
        order.sort(key=lambda i: ids[i].tolist())  # what begins alike stands together
    found = np.empty((len(ids), n_letters))
    with scoring(model):
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            # Trees leave out a text's last token, which predicts nothing: here it is any letter.
            texts = [torch.cat([ids[i], letters[:1].cpu()]) if shared else ids[i] for i in part]
            batch = _batch(modality, [TokenExample(text, text) for text in texts]).to(model.lm.device)
            lengths = torch.tensor([len(ids[i]) for i in part], device=model.lm.device)
            width = max(map(len, texts))
            last = torch.arange(width, device=model.lm.device) == lengths[:, None] - 1
            rows, read = task.output(model, batch).rows(last)
            found[part] = _log_p(read(rows), letters).cpu().numpy()
    if not np.isfinite(found).all():
        raise ModelError(
            "the likelihoods of some options are not finite",
            expected="finite scores",
            fix="the model is broken (diverged training, damaged weights): do not use it or its audit",
        )
    return found


def _log_p(logits: Tensor, tokens: Tensor) -> Tensor:
    return wide(logits).log_softmax(dim=-1)[:, tokens].double()


def _letter_ids(tokenizer: LMTokenizer, n_letters: int) -> list[int]:
    """The token that each letter is behind ``Answer:`` and a space."""
    before = tokenizer.encode("Answer:", special=False)[0]
    found = [tokenizer.encode(f"Answer: {letter}", special=False)[0] for letter in LETTERS[:n_letters]]
    alone = all(ids[:-1] == before for ids in found)
    if not alone or len({ids[-1] for ids in found}) < n_letters:
        raise ModelError(
            "the tokenizer does not write the options' letters as one token each",
            expected=f"a token of its own for each of {', '.join(LETTERS[:n_letters])} behind 'Answer:'",
            fix="score the options' texts instead: form: text",
        )
    return [ids[-1] for ids in found]


def _check_lengths(model: CausalLM, lengths: Sequence[int]) -> None:
    limit = getattr(model.lm.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and max(lengths) > limit:
        raise DataError(
            f"{sum(length > limit for length in lengths)} of {len(lengths)} sequences do not fit into the model: the "
            f"longest has {max(lengths)} tokens",
            expected=f"at most {limit}",
            fix="give fewer examples before each question, or leave out what is too long",
        )


def _batch(modality: TokenModality, examples: Sequence[TokenExample]) -> Batch:
    present = torch.ones(len(examples), dtype=torch.bool)
    return Batch({"tokens": modality.collate(examples)}, {"tokens": present}, None, torch.arange(len(examples)))
