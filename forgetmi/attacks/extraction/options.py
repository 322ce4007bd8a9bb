"""What an extraction attack does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from forgetmi.attacks.extraction.identifiers import KINDS, IdentifierFormat
from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.metrics.generation import Decoding

Part = Literal["exposure", "prefix", "templates", "samples"]
PARTS: tuple[Part, ...] = ("exposure", "prefix", "templates", "samples")


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of :func:`~forgetmi.attacks.extraction.attack.extraction_attack`.

    Attributes:
        parts: of the attack: ``exposure`` (identifiers among alternatives), ``prefix`` (the beginning of a text is
            given), ``templates`` (the prompt in other words), ``samples`` (the prompt many times).
        prefixes: how much of a text is given: tokens, or a share in (0, 1).
        templates: names of the package's templates; ``None`` for all, empty for none.
        templates_file: a JSON file with more.
        opening_words: words of a plain text that are its prompt, half of them at most.
        max_new_tokens: of one continuation.
        samples: continuations of each prompt.
        temperature, top_p: of the samples.
        leak_at: of how many samples one is to leak.
        kinds: of identifiers that are looked for in records that do not name theirs.
        formats: of the identifiers, by kind; others have the shape of the true one.
        alternatives: of an identifier; its exposure is log2(alternatives + 1) bits at most.

    Raises:
        ConfigError: all that is wrong.
    """

    parts: tuple[Part, ...] = PARTS
    prefixes: tuple[int | float, ...] = (0, 10, 25, 50, 0.5)
    templates: tuple[str, ...] | None = None
    templates_file: Path | None = None
    opening_words: int = 20
    max_new_tokens: int = 64
    samples: int = 20
    temperature: float = 1.0
    top_p: float = 1.0
    leak_at: tuple[int, ...] = (1, 5, 20)
    kinds: tuple[str, ...] = KINDS
    formats: Mapping[str, IdentifierFormat] = field(default_factory=dict)
    alternatives: int = 300

    def __post_init__(self) -> None:
        problems = [
            f"there is no part {part!r}. {did_you_mean(part, PARTS)}" for part in self.parts if part not in PARTS
        ]
        if not self.parts:
            problems.append("parts: name one at least")
        problems += [
            f"prefixes: a number of tokens, or a share in (0, 1), not {prefix}"
            for prefix in self.prefixes
            if not (0.0 < prefix < 1.0 if isinstance(prefix, float) else prefix >= 0)
        ]
        if len(set(self.prefixes)) < len(self.prefixes):
            problems.append("prefixes: each at most once")
        problems += [
            f"{name} must be at least 1, not {getattr(self, name)}"
            for name in ("opening_words", "max_new_tokens", "alternatives", "samples")
            if getattr(self, name) < 1
        ]
        problems += [
            f"leak_at: 1 to {self.samples}, the number of samples, not {k}"
            for k in self.leak_at
            if not 1 <= k <= self.samples
        ]
        problems += [
            f"kinds: {kind!r} is unknown. {did_you_mean(kind, KINDS)}" for kind in self.kinds if kind not in KINDS
        ]
        if not 0.0 < self.top_p <= 1.0:
            problems.append(f"top_p must be in (0, 1], not {self.top_p}")
        if not 0.0 < self.temperature < math.inf:
            problems.append(f"temperature must be above 0, not {self.temperature}: greedy samples are all the same")
        if problems:
            raise ConfigError(problems)

    @property
    def sampling(self) -> Decoding:
        """How samples are written."""
        return Decoding(self.max_new_tokens, self.temperature, self.top_p, self.samples)
