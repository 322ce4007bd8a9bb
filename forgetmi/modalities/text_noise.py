"""Noise on words and characters, and the keywords and synonyms that it uses."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from forgetmi.errors import ConfigError, did_you_mean

_KINDS = ("keywords", "word", "char")
_WORD_OPERATIONS = ("delete", "repeat", "shuffle")
_CHAR_OPERATIONS = ("insert", "delete", "substitute", "swap")


@dataclass(frozen=True)
class TextNoise:
    """Text noise of Forget-MI (arXiv 2506.23145), every published kind of it, with its slips corrected.

    First up to ``max_keywords`` keywords become ``replacement``. Then a fair coin picks one level: *word* (at most one
    synonym swap, then each word with probability ``level`` is deleted, repeated or shuffled) or *char* (in each word
    with probability ``level`` one character is inserted, deleted, substituted or swapped with its neighbour).

    Our reading, where the source is silent: the operation on a word is drawn uniformly; keywords are chosen at random
    among the occurrences found, whole words, whatever their case; shuffling a word swaps it with a random word of the
    text; the synonym swapped is one random word that has one; a noisy text keeps at least one word.

    Attributes:
        level: p, the probability that a word is changed. Published: 0.5.
        keywords: words that carry the finding; :func:`~forgetmi.modalities.vocabulary.extract_keywords` finds them.
        max_keywords: how many occurrences are replaced at most. Published: 2.
        replacement: what stands in their place. Published: ``"[NOISE]"``.
        synonyms: word to its synonym, lower case (:func:`~forgetmi.modalities.vocabulary.extract_synonyms`).
        kinds: which of ``"keywords"``, ``"word"``, ``"char"`` take part; the coin is tossed only between the last two.
        word_operations: which of ``"delete"``, ``"repeat"``, ``"shuffle"``.
        char_operations: which of ``"insert"``, ``"delete"``, ``"substitute"``, ``"swap"``.

    With ``level=0`` and neither keywords nor synonyms nothing changes.

    Raises:
        ConfigError: values out of range, unknown kinds or operations.
    """

    kind: ClassVar[str] = "text"
    from_texts: ClassVar[tuple[str, ...]] = ("keywords", "synonyms")
    """Options that hold words of patients' texts: never to be written down."""

    level: float = 0.5
    keywords: tuple[str, ...] = ()
    max_keywords: int = 2
    replacement: str = "[NOISE]"
    synonyms: Mapping[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = _KINDS
    word_operations: tuple[str, ...] = _WORD_OPERATIONS
    char_operations: tuple[str, ...] = _CHAR_OPERATIONS

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.level) and 0 <= self.level <= 1):
            problems.append(f"level is a probability, got {self.level}")
        if self.max_keywords < 0:
            problems.append(f"max_keywords must be at least 0, got {self.max_keywords}")
        for name, known in (
            ("kinds", _KINDS),
            ("word_operations", _WORD_OPERATIONS),
            ("char_operations", _CHAR_OPERATIONS),
        ):
            given = getattr(self, name)
            problems += [
                f"{name}: unknown {item!r}. {did_you_mean(str(item), known)}" for item in given if item not in known
            ]
            if not given and name != "kinds":
                problems.append(f"{name} is empty: to switch a level off, leave it out of kinds")
        if problems:
            raise ConfigError(problems)


def perturb_text(text: str, noise: TextNoise, generator: torch.Generator) -> str:
    """A noisy version of a text; every draw comes from the generator, so fresh noise is a generator's next state.

    Whitespace between words becomes one space where anything changed; a text that no draw touches is returned as it is.
    """
    original = text.split()
    words = list(original)
    if "keywords" in noise.kinds:
        words = _replace_keywords(words, noise, generator)
    levels = [level for level in ("word", "char") if level in noise.kinds]
    if levels:
        level = levels[_below(len(levels), generator)]
        words = _word_level(words, noise, generator) if level == "word" else _char_level(words, noise, generator)
    if not words:
        words = original[-1:]
    return text if words == original else " ".join(words)


def bare(word: str) -> str:
    """A word in lower case without the punctuation around it: what keywords and synonyms are compared with."""
    return word.strip(string.punctuation).lower()


def _replace_keywords(words: list[str], noise: TextNoise, generator: torch.Generator) -> list[str]:
    keywords = {bare(keyword) for keyword in noise.keywords} - {""}
    found = [i for i, word in enumerate(words) if bare(word) in keywords]
    if not found:
        return words
    chosen = torch.randperm(len(found), generator=generator)[: noise.max_keywords].tolist()
    return _exchange(words, [found[i] for i in chosen], lambda _: noise.replacement)


def _word_level(words: list[str], noise: TextNoise, generator: torch.Generator) -> list[str]:
    with_synonym = [i for i, word in enumerate(words) if bare(word) in noise.synonyms]
    if with_synonym:
        chosen = with_synonym[_below(len(with_synonym), generator)]
        words = _exchange(words, [chosen], lambda word: noise.synonyms[word])
    planned = _plan(len(words), noise.level, noise.word_operations, generator)
    tagged = list(zip(words, planned, strict=True))
    # Shuffle first, as swaps of two places: whatever is moved, no word is lost or doubled. A word keeps its own plan.
    for i, operation in enumerate(planned):
        if operation == "shuffle":
            j = _below(len(tagged), generator)
            tagged[i], tagged[j] = tagged[j], tagged[i]
    copies = {"delete": 0, "repeat": 2}
    return [word for word, operation in tagged for _ in range(copies.get(operation, 1))]


def _char_level(words: list[str], noise: TextNoise, generator: torch.Generator) -> list[str]:
    planned = _plan(len(words), noise.level, noise.char_operations, generator)
    changed = [
        _CHANGE_CHAR[operation](word, generator) if operation else word
        for word, operation in zip(words, planned, strict=True)
    ]
    return [word for word in changed if word]


def _plan(count: int, level: float, operations: Sequence[str], generator: torch.Generator) -> list[str]:
    """For each word an operation, or ``""`` where it is left alone."""
    hit = torch.rand(count, generator=generator) < level
    drawn = torch.randint(len(operations), (count,), generator=generator)
    return [operations[k] if h else "" for h, k in zip(hit.tolist(), drawn.tolist(), strict=True)]


def _exchange(words: list[str], places: Sequence[int], substitute: Callable[[str], str]) -> list[str]:
    """Other words at these places, given the bare words there; the punctuation around them stays."""
    result = list(words)
    for i in places:
        core = words[i].strip(string.punctuation)
        result[i] = words[i].replace(core, substitute(core.lower()), 1)
    return result


def _insert(word: str, generator: torch.Generator) -> str:
    at = _below(len(word) + 1, generator)
    return word[:at] + _letter(generator) + word[at:]


def _delete(word: str, generator: torch.Generator) -> str:
    at = _below(len(word), generator)
    return word[:at] + word[at + 1 :]


def _substitute(word: str, generator: torch.Generator) -> str:
    at = _below(len(word), generator)
    return word[:at] + _letter(generator, other_than=word[at].lower()) + word[at + 1 :]


def _swap(word: str, generator: torch.Generator) -> str:
    if len(word) < 2:
        return word
    at = _below(len(word) - 1, generator)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


_CHANGE_CHAR: Mapping[str, Callable[[str, torch.Generator], str]] = {
    "insert": _insert,
    "delete": _delete,
    "substitute": _substitute,
    "swap": _swap,
}


def _letter(generator: torch.Generator, other_than: str = "") -> str:
    letters = [letter for letter in string.ascii_lowercase if letter != other_than]
    return letters[_below(len(letters), generator)]


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
