"""The tokenizer of a language model, with the tokens that end and pad a text and the template of its dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from forgetmi.errors import ConfigError, ModelError


@dataclass(frozen=True)
class LMTokenizer:
    """A fast tokenizer and what a causal language model needs beside it.

    Attributes:
        backend: turns text into ids. Its own truncation and padding settings play no part.
        eos: the token that ends a text or an answer.
        pad: the token that fills a batch; where there is none, ``eos`` does: masks come from lengths, so nothing is
            mistaken for padding.
        bos: the token that begins a text; only templates name it.
        template: a chat template (Jinja, as transformers has them), or ``None``.

    Raises:
        ConfigError: a token is not in the vocabulary.
    """

    backend: Tokenizer = field(repr=False)
    eos: str
    pad: str | None = None
    bos: str | None = None
    template: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        named = {"eos": self.eos, "pad": self.pad, "bos": self.bos}
        problems = [
            f"the tokenizer has no token {token!r}, which is named as {name}"
            for name, token in named.items()
            if token is not None and self.backend.token_to_id(token) is None
        ]
        if problems:
            raise ConfigError(problems)
        plain = Tokenizer.from_str(self.backend.to_str())  # the caller's keeps its settings
        plain.no_padding()
        plain.no_truncation()
        object.__setattr__(self, "backend", plain)

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a text."""
        return self._id(self.eos)

    @property
    def pad_id(self) -> int:
        """Id of the token that fills a batch."""
        return self._id(self.pad or self.eos)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and where in the text each comes from. ``special``: with the tokens that the tokenizer adds itself."""
        found = self.backend.encode(text, add_special_tokens=special)
        return found.ids, found.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def render(self, messages: Sequence[Mapping[str, str]], *, ask: bool, options: Mapping[str, Any]) -> str:
        """A dialogue as the template writes it; ``ask``: up to where the answer begins.

        Raises:
            ModelError: the template cannot render it.
        """
        try:
            text = self.for_transformers.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=ask, **options
            )
        except Exception as error:  # jinja2's, and whatever a template raises
            raise ModelError(
                f"the chat template cannot write this dialogue: {error}",
                fix="give a format for prompts instead, such as 'Question: {prompt}\\nAnswer:'",
            ) from error
        return str(text)

    def to_config(self) -> dict[str, Any]:
        """JSON-able; no other file is needed."""
        return {
            "backend": self.backend.to_str(),
            "eos": self.eos,
            "pad": self.pad,
            "bos": self.bos,
            "template": self.template,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LMTokenizer:
        """From what :meth:`to_config` returned."""
        return cls(**{**config, "backend": Tokenizer.from_str(config["backend"])})

    def _id(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        assert found is not None  # checked when it was named
        return int(found)

    @cached_property
    def for_transformers(self) -> Any:
        """The same as a tokenizer of transformers."""
        from transformers import PreTrainedTokenizerFast

        named = {f"{name}_token": getattr(self, name) for name in ("bos", "eos", "pad") if getattr(self, name)}
        return PreTrainedTokenizerFast(tokenizer_object=self.backend, chat_template=self.template, **named)


def read_lm_tokenizer(place: Path) -> LMTokenizer:
    """The tokenizer of a local transformers folder, or of a GGUF file. Nothing is downloaded, no code of it is run.

    Raises:
        ModelError: there is none, it has no fast form, or it has no token that ends a text.
    """
    from transformers import AutoTokenizer

    folder, options = (place.parent, {"gguf_file": place.name}) if place.suffix == ".gguf" else (place, {})
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, plain Exception, ...
        raise ModelError(
            f"the tokenizer in {place.name} cannot be read: {type(error).__name__}: {error}",
            where=str(place),
            expected="tokenizer.json and tokenizer_config.json (a GGUF file needs the package gguf)",
        ) from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None or found.eos_token is None:
        what = "has no fast form (tokenizer.json)" if backend is None else "names no token that ends a text"
        raise ModelError(
            f"the tokenizer in {place.name} {what}",
            where=str(place),
            fix="convert it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            if backend is None
            else "name eos_token in its tokenizer_config.json",
        )
    return LMTokenizer(backend, found.eos_token, found.pad_token, found.bos_token, found.chat_template)
