"""Records as an attacker asks for them: what stands before the secret, and what the secret is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from forgetmi.attacks.extraction.identifiers import identifiers_of, stands_in
from forgetmi.attacks.extraction.templates import Template
from forgetmi.metrics.generation import Decoding, continue_tokens
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.rouge import rouge
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM

_STEP = 32  # continuations of nearly one length are written together


@dataclass(frozen=True)
class Cut:
    """A record in two parts, as tokens.

    Attributes:
        before: what the model reads before the secret.
        after: the secret, without the token that ends it.
    """

    before: tuple[int, ...] = field(repr=False)
    after: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class Secret:
    """What would be a success: the true text, and the identifiers in it.

    Attributes:
        text: what is to be reconstructed; as much of it as may be written.
        identifiers: of the whole of it.
    """

    text: str = field(repr=False)
    identifiers: tuple[str, ...] = field(repr=False)


def cut_answer(modality: DialogueModality, value: Any) -> Cut:
    """Prompt and answer as the model reads them; a plain text is an answer to nothing.

    Where the answer's first word joins with a space before it, that token is the answer's.
    """
    return _cut(modality, *modality.written(value))


def cut_as_asked(modality: DialogueModality, value: Any, template: Template, opening_words: int) -> Cut:
    """The same record asked for in a template's words.

    A plain text is asked for by its first ``opening_words`` words, half of them at most; the rest is the secret.
    """
    if isinstance(value, str):
        opening, rest = split_text(value, opening_words)
        asked = _join(template.ask(opening), template.answer)
        return cut_after(modality, asked + rest, asked)
    answer = _join(template.answer, value["answer"]) if template.answer else value["answer"]
    return cut_after(modality, {"prompt": template.ask(value["prompt"]), "answer": answer}, template.answer)


def cut_after(modality: DialogueModality, value: Any, given: str) -> Cut:
    """A record whose answer (or plain text) begins with words that are given: they stand before the secret."""
    text, start, special = modality.written(value)
    if given:
        place = text.find(given, start)
        start = start if place < 0 else place + len(given)  # < 0: the chat template changes it
    return _cut(modality, text, start, special)


def split_text(text: str, words: int) -> tuple[str, str]:
    """The first so many words of a text, half of them at most but one at least, and the rest of it."""
    starts = [
        place for place, letter in enumerate(text) if not letter.isspace() and (text[:place] or " ")[-1].isspace()
    ]
    taken = max(1, min(words, len(starts) // 2))
    end = starts[taken] if taken < len(starts) else len(text)
    opening = text[:end].rstrip()
    return opening, text[len(opening) :]


def secret_of(modality: DialogueModality, value: Any, opening_words: int, kinds: Iterable[str], longest: int) -> Secret:
    """What is to be found out of a record; see :class:`Secret`.

    Args:
        modality: which tokenizes.
        value: the record's.
        opening_words: see :func:`cut_as_asked`; identifiers in the opening are no secret.
        kinds: of identifiers that are looked for.
        longest: tokens that may be written.
    """
    spans = identifiers_of(value, kinds)
    if isinstance(value, str):
        opening, text = split_text(value, opening_words)
        named = [value[span.start : span.end] for span in spans if span.start >= len(opening)]
        named = [written for written in named if not stands_in(written, opening)]
    else:
        text = value["answer"]
        named = [text[span.start : span.end] for span in spans]
    return Secret(first_tokens(modality, text, longest), tuple(named))


def first_tokens(modality: DialogueModality, text: str, count: int) -> str:
    """As much of a text as so many tokens hold."""
    places = modality.tokenizer.encode(text, special=False)[1]
    return text[: places[count - 1][1]] if len(places) > count else text


def fitted(model: nn.Module, cuts: Sequence[Cut]) -> list[Cut]:
    """Secrets without the tokens that do not fit into the model behind what stands before them."""
    limit = _limit(model)
    if limit is None:
        return list(cuts)
    return [Cut(cut.before, cut.after[: max(0, limit - len(cut.before))]) for cut in cuts]


def write(
    model: CausalLM,
    modality: DialogueModality,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    decoding: Decoding,
    *,
    seed: int,
    batch_size: int,
    progress: bool = False,
) -> list[list[list[int]] | None]:
    """What a model writes after each prompt, each as long as it is asked for and as the model allows.

    Args:
        model: left in the mode it came in.
        modality: with the model's tokenizer.
        prompts: ids of N.
        lengths: tokens to be written after each [N].
        decoding: how, but for ``max_new_tokens``.
        seed: of the samples.
        batch_size: continuations at a time.
        progress: show how far it is.

    Returns:
        [N] samples of tokens; ``None`` where nothing fits behind a prompt, or where there is no prompt.
    """
    limit = _limit(model)
    groups: dict[int, list[int]] = {}
    for position, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        room = math.inf if limit is None else limit - len(prompt)
        if prompt and length > 0 and room > 0:
            groups.setdefault(int(min(_STEP * math.ceil(length / _STEP), room)), []).append(position)
    found: list[list[list[int]] | None] = [None] * len(prompts)
    for longest, group in sorted(groups.items(), reverse=True):
        texts = continue_tokens(
            model,
            [prompts[position] for position in group],
            replace(decoding, max_new_tokens=longest),
            eos_id=modality.tokenizer.eos_id,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        for position, samples in zip(group, texts, strict=True):
            found[position] = [tokens[: lengths[position]] for tokens in samples]
    return found


def judge(secrets: Sequence[Secret], written: Sequence[Sequence[str] | None]) -> dict[str, Floats]:
    """How much of each secret stands in each text that was written for it.

    Args:
        secrets: N.
        written: [N] texts, equally many each; ``None`` where nothing could be asked.

    Returns:
        ``identifiers``: the share of the secret's identifiers that stand in the text, as words of their own, NaN where
        it has none; ``answer``: ROUGE-L recall of the secret's text; each [N, samples].
    """
    width = max((len(texts) for texts in written if texts is not None), default=1)
    found = {name: np.full((len(secrets), width), np.nan) for name in ("identifiers", "answer")}
    asked = [n for n, texts in enumerate(written) if texts is not None]
    for sample in range(width if asked else 0):
        texts = [(written[n] or [])[sample] for n in asked]
        found["answer"][asked, sample] = rouge([secrets[n].text for n in asked], texts)
        found["identifiers"][asked, sample] = [
            np.mean([stands_in(one, text) for one in secrets[n].identifiers]) if secrets[n].identifiers else np.nan
            for n, text in zip(asked, texts, strict=True)
        ]
    return found


def _limit(model: nn.Module) -> int | None:
    """How many tokens a model reads at most, where it says so."""
    if not isinstance(model, CausalLM):
        return None
    return getattr(model.lm.config.get_text_config(), "max_position_embeddings", None)


def _cut(modality: DialogueModality, text: str, start: int, special: bool) -> Cut:
    """A text's tokens up to a place, and those that reach behind it up to the token that ends it."""
    ids, places = modality.tokenizer.encode(text, special=special)
    behind = [n for n, (_, last) in enumerate(places) if last > start]
    if not behind:
        return Cut(tuple(ids), ())
    first = behind[0]
    ends = [n for n in behind if ids[n] == modality.tokenizer.eos_id]
    end = ends[0] if ends else behind[-1] + 1
    if modality.max_length is not None:
        end = min(end, modality.max_length)
    return Cut(tuple(ids[:first]), tuple(ids[first:end]))


def _join(first: str, second: str) -> str:
    return f"{first} {second}" if second and not first[-1:].isspace() else first + second
