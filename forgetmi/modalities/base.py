"""What a kind of modality knows how to do: prepare a value, perturb it, put prepared values into a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

Inputs = Tensor | dict[str, Tensor]


class Modality(Protocol):
    """One kind of input. Methods and parts see this interface and never a modality's name.

    Attributes:
        kind: ``"image"``, ``"text"``, ``"tokens"``, ...
        default_noise: the noise that :meth:`perturb` applies when a method names none.
    """

    kind: str

    @property
    def default_noise(self) -> Any:
        """A frozen dataclass of noise options of this kind."""
        ...

    def prepare(self, value: Any) -> Any:
        """A raw value (never ``None``) as an example: deterministic, so that it may be cached."""
        ...

    def perturb(self, read: Callable[[], Any], example: Any, noise: Any, generator: torch.Generator) -> Any:
        """A noisy example of the same record. No noise (zero strength) returns an equal example.

        Args:
            read: gives the raw value; called only where the noise needs it, for it may read a file.
            example: what :meth:`prepare` made of it; not changed.
            noise: noise options of this kind, a mapping of them, or ``None`` for the default.
            generator: the only source of chance.
        """
        ...

    def blank(self) -> Any:
        """The example that stands where the modality is missing; the batch's ``present`` mask says so."""
        ...

    def collate(self, examples: Sequence[Any]) -> Inputs:
        """Examples as tensors with a leading batch dimension, padded only to the longest among them."""
        ...

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings from which :func:`forgetmi.modalities.build_modality` makes it again."""
        ...


@runtime_checkable
class AnswersAnew(Protocol):
    """A kind of modality whose values are questions with answers."""

    def answered(self, value: Any, answer: str) -> Any:
        """The prepared example of the same question with another answer."""
        ...


NoiseT = TypeVar("NoiseT")


def resolve_noise(modality: Modality, given: Any) -> Any:
    """The noise options that a modality applies: checked once, not once a record. See :func:`noise_options`."""
    default = modality.default_noise
    return given if default is None else noise_options(type(default), given, default)


def noise_options(kind: type[NoiseT], given: NoiseT | Mapping[str, Any] | None, default: NoiseT) -> NoiseT:
    """Noise options from a dataclass, from a mapping (a YAML block) or, where nothing is given, the default.

    What a mapping does not name keeps the default's value, so that a YAML block which sets only the strength does not
    lose the keywords and synonyms that were computed from the training split.

    Raises:
        ConfigError: the mapping holds an unknown option or a value out of range.
    """
    from forgetmi.options import build_options

    if given is None:
        return default
    if isinstance(given, kind):
        return given
    if isinstance(given, Mapping):
        kept = {field.name: getattr(default, field.name) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return build_options(kind, {**kept, **given}, where=f"noise of kind {getattr(kind, 'kind', kind.__name__)}")
    raise TypeError(f"noise must be {kind.__name__}, a mapping or None, not {type(given).__name__}")
