"""How rich what a model writes is: entropy of n-grams, repetition, distinct n-grams. Destroyed models often loop.

With f_n(w) the frequency of the n-gram w among the n-grams of one text:

===============  ====================================================================================================
n-gram entropy   H_n = -sum_w f_n(w) log2 f_n(w); fluency is the mean of (2/3) H_2 and (4/3) H_3, that is
                 H_2 / 3 + 2 H_3 / 3, in bits (Meng et al. 2022, arXiv 2202.05262, after Zhang et al. 2018; the weights
                 are those of their published code; RWKU and the quantisation study arXiv 2410.16454 call it "Flu")
repetition       1 - (different n-grams) / (n-grams): seq-rep-n of Welleck et al. 2020, arXiv 1908.04319
distinct         (different n-grams) / (words): distinct-n of Li et al. 2016, arXiv 1510.03055
===============  ====================================================================================================

*Our readings.* A word is a run of letters and digits, or one other sign (published code splits as NLTK does, whose data
would have to be downloaded). Each is computed text by text, so that it can be given an interval; Li et al. pool all
texts. A text that is too short has no value, and texts that are empty or equal to another record's are counted beside
it: a model that says nothing, or always the same, is seen there.

High is not the same as good: a model of random weights writes noise whose entropy is as high as can be. Only together
with perplexity on true texts does fluency tell a destroyed model, whichever way it was destroyed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.per_example import PerExample

Words = list[str]
Texts = Sequence[Sequence[str]]
"""[N][samples], as :func:`~forgetmi.metrics.generation.continue_texts` returns them; a record's value is the mean over
those of its samples that have one."""

_WORD = re.compile(r"\w+|[^\w\s]")


def n_gram_entropy(texts: Texts) -> PerExample:
    """Weighted mean of the entropies of bigrams and trigrams, in bits; of texts of three words or more.

    Args:
        texts: what was written for N records.

    Raises:
        AuditError: no records, or one without a text.
    """
    return _of_texts(
        "n_gram_entropy",
        texts,
        3,
        lambda words: _entropy(words, 2) / 3 + 2 * _entropy(words, 3) / 3,
        "useful_above",
        "The n-gram entropy of what the model writes is {value:.2f} bits.",
        "H_2 / 3 + 2 H_3 / 3 in bits, of words",
        None,
    )


def repetition(texts: Texts, n: int = 4) -> PerExample:
    """The share of a text's n-grams that stood in it before; 0 where none repeats, near 1 in a loop.

    Args:
        texts: what was written for N records.
        n: of words.

    Raises:
        AuditError: no records, one without a text, or n below 1.
    """
    return _of_texts(
        f"repetition_{n}",
        texts,
        n,
        lambda words: 1 - len(_counts(words, n)) / (len(words) - n + 1),
        "useful_below",
        f"{{value:.1%}} of the {n}-grams that the model writes stood before in the same text.",
        f"1 - different {n}-grams / {n}-grams",
        (0.0, 1.0),
    )


def distinct(texts: Texts, n: int = 2) -> PerExample:
    """Different n-grams for each word that is written.

    Args:
        texts: what was written for N records.
        n: of words.

    Raises:
        AuditError: no records, one without a text, or n below 1.
    """
    return _of_texts(
        f"distinct_{n}",
        texts,
        n,
        lambda words: len(_counts(words, n)) / len(words),
        "useful_above",
        f"The model writes {{value:.3f}} different {n}-grams a word.",
        f"different {n}-grams / words",
        (0.0, 1.0),
    )


def _counts(words: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _entropy(words: Words, n: int) -> float:
    counts = np.array(list(_counts(words, n).values()), dtype=np.float64)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # not -0.0


def _of_texts(
    name: str,
    texts: Texts,
    shortest: int,
    measure: Callable[[Words], float],
    direction: Direction,
    sentence: str,
    definition: str,
    bounds: tuple[float, float] | None,
) -> PerExample:
    if shortest < 1:
        raise AuditError(f"n-grams of {shortest} words", expected="at least 1")
    if isinstance(texts, str) or any(isinstance(samples, str) or not len(samples) for samples in texts):
        raise AuditError(f"{name}: a record has no text", expected="[N][samples], at least one sample a record")
    values = []
    for samples in texts:
        found = [measure(words) for text in samples if len(words := _WORD.findall(text)) >= shortest]
        values.append(float(np.mean(found)) if found else math.nan)
    records = Counter(tuple(text.strip() for text in samples) for samples in texts)
    return PerExample(
        name=name,
        values=np.array(values),
        direction=direction,
        sentence=sentence,
        bounds=bounds,
        definition=definition,
        missing=f"what was written for it has fewer than {shortest} words",
        counts={
            "n_texts": sum(map(len, texts)),
            "n_empty": sum(not text.strip() for samples in texts for text in samples),
            "n_records_with_another_ones_text": sum(count for count in records.values() if count > 1),
        },
    )
