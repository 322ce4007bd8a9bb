"""Token sequences with an answer: the inputs and targets of causal language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from forgetmi.errors import ConfigError, DataError, MethodError

IGNORED = -100  # the label that torch's cross-entropy leaves out


class TokenExample(NamedTuple):
    """A prepared sequence: ids [T] and labels [T], the ids within the answer and :data:`IGNORED` elsewhere."""

    ids: Tensor
    labels: Tensor


class TokenModality:
    """Token ids with a marked answer, padded on the right.

    Args:
        pad_id: the id that fills a batch. Padding has attention 0 and label :data:`IGNORED`.
        max_length: longer sequences are refused (cutting them would cut the answer); ``None`` for no limit.

    Raises:
        ConfigError: a negative ``pad_id`` or a ``max_length`` below 1.
    """

    kind = "tokens"

    def __init__(self, pad_id: int, max_length: int | None = None) -> None:
        problems = []
        if pad_id < 0:
            problems.append(f"pad_id must be at least 0, got {pad_id}")
        if max_length is not None and max_length < 1:
            problems.append(f"max_length must be at least 1, got {max_length}")
        if problems:
            raise ConfigError(problems)
        self.pad_id = pad_id
        self.max_length = max_length

    @property
    def default_noise(self) -> None:
        """None: no noise is defined for tokens."""
        return

    def prepare(self, value: Any) -> TokenExample:
        """Ids and labels of one sequence. Labels stand at their own token's position: the task shifts them.

        Args:
            value: ``{"ids": ..., "answer": ...}`` or the pair ``(ids, answer)``. ``answer`` is the position where the
                answer starts (it runs to the end), or a mask of the ids' length, true on answer tokens.

        Raises:
            DataError: another form, no ids, an answer that is empty or lies outside, a sequence too long.
        """
        given_ids, answer = _parts(value)
        ids = _integers(given_ids)
        if ids.ndim != 1 or not len(ids) or ids.min() < 0:
            raise DataError(
                f"token ids have shape {tuple(ids.shape)}", expected="a flat list of ids, at least one, >= 0"
            )
        if self.max_length is not None and len(ids) > self.max_length:
            raise DataError(
                f"a sequence has {len(ids)} tokens",
                expected=f"at most {self.max_length}",
                fix="shorten the prompt, or raise max_length if the model allows it",
            )
        mask = _answer_mask(answer, len(ids))
        if not mask.any():
            raise DataError("a sequence has no answer token", expected="a mask with a true value, or a start inside")
        return TokenExample(ids, ids.masked_fill(~mask, IGNORED))

    def perturb(self, read: Callable[[], Any], example: Any, noise: Any, generator: torch.Generator) -> Any:
        """Refused.

        Raises:
            MethodError: always.
        """
        raise MethodError(
            "no noise is defined for token sequences",
            fix="choose a method that needs no noisy inputs: forgetmi ls methods",
        )

    def blank(self) -> TokenExample:
        """An empty sequence: nothing but padding once it is in a batch."""
        return TokenExample(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))

    def collate(self, examples: Sequence[TokenExample]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, each [B, T], T the longest sequence (at least 1)."""
        ids = pad_right([example.ids for example in examples], self.pad_id)
        labels = pad_right([example.labels for example in examples], IGNORED)
        return {"input_ids": ids, "attention_mask": length_mask([e.ids for e in examples], ids), "labels": labels}

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`."""
        return {"kind": self.kind, "pad_id": self.pad_id, "max_length": self.max_length}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TokenModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        return cls(config["pad_id"], config["max_length"])


def pad_right(sequences: Sequence[Tensor], value: int) -> Tensor:
    """Integer sequences as [B, max(1, longest)], filled with ``value`` on the right."""
    padded = pad_sequence(list(sequences), batch_first=True, padding_value=value)
    return padded if padded.shape[1] else torch.full((len(sequences), 1), value)


def length_mask(sequences: Sequence[Tensor], padded: Tensor) -> Tensor:
    """[B, T] of 0 and 1: 1 where a padded batch holds a token of its sequence (the padding id may be a real token)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return (torch.arange(padded.shape[1]) < lengths[:, None]).long()


def _parts(value: Any) -> tuple[Any, Any]:
    if isinstance(value, Mapping) and {"ids", "answer"} <= set(value):
        return value["ids"], value["answer"]
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[1]
    raise DataError(
        f"a token sequence was given as {type(value).__name__}",
        expected='{"ids": ..., "answer": ...} or the pair (ids, answer)',
    )


def _integers(values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    if tensor.is_floating_point() and tensor.numel():
        raise DataError(f"token ids have type {tensor.dtype}", expected="integers")
    return tensor.long()


def _answer_mask(answer: Any, length: int) -> Tensor:
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < length:
            raise DataError(f"an answer starts at {answer} of {length} tokens", expected=f"0 to {length - 1}")
        return torch.arange(length) >= answer
    mask = torch.as_tensor(answer).bool()
    if mask.shape != (length,):
        raise DataError(f"an answer mask has shape {tuple(mask.shape)}", expected=f"({length},), one value a token")
    return mask
