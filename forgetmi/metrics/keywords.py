"""Does a model still know the words of an answer that matter? Keyword accuracy and keyword confidence.

GRIN (Anjarlekar and Pombra 2025, arXiv 2508.06467) names both metrics, and its formulas were not to be had. **Our
definitions**, with K_i the tokens of record i's answer that are part of a keyword, and p_t the probability of the true
token at t given the prompt and the true tokens before it:

==================  ================================================================================================
keyword accuracy    share of t in K_i whose likeliest token is the true one
keyword confidence  mean over t in K_i of p_t
==================  ================================================================================================

Exact memorisation on the words that carry the answer: a model that refuses nothing but the name is seen here.

Keywords are a record's own, ``{"prompt": ..., "answer": ..., "keywords": ["Elmira", [4, 10]]}``: texts, each of whose
occurrences in the answer counts, as whole words and in the same case; or places in it, first character and one behind
the last. Records without the key are annotated by a function, by default :func:`likely_keywords`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forgetmi.errors import AuditError, DataError
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Bools, Floats
from forgetmi.metrics.token_signals import TokenSignals
from forgetmi.modalities.dialogue import DialogueModality

Span = tuple[int, int]
"""First character, and one behind the last."""

Annotator = Callable[[str], list[Span]]

_CHUNK = re.compile(r"\w+(?:[.,:/\-@']\w+)*")
_TITLES = frozenset({"Dr", "Mr", "Mrs", "Ms", "Prof", "St"})
_INITIAL_OR_TITLE = re.compile(rf"\b(?:{'|'.join(sorted(_TITLES))}|[^\W\d_])\.$")


def likely_keywords(text: str) -> list[Span]:
    """A guess at what identifies someone in a text (our own; no published annotator is known to us).

    A word, together with what is joined to it by one of ``.,:/-@'``, is taken for a keyword if it

    - holds a digit or an @: numbers, dates, doses, record numbers, addresses; or
    - is all capitals, two letters or more: abbreviations; or
    - begins with a capital inside a sentence, has two letters or more and is no title (Dr, Mrs): names, places, months.

    So a name that begins a sentence is missed, and German nouns are all taken: annotate by hand where it matters.
    """
    found = []
    for match in _CHUNK.finditer(text):
        word, before = match.group(), text[: match.start()]
        if any(letter.isdigit() or letter == "@" for letter in word):
            taken = True
        elif len(word) < 2 or word in _TITLES:
            taken = False
        else:
            taken = word.isupper() or (word[0].isupper() and not _begins_sentence(before))
        if taken:
            found.append(match.span())
    return found


def keyword_mask(
    modality: DialogueModality,
    values: Sequence[str | Mapping[str, Any]],
    annotate: Annotator | None = likely_keywords,
) -> Bools:
    """Which tokens of each record's answer are part of a keyword [N, T], in the columns of its ``TokenSignals``.

    Args:
        modality: which made the tokens that were scored.
        values: of the N records that were scored, in their order.
        annotate: finds keywords in an answer whose record names none; ``None``: such a record has no keyword.

    Raises:
        DataError: a keyword that is not in its answer, is no text and no place, or has no token that is predicted (it
            was cut away, or begins a plain text). Record and keyword are named by their positions.
    """
    rows = []
    for position, value in enumerate(values):
        places = modality.answer_places(value)
        given = value.get("keywords") if isinstance(value, Mapping) else None
        answer = value if isinstance(value, str) else value["answer"]
        if given is not None:
            spans = _given(given, answer, position)
        else:
            spans = [[span] for span in annotate(answer)] if annotate is not None else []
        row = np.zeros(len(places), dtype=np.bool_)
        for number, occurrences in enumerate(spans):
            hit = [any(s < end and begin < e for s, e in occurrences) for begin, end in places]
            if given is not None and not any(hit):
                raise _wrong(
                    "has no token that the model predicts", position, number, "raise max_length, or leave it out"
                )
            row |= hit
        rows.append(row)
    mask = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.bool_)
    for made, row in zip(mask, rows, strict=True):
        made[: len(row)] = row
    return mask


def keyword_accuracy(signals: TokenSignals, keywords: Bools) -> PerExample:
    """The share of an answer's keyword tokens that are the likeliest one, given the true ones before. Our definition.

    Args:
        signals: of N records.
        keywords: [N, T], of :func:`keyword_mask`.

    Raises:
        AuditError: the mask is of other tokens.
    """
    return _metric(
        "keyword_accuracy",
        signals,
        keywords,
        signals.right.astype(np.float64),
        "Given what is truly before it, {value:.1%} of an answer's keyword tokens are the one that the model finds "
        "likeliest.",
        "share of an answer's keyword tokens whose likeliest token is the true one (our definition)",
    )


def keyword_confidence(signals: TokenSignals, keywords: Bools) -> PerExample:
    """The mean probability of an answer's keyword tokens, given the true ones before. Our definition.

    Args:
        signals, keywords: as :func:`keyword_accuracy`.

    Raises:
        AuditError: the mask is of other tokens.
    """
    return _metric(
        "keyword_confidence",
        signals,
        keywords,
        np.exp(-signals.nll),
        "The model gives a keyword token of an answer a probability of {value:.3f}, on average.",
        "mean probability of an answer's keyword tokens (our definition)",
    )


def _metric(
    name: str, signals: TokenSignals, keywords: Bools, of_tokens: Floats, sentence: str, definition: str
) -> PerExample:
    if keywords.shape != signals.mask.shape or (keywords & ~signals.mask).any():
        raise AuditError(
            f"{name}: keywords {keywords.shape} are marked where an answer of {signals.mask.shape} has no token",
            fix="make the mask with the modality and the values that were scored",
        )
    n_tokens = keywords.sum(axis=1)
    sums = np.where(keywords, of_tokens, 0.0).sum(axis=1)
    return PerExample(
        name=name,
        values=np.where(n_tokens > 0, sums / np.maximum(n_tokens, 1), np.nan),
        direction="remembers_above",
        sentence=sentence,
        definition=definition,
        missing="its answer has no keyword",
        counts={"n_keyword_tokens": int(n_tokens.sum())},
    )


def _given(keywords: Any, answer: str, position: int) -> list[list[Span]]:
    """Where each of a record's keywords stands in its answer."""
    if isinstance(keywords, str | Mapping) or not isinstance(keywords, Sequence):
        raise DataError(
            f"keywords were given as {type(keywords).__name__}",
            where=f"record at position {position}",
            expected="a list of texts or of [first character, one behind the last]",
        )
    spans = []
    for number, keyword in enumerate(keywords):
        if isinstance(keyword, str) and keyword.strip():
            found = [match.span() for match in re.finditer(_whole(keyword.strip()), answer)]
        elif _is_place(keyword) and 0 <= keyword[0] < keyword[1] <= len(answer):
            found = [(keyword[0], keyword[1])]
        else:
            found = []
        if not found:
            raise _wrong("is not in the answer", position, number, "write it as the answer does, whole words only")
        spans.append(found)
    return spans


def _is_place(keyword: Any) -> bool:
    if isinstance(keyword, str) or not isinstance(keyword, Sequence) or len(keyword) != 2:
        return False
    return all(isinstance(end, int) for end in keyword)


def _whole(keyword: str) -> str:
    """A pattern that finds it where no letter or digit goes on beside it."""
    before, behind = (r"(?<!\w)" if keyword[0].isalnum() else ""), (r"(?!\w)" if keyword[-1].isalnum() else "")
    return before + re.escape(keyword) + behind


def _begins_sentence(before: str) -> bool:
    end = before.rstrip(" \t\"'“”‘’«»([{*-–—•")
    return not end or end[-1] in "\n!?:" or (end[-1] == "." and not _INITIAL_OR_TITLE.search(end))


def _wrong(what: str, position: int, number: int, fix: str) -> DataError:
    return DataError(
        f"a keyword {what}", where=f"record at position {position}, keyword {number + 1} of its list", fix=fix
    )
