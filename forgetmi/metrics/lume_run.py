"""A model put through SemEval-2025 task 4: what it writes after LUME's inputs, and its loss on whole documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from forgetmi.errors import DataError
from forgetmi.metrics.choice_scoring import score_values
from forgetmi.metrics.generation import Decoding, continue_texts, prompt_tokens
from forgetmi.metrics.lume import AWARD_GATE, LossAttack, LumeScore, TaskScores, form_of, loss_attack, score_outputs
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.token_signals import likelihood
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.records import RecordDataset

DECODING = Decoding(max_new_tokens=256)
# Blanks that transformers took away before marks when the task was run ("clean_up_tokenization_spaces").
_CLEANED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


def lume_score(
    model: CausalLM,
    tokenizer: LMTokenizer,
    tasks: RecordDataset,
    documents: RecordDataset | None = None,
    *,
    rng: np.random.Generator,
    mmlu: float | None = None,
    gate: float = AWARD_GATE,
    decoding: Decoding = DECODING,
    batch_size: int = 32,
    progress: bool = False,
) -> LumeScore:
    """The whole score of a model.

    Args:
        model: left in the mode it came in.
        tokenizer: the model's.
        tasks: of the adapter ``lume``.
        documents: of the adapter ``lume`` with ``part: mia``; without them there is no attack and no final score.
        rng: of the attack's interval.
        mmlu: accuracy, for instance ``score_choices(...).accuracy().values.mean()``.
        gate: see :data:`~forgetmi.metrics.lume.AWARD_GATE`.
        decoding: of what is written; greedy, 256 tokens, by default.
        batch_size: speed and memory only.
        progress: show how far it is.

    Raises:
        DataError: records of another source, or a prompt or document that does not fit into the model.
        ModelError: the model's scores are not finite.
    """
    attack = None if documents is None else attack_documents(model, tokenizer, documents, rng, batch_size=batch_size)
    written = write_outputs(model, tokenizer, tasks, decoding=decoding, batch_size=batch_size, progress=progress)
    return LumeScore(written, attack, mmlu, gate)


def write_outputs(
    model: CausalLM,
    tokenizer: LMTokenizer,
    dataset: RecordDataset,
    indices: Iterable[int] | None = None,
    *,
    decoding: Decoding = DECODING,
    clean_up: bool = True,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> TaskScores:
    """What the model writes after each row's raw input, and the cells of it.

    Args:
        model, tokenizer, batch_size, progress: as :func:`lume_score`.
        dataset: of the adapter ``lume``.
        indices: which of its records; all by default.
        decoding: greedy and 256 tokens in the task; more than one sample is refused.
        clean_up: take away blanks before marks, as the task's script does.
        seed: of sampled outputs.

    Raises:
        DataError: records of another source, an id whose number has two digits, or more than one sample.
    """
    if decoding.samples != 1:
        raise DataError(f"{decoding.samples} samples of each row were asked for", expected="one")
    records = [dataset[i] for i in (range(len(dataset)) if indices is None else indices)]
    if any(not {"form", "task", "source_split"} <= set(record.attributes) for record in records):
        raise DataError(f"the records of {dataset.name} are no rows of LUME's tasks", fix="use the adapter lume")
    for record in records:
        form_of(record.sample_id)  # an id that is none is said before anything is written
    values = [record.value("dialogue") for record in records]
    prompts = [value["prompt"] for value in values]
    found = continue_texts(model, tokenizer, prompts, decoding, seed=seed, batch_size=batch_size, progress=progress)
    outputs = [_clean(samples[0]) if clean_up else samples[0] for samples in found]
    rows = [
        {
            "id": record.sample_id,
            "source": record.attributes["source_split"],
            "task": record.attributes["task"],
            "document": record.patient_id,
            "output": value["answer"],
        }
        for record, value in zip(records, values, strict=True)
    ]
    return score_outputs(rows, outputs)


def attack_documents(
    model: CausalLM,
    tokenizer: LMTokenizer,
    documents: RecordDataset,
    rng: np.random.Generator,
    *,
    max_length: int | None = None,
    batch_size: int = 8,
) -> LossAttack:
    """The loss attack on the members and non-members of the adapter ``lume`` with ``part: mia``.

    Args:
        model, tokenizer, batch_size: as :func:`lume_score`.
        documents: members are its train records.
        rng: of the interval.
        max_length: longer documents lose their end; by default one that does not fit into the model is an error.

    Raises:
        DataError: records without text, or a document that does not fit.
    """
    texts = [record.value("text") for record in documents]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"the records of {documents.name} are no documents", fix="use the adapter lume with part: mia")
    losses = document_nll(model, tokenizer, texts, max_length=max_length, batch_size=batch_size)
    member = np.array([record.split == "train" for record in documents])
    return loss_attack(losses[member], losses[~member], rng)


def document_nll(
    model: CausalLM,
    tokenizer: LMTokenizer,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_size: int = 8,
) -> Floats:
    """[N]: the mean over a text's tokens, but the first, of -log p, in nats: the loss of transformers on the text.

    The token that ends a text is not part of it.
    """
    tokens = [prompt_tokens(tokenizer, text, special=True)[:max_length] for text in texts]
    values = [{"ids": ids, "answer": 0} for ids in tokens]
    return -likelihood(score_values(model, TokenModality(tokenizer.pad_id), values, batch_size))


def _clean(text: str) -> str:
    for mark in _CLEANED:
        text = text.replace(mark, mark[1:])
        if mark == " ,":  # in the order in which the script's library does it
            text = text.replace(" ' ", "'")
    return text
