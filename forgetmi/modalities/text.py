"""Free text: a tokenizer's ids, padded only to the batch's longest, and noise on the words themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.base import noise_options
from forgetmi.modalities.text_noise import TextNoise, perturb_text
from forgetmi.modalities.tokens import length_mask, pad_right


class TextModality:
    """Text as token ids.

    An example without tokens (a missing text) is a row of padding with attention 0 throughout: encoders must give
    finite numbers for it, and nothing may depend on them.

    Args:
        tokenizer: a fast tokenizer. It is copied, so that its own truncation and padding settings stay as they are.
        max_length: longest sequence in tokens, special tokens included; longer texts lose their end. Published: 320.
        pad_token: the token that fills a batch. Its attention is 0.
        noise: what :meth:`perturb` applies when a method names none; usually with keywords and synonyms of the
            training split.

    Raises:
        ConfigError: the tokenizer has no such padding token, or ``max_length`` leaves no room for a word.
    """

    kind = "text"

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int = 320,
        *,
        pad_token: str = "[PAD]",  # noqa: S107 - a vocabulary entry, not a password
        noise: TextNoise | None = None,
    ) -> None:
        pad_id = tokenizer.token_to_id(pad_token)
        problems = []
        if pad_id is None:
            problems.append(f"the tokenizer has no token {pad_token!r}: name the one that pads, as pad_token")
        # With room for special tokens only, the tokenizer would not cut at all.
        if max_length < (least := 1 + tokenizer.num_special_tokens_to_add(False)):
            problems.append(f"max_length must be at least {least} with this tokenizer, got {max_length}")
        if problems or pad_id is None:
            raise ConfigError(problems)
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        self.max_length = max_length
        self.pad_token = pad_token
        self.pad_id = pad_id
        self._noise = noise or TextNoise()

    @property
    def default_noise(self) -> TextNoise:
        """The noise that :meth:`perturb` applies when a method names none."""
        return self._noise

    def prepare(self, value: Any) -> Tensor:
        """Token ids [T], T <= ``max_length``.

        Raises:
            DataError: the value is no text, or a text without a single token.
        """
        if not isinstance(value, str):
            raise DataError(f"a text was given as {type(value).__name__}", expected="a string, or None where missing")
        if not value.strip():
            raise DataError("a text is empty", fix="give None where a text is missing, so that the mask says so")
        ids = self._encode(value)
        if not len(ids):
            raise DataError("the tokenizer finds no token in a text", fix="use a tokenizer with an unknown-word token")
        return ids

    def perturb(
        self,
        read: Callable[[], Any],
        example: Tensor,
        noise: TextNoise | Mapping[str, Any] | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Token ids of the noisy text (:func:`~forgetmi.modalities.text_noise.perturb_text`)."""
        text = read()
        noisy = perturb_text(text, noise_options(TextNoise, noise, self._noise), generator)
        return example if noisy == text else self._encode(noisy)

    def blank(self) -> Tensor:
        """No tokens: nothing but padding once it is in a batch."""
        return torch.empty(0, dtype=torch.long)

    def collate(self, examples: Sequence[Tensor]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, each [B, T] with T the longest text of the batch (at least 1)."""
        ids = pad_right(examples, self.pad_id)
        return {"input_ids": ids, "attention_mask": length_mask(examples, ids)}

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`. The noise belongs to a method, not to a model."""
        return {
            "kind": self.kind,
            "tokenizer": self.tokenizer.to_str(),
            "max_length": self.max_length,
            "pad_token": self.pad_token,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TextModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        tokenizer = Tokenizer.from_str(config["tokenizer"])
        return cls(tokenizer, config["max_length"], pad_token=config["pad_token"])

    def _encode(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.long)
