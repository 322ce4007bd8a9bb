"""Keywords and synonyms for text noise: from the training split's texts, or from files."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forgetmi.delimited import read_delimited
from forgetmi.errors import ConfigError, DataError

_WORD = re.compile(r"[a-z]{3,}")
_SYNONYM_COLUMNS = ("first_word", "second_word", "similarity", "frequency")


def extract_keywords(texts: Iterable[str], n: int = 10, *, exclude: Collection[str] = ()) -> tuple[str, ...]:
    """The ``n`` most frequent words over ALL texts, most frequent first; equal counts in alphabetical order.

    Words are runs of at least three letters, in lower case, without scikit-learn's English stop words. Give the
    training split's texts only.

    Args:
        texts: the texts.
        n: how many; fewer come back where there are fewer words. Published: 10.
        exclude: words that are no keywords here (say, the placeholder of a de-identified source), lower case.

    Raises:
        ConfigError: ``n`` is below 1.
    """
    if n < 1:
        raise ConfigError([f"the number of keywords must be at least 1, got {n}"])
    counts = _count(_words(texts), exclude)
    return tuple(word for word, _ in _by_count(counts)[:n])


def extract_synonyms(
    texts: Iterable[str],
    *,
    min_count: int = 5,
    threshold: float = 0.6,
    window: int = 4,
    dimensions: int = 64,
    max_words: int = 2000,
    exclude: Collection[str] = (),
) -> dict[str, str]:
    """Words to the word that is used most alike. Our reading: the published list's origin is not known.

    Distributional similarity: positive pointwise mutual information of words within ``window`` places of each other,
    its truncated SVD, and for each word the nearest other word by cosine, if that is at least ``threshold``. Words used
    alike may be opposites (``left``, ``right``): this is noise, not a thesaurus.

    Args:
        texts: the training split's texts.
        min_count: rarer words take no part.
        threshold: the smallest cosine of a synonym.
        window: how far apart two words count as neighbours, in words, stop words included.
        dimensions: of the SVD.
        max_words: only the most frequent words take part, which bounds memory.
        exclude: words that take no part, lower case.

    Returns:
        Word to synonym; the same for the same texts. Empty where there are fewer than three words.

    Raises:
        ConfigError: ``window`` or ``dimensions`` is below 1.
    """
    if window < 1 or dimensions < 1:
        raise ConfigError([f"window and dimensions must be at least 1, got {window} and {dimensions}"])
    documents = list(_words(texts))
    frequent = _by_count(_count(documents, exclude))[:max_words]
    vocabulary = [word for word, count in frequent if count >= min_count]
    if len(vocabulary) < 3:
        return {}
    vectors = _embed(_neighbours(documents, vocabulary, window), dimensions)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1.0)
    nearest = similarity.argmax(axis=1)
    return {
        word: vocabulary[j]
        for i, (word, j) in enumerate(zip(vocabulary, nearest.tolist(), strict=True))
        if similarity[i, j] >= threshold
    }


def read_keywords(path: str | PathLike[str]) -> tuple[str, ...]:
    """Keywords from a file: one a line, what follows a comma is left out; a header ``word`` or ``keyword`` is skipped.

    Raises:
        DataError: the file cannot be read, or holds no keyword.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read a keyword file: {error}", where=str(path), expected="text in UTF-8") from error
    words = [word for line in lines if (word := line.partition(",")[0].strip().lower())]
    if words and words[0] in ("word", "keyword"):
        words = words[1:]
    if not words:
        raise DataError("a keyword file holds no keyword", where=str(path), expected="one keyword a line")
    return tuple(dict.fromkeys(words))


def read_synonyms(path: str | PathLike[str]) -> dict[str, str]:
    """Synonyms from a CSV with columns first_word, second_word, similarity, frequency.

    Each ``second_word`` gets its most similar ``first_word``; equal similarities: the more frequent one, then the first
    in the alphabet. A word is never its own synonym.

    Raises:
        DataError: the file cannot be read, a column is missing, or a row is not as it should be (the first ten named).
    """
    table = read_delimited(path)
    if missing := [name for name in _SYNONYM_COLUMNS if name not in table.header]:
        raise DataError(
            f"a synonym file has no column {', '.join(missing)}",
            where=f"{table.path.name}:1",
            expected=f"a header with {', '.join(_SYNONYM_COLUMNS)}",
        )
    columns = [table.header.index(name) for name in _SYNONYM_COLUMNS]
    ranked: dict[str, tuple[float, float, str]] = {}
    wrong: list[str] = []
    for line, row in zip(table.lines, table.rows, strict=True):
        first, second, similarity, frequency = (row[column].strip().lower() for column in columns)
        rank = (-_number(similarity), -_number(frequency), first)
        if not first or not second or math.isnan(rank[0]) or math.isnan(rank[1]):
            wrong.append(f"{table.path.name}:{line}")
        elif first != second:
            ranked[second] = min(rank, ranked.get(second, rank))
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise DataError(
            f"{len(wrong)} rows of a synonym file cannot be read",
            where=", ".join(wrong[:10]) + more,
            expected="two words and two numbers",
        )
    return {second: first for second, (_, _, first) in ranked.items()}


def _number(cell: str) -> float:
    """The number in a cell; NaN where there is none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _words(texts: Iterable[str]) -> Iterator[list[str]]:
    return (_WORD.findall(text.lower()) for text in texts)


def _count(documents: Iterable[Sequence[str]], exclude: Collection[str]) -> Counter[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    left_out = ENGLISH_STOP_WORDS.union(exclude)
    return Counter(word for words in documents for word in words if word not in left_out)


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _neighbours(documents: Sequence[Sequence[str]], vocabulary: Sequence[str], window: int) -> NDArray[np.float64]:
    """How often each two words stand within ``window`` places of each other: symmetric [V, V]."""
    index = {word: i for i, word in enumerate(vocabulary)}
    gap = [""] * window  # no pair reaches from one text into the next
    places = np.array([index.get(word, -1) for words in documents for word in [*words, *gap]], dtype=np.int64)
    counts = np.zeros((len(vocabulary),) * 2)
    for offset in range(1, window + 1):
        left, right = places[:-offset], places[offset:]
        both = (left >= 0) & (right >= 0)
        np.add.at(counts, (left[both], right[both]), 1.0)
    return counts + counts.T


def _embed(counts: NDArray[np.float64], dimensions: int) -> NDArray[np.float64]:
    """Unit vectors [V, d] from positive pointwise mutual information: max(0, ln(p_ij / (p_i p_j)))."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / max(counts.sum(), 1.0)
    information = np.log(np.divide(counts, expected, out=np.ones_like(counts), where=counts > 0)).clip(min=0.0)
    kept = min(dimensions, len(counts) - 1)
    vectors: NDArray[np.float64] = normalize(TruncatedSVD(kept, random_state=0).fit_transform(information))
    return vectors
