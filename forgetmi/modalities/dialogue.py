"""Texts and answers to questions as tokens of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.modalities.tokens import IGNORED, TokenExample, TokenModality

Value = str | Mapping[str, str]
"""A plain text, every token of which counts; or ``{"prompt": ..., "answer": ...}``, of which the answer does."""

DEFAULT_FORMAT = "Question: {prompt}\nAnswer: "


class DialogueModality(TokenModality):
    """Texts, and prompts with answers, for a causal language model.

    Prompt and answer are tokenized as one text, as the model will read them, and the answer's tokens are those that
    reach into it: where its first word joins with a space before it, that token counts. (Tokenized apart, as in
    published code, it would be lost.) The token that ends an answer counts too.

    Args:
        tokenizer: the model's.
        max_length: of a sequence in tokens; ``None`` for no limit.
        on_long: what becomes of a longer sequence: ``error``; or ``cut``: it loses its end and is counted in
            ``n_cut``, unless nothing of the answer would be left, which is an error too.
        format: a prompt's text, with ``{prompt}`` in it and the answer after it. ``None``: the tokenizer's chat
            template, or :data:`DEFAULT_FORMAT` where it has none.
        system: what a chat begins with, as the system's message; ``None`` for none.
        template_options: more variables of the chat template (``{"date_string": "10 Apr 2025"}``).
        padding: the side on which a batch is filled. On the left, the batch holds ``position_ids`` too.

    Raises:
        ConfigError: all that is wrong.
    """

    kind = "dialogue"

    def __init__(
        self,
        tokenizer: LMTokenizer,
        max_length: int | None = None,
        *,
        on_long: Literal["error", "cut"] = "error",
        format: str | None = None,
        system: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        padding: Literal["right", "left"] = "right",
    ) -> None:
        problems = []
        if format is not None and format.count("{prompt}") != 1:
            problems.append("format must hold {prompt} once")
        chat = format is None and tokenizer.template is not None
        if system is not None and not chat:
            problems.append("system needs a chat template, and a format has none: write it into the format")
        if template_options and not chat:
            problems.append("template_options are for a chat template")
        if problems:
            raise ConfigError(problems)
        super().__init__(tokenizer.pad_id, max_length)
        self.tokenizer, self.on_long, self.format, self.system = tokenizer, on_long, format, system
        self.template_options, self.padding = dict(template_options or {}), padding
        self.n_cut = 0

    def prepare(self, value: Any) -> TokenExample:
        """Ids, and labels at the answer's tokens. A plain text's first token is predicted by nothing: the task's shift
        leaves it out.

        Args:
            value: see :data:`Value`.

        Raises:
            DataError: another form, an empty text or answer, or a sequence that is too long (see ``on_long``).
        """
        ids, counts, _, _, _ = self._tokenized(value)
        return self._limited(ids, counts)

    def answer_places(self, value: Any) -> list[tuple[int, int]]:
        """Where in the answer's text (in a plain text: in it) each of its tokens that is predicted comes from.

        One (start, end) for each label of :meth:`prepare` behind the first token, in characters. A token that joins
        with a space before the answer starts below 0, a template's own tokens lie behind the answer's end, and what has
        no text, as the token that ends it, is (0, 0).

        Args:
            value: see :data:`Value`.

        Raises:
            DataError: as :meth:`prepare`; or the chat template changes the answer's text.
        """
        _, counts, places, text, start = self._tokenized(value)
        answer = value if isinstance(value, str) else value["answer"]
        found = text.find(answer.strip(), start)
        if found < 0:
            raise _changed_by_template()
        first = found - (len(answer) - len(answer.lstrip()))
        kept = [place for place, counted in list(zip(places, counts, strict=True))[1 : self.max_length] if counted]
        return [(begin - first, end - first) if end > begin else (0, 0) for begin, end in kept]

    def written(self, value: Any) -> tuple[str, int, bool]:
        """The text that is tokenized, where in it the answer begins (0: a plain text), and whether the tokenizer is to
        add its special tokens.

        Raises:
            DataError: another form, or an empty text or answer.
        """
        if isinstance(value, str):
            found = str(value), 0, True
        elif isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("prompt", "answer")):
            found = self._written(value["prompt"], value["answer"])
        else:
            raise DataError(
                f"a text was given as {type(value).__name__}", expected='a string, or {"prompt": ..., "answer": ...}'
            )
        if not (value if isinstance(value, str) else value["answer"]).strip():
            raise DataError(
                "a text is empty" if isinstance(value, str) else "an answer is empty",
                fix="give None where a text is missing, so that the mask says so",
            )
        return found

    def answered(self, value: Any, answer: str) -> TokenExample:
        """The example of the same prompt with another answer.

        Raises:
            DataError: the value has no prompt.
        """
        if not isinstance(value, Mapping) or "prompt" not in value:
            raise DataError(
                "a plain text has no question that could be answered otherwise",
                fix="give records of the form {prompt, answer}, or choose a method that needs no other answers",
            )
        return self.prepare({"prompt": value["prompt"], "answer": answer})

    def collate(self, examples: Sequence[TokenExample]) -> dict[str, Tensor]:
        """As :meth:`TokenModality.collate`; padded on the left, with ``position_ids`` [B, T]."""
        made = super().collate(examples)
        if self.padding == "right":
            return made
        width = made["input_ids"].shape[1]
        lengths = made["attention_mask"].sum(dim=1, keepdim=True)
        source = (torch.arange(width) - (width - lengths)) % width  # rows rolled to the right
        moved = {name: tensor.gather(1, source) for name, tensor in made.items()}
        return {**moved, "position_ids": (moved["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)}

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`."""
        return {
            "kind": self.kind,
            "tokenizer": self.tokenizer.to_config(),
            "max_length": self.max_length,
            "on_long": self.on_long,
            "format": self.format,
            "system": self.system,
            "template_options": self.template_options,
            "padding": self.padding,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DialogueModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        return cls(**{**config, "tokenizer": LMTokenizer.from_config(config["tokenizer"])})

    def _tokenized(self, value: Any) -> tuple[list[int], list[bool], list[tuple[int, int]], str, int]:
        """Ids, which of them are the answer's, and where each comes from: in the whole text, in which the answer begins
        at the place given last.
        """
        text, start, special = self.written(value)
        ids, places = self.tokenizer.encode(text, special=special)
        # Special tokens that the tokenizer adds have no place, (0, 0); one at the end is part of what is answered.
        counts = [start == 0 or end > start or (end == 0 and n > 0) for n, (_, end) in enumerate(places)]
        eos = self.tokenizer.eos_id
        # A template ends an answer itself, perhaps with something behind the token.
        if ids[-1:] != [eos] and (special or eos not in [t for t, counted in zip(ids, counts, strict=True) if counted]):
            ids, counts, places = [*ids, eos], [*counts, True], [*places, (0, 0)]
        return ids, counts, places, text, start

    def _written(self, prompt: str, answer: str) -> tuple[str, int, bool]:
        """The whole text, where in it the answer begins, and whether the tokenizer is to add its special tokens."""
        if self.format is not None or self.tokenizer.template is None:
            # Not str.format: a prompt may hold braces.
            before = (self.format or DEFAULT_FORMAT).replace("{prompt}", prompt)
            return before + answer, len(before), True
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": prompt})
        asked = self.tokenizer.render(messages, ask=True, options=self.template_options)
        told = [*messages, {"role": "assistant", "content": answer}]
        whole = self.tokenizer.render(told, ask=False, options=self.template_options)
        if whole.startswith(asked):
            return whole, len(asked), False
        found = whole.rfind(answer.strip())  # a template that asks with words that it does not tell with
        if found < 0:
            raise _changed_by_template()
        return whole, found, False

    def _limited(self, ids: list[int], counts: list[bool]) -> TokenExample:
        limit = self.max_length
        if limit is not None and len(ids) > limit:
            answer = sum(counts[1:limit])  # what stands first cannot be predicted
            if self.on_long == "error" or not answer:
                what = "and nothing of its answer would be left within the limit" if not answer else ""
                raise DataError(
                    f"a sequence has {len(ids)} tokens {what}".rstrip(),
                    expected=f"at most {limit}",
                    fix="raise max_length if the model allows it, or shorten the prompt"
                    + ("" if not answer else "; on_long: cut would take its end away"),
                )
            self.n_cut += 1
            ids, counts = ids[:limit], counts[:limit]
        tokens = torch.tensor(ids, dtype=torch.long)
        return TokenExample(tokens, tokens.masked_fill(~torch.tensor(counts), IGNORED))


def _changed_by_template() -> DataError:
    return DataError("the chat template changes an answer's text, so its tokens cannot be told", fix="set format")
