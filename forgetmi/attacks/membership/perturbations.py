"""Texts like a text: some of its words replaced by words that could stand there.

DetectGPT (Mitchell et al. 2023, arXiv 2301.11305) masks spans of words and lets T5 fill them. Nothing is downloaded
here: gaps are filled by a law of words learned from texts that are at hand (:class:`WordLaw`), or by a masked language
model in a local folder (:class:`MaskedLMFiller`). Our reading: a law of words writes less fluently than T5, so every
text, seen or not, lies further above its neighbours; attacks compare records, not with zero.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from forgetmi.errors import ConfigError, DataError, ModelError, unmet
from forgetmi.metrics.roc import Bools
from forgetmi.training.seeds import derive_seed

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class PerturbationOptions:
    """How texts are perturbed; the defaults are the published ones.

    Attributes:
        n: perturbed texts a record.
        share: of a text's words that are replaced.
        span: words that are replaced together.
    """

    n: int = 25
    share: float = 0.3
    span: int = 2

    def __post_init__(self) -> None:
        checks = {
            f"n must be at least 1, not {self.n}": self.n >= 1,
            f"share must be in (0, 1], not {self.share}": 0 < self.share <= 1,
            f"span must be at least 1, not {self.span}": self.span >= 1,
        }
        if problems := unmet(checks):
            raise ConfigError(problems)


class Filler(Protocol):
    """Fills gaps."""

    def fill(
        self, texts: Sequence[list[str]], gaps: Sequence[Bools], rngs: Sequence[np.random.Generator]
    ) -> list[list[str]]:
        """The words of each text with those in gaps replaced; each text draws from its own generator only."""
        ...


class WordLaw:
    """Words as they follow one another in some texts: never those of records that are asked about.

    Args:
        texts: public ones, or of retained records.
        order: ``bigram``: a word follows the one before it as often as in the texts; where that one was never followed
            by any, and with ``unigram``, it is drawn by how often it stands anywhere.

    Raises:
        DataError: there is no word in the texts.
    """

    def __init__(self, texts: Iterable[str], order: Literal["unigram", "bigram"] = "bigram") -> None:
        if order not in ("unigram", "bigram"):
            raise ConfigError([f"order must be unigram or bigram, not {order!r}"])
        everywhere: Counter[str] = Counter()
        after: dict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            words = _WORD.findall(text)
            everywhere.update(words)
            if order == "bigram":
                for before, word in pairwise(words):
                    after[before][word] += 1
        if not everywhere:
            raise DataError("the texts that words are to be drawn from hold none", fix="give public or retained texts")
        self._everywhere = _cumulative(everywhere)
        self._after = {word: _cumulative(counts) for word, counts in after.items()}

    def fill(
        self, texts: Sequence[list[str]], gaps: Sequence[Bools], rngs: Sequence[np.random.Generator]
    ) -> list[list[str]]:
        """See :class:`Filler`; from left to right."""
        filled = []
        for words, gap, rng in zip(texts, gaps, rngs, strict=True):
            made = list(words)
            for place in np.flatnonzero(gap).tolist():
                names, upto = self._after.get(made[place - 1] if place else "", self._everywhere)
                made[place] = names[int(np.searchsorted(upto, rng.random() * upto[-1], side="right"))]
            filled.append(made)
        return filled


def _cumulative(counts: Counter[str]) -> tuple[list[str], np.ndarray[Any, Any]]:
    names = sorted(counts)  # not by first appearance: the order of the texts is not to matter
    return names, np.cumsum([counts[name] for name in names])


class MaskedLMFiller:
    """A masked language model fills all gaps of a text at once, a word by one token, drawn from the model's law.

    Args:
        folder: of a transformers model and its tokenizer. Nothing is downloaded.
        device: where it runs.
        batch_size: texts at a time.

    Raises:
        ModelError: there is no masked language model in the folder.
    """

    def __init__(self, folder: Path, device: torch.device, *, batch_size: int = 32) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        try:
            self._model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).to(device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises OSError, ValueError, ...
            raise ModelError(
                f"there is no masked language model in {folder.name}: {type(error).__name__}: {error}",
                where=str(folder),
                expected="a folder with config.json, weights and a tokenizer",
            ) from error
        if self._tokenizer.mask_token is None:
            raise ModelError(f"the tokenizer in {folder.name} has no token for a gap", where=str(folder))
        self._device, self._batch_size = device, batch_size
        special = torch.zeros(self._model.config.vocab_size, dtype=torch.bool)
        special[[i for i in self._tokenizer.all_special_ids if i < len(special)]] = True
        self._forbidden = special.to(device)

    def fill(
        self, texts: Sequence[list[str]], gaps: Sequence[Bools], rngs: Sequence[np.random.Generator]
    ) -> list[list[str]]:
        """See :class:`Filler`. What lies beyond the model's longest input stays as it was."""
        mask, filled = self._tokenizer.mask_token, [list(words) for words in texts]
        written = [
            " ".join(mask if hole else word for word, hole in zip(words, gap, strict=True))
            for words, gap in zip(texts, gaps, strict=True)
        ]
        for start in range(0, len(written), self._batch_size):
            some = range(start, min(start + self._batch_size, len(written)))
            read = self._tokenizer([written[i] for i in some], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**read.to(self._device)).logits.masked_fill(self._forbidden, -torch.inf)
            for row, i in enumerate(some):
                places = np.flatnonzero(gaps[i])
                chances = logits[row][read.input_ids[row] == self._tokenizer.mask_token_id].double().softmax(-1).cpu()
                for place, chance in zip(places.tolist(), chances.numpy(), strict=False):
                    drawn = int(np.searchsorted(chance.cumsum(), rngs[i].random(), side="right"))
                    word = str(self._tokenizer.decode([min(drawn, len(chance) - 1)])).strip()
                    filled[i][place] = word or filled[i][place]
        return filled


def perturbed(
    texts: Sequence[str], keys: Sequence[str], filler: Filler, options: PerturbationOptions, *, seed: int, number: int
) -> list[str]:
    """The ``number``-th perturbed version of each text. Spaces and lines stay where they are.

    Args:
        texts: N of them.
        keys: what tells them apart: with the seed and the number it decides what is drawn, so that order and company
            change nothing.
        filler: fills the gaps.
        options: see :class:`PerturbationOptions`. Our reading: round(share x words / span) spans, at least one, that
            do not overlap, every such choice equally likely; a shorter text is replaced whole.
        seed, number: of the draw.
    """
    split = [_WORD.findall(text) for text in texts]
    rngs = [np.random.default_rng(derive_seed(seed, "perturbed", key, number)) for key in keys]
    gaps = [_gaps(len(words), options, rng) for words, rng in zip(split, rngs, strict=True)]
    filled = filler.fill(split, gaps, rngs)
    made = []
    for text, words in zip(texts, filled, strict=True):
        between = _WORD.split(text)
        made.append(between[0] + "".join(word + space for word, space in zip(words, between[1:], strict=True)))
    return made


def _gaps(n_words: int, options: PerturbationOptions, rng: np.random.Generator) -> Bools:
    """Which words are replaced [n_words]."""
    gap = np.zeros(n_words, dtype=np.bool_)
    span = min(options.span, n_words)
    if not n_words:
        return gap
    spans = min(max(1, round(options.share * n_words / span)), n_words // span)
    starts = np.sort(rng.choice(n_words - spans * (span - 1), spans, replace=False)) + (span - 1) * np.arange(spans)
    gap[(starts[:, None] + np.arange(span)).ravel()] = True
    return gap
