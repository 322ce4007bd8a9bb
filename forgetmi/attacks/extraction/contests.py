"""The contests of identifiers: each in its place, among alternatives that are drawn once for all models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from forgetmi.attacks.extraction.exposure import Contest
from forgetmi.attacks.extraction.identifiers import IdentifierFormat, Span, date_format_of
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.training.seeds import numpy_generator


def build_contests(
    modality: DialogueModality,
    values: Sequence[Any],
    spans: Sequence[Sequence[Span]],
    formats: Mapping[str, IdentifierFormat],
    *,
    count: int,
    seed: int,
) -> tuple[list[Contest], dict[str, int]]:
    """A contest for each identifier whose format is known.

    The format is the one that ``formats`` names for its kind; without one, a day in digits (with leading zeros) may be
    any day from the first to the last that these records hold in identifiers of its kind; any other text with digits
    may be any of its shape, with other digits. An e-mail address or a name has no such shape: it needs ``formats``.

    Args:
        modality: which tokenizes.
        values: of N records.
        spans: the identifiers in each one's answer [N], see
            :func:`~forgetmi.attacks.extraction.identifiers.identifiers_of`.
        formats: by kind.
        count: alternatives of an identifier.
        seed: of the alternatives of (record's position, identifier's number), and of nothing else.

    Returns:
        The contests, and for each reason how many identifiers have none.
    """
    texts = [str(value) if isinstance(value, str) else value["answer"] for value in values]
    ranges = _ranges(texts, spans)
    contests: list[Contest] = []
    without: Counter[str] = Counter()
    for position, (value, text, its) in enumerate(zip(values, texts, spans, strict=True)):
        for number, span in enumerate(its):
            true = text[span.start : span.end]
            known = formats.get(span.kind) or _format_like(true, span.kind, ranges)
            if known is None:
                without["no format is known for its kind"] += 1
                continue
            others = known.others(true, count, numpy_generator(seed, "alternatives", position, number))
            rows = _tokens(modality, value, true, others)
            if isinstance(rows, str):
                without[rows] += 1
                continue
            shared = _shared(rows)
            exact = known.size <= count + 1
            contests.append(
                Contest(
                    position,
                    span.kind,
                    rows[0][:shared],
                    tuple(row[shared:] for row in rows),
                    len(rows) if exact else known.size,
                )
            )
    return contests, dict(without)


def _ranges(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> dict[tuple[str, str], tuple[date, date]]:
    """First and last day of the identifiers of a kind, in each way of writing them."""
    ranges: dict[tuple[str, str], tuple[date, date]] = {}
    for text, its in zip(texts, spans, strict=True):
        for span in its:
            if (read := date_format_of(text[span.start : span.end])) is not None:
                day, written = read
                first, last = ranges.get((span.kind, written), (day, day))
                ranges[span.kind, written] = min(first, day), max(last, day)
    return ranges


def _format_like(text: str, kind: str, ranges: Mapping[tuple[str, str], tuple[date, date]]) -> IdentifierFormat | None:
    if (read := date_format_of(text)) is not None:
        first, last = ranges[kind, read[1]]
        return IdentifierFormat(dates=(first, last), date_format=read[1]) if first < last else None
    return None if kind in ("date", "email") else IdentifierFormat.like(text)


def _tokens(modality: DialogueModality, value: Any, true: str, others: Sequence[str]) -> list[tuple[int, ...]] | str:
    """What the model reads up to the end of the identifier and of each alternative, the true one first; or why not."""
    text, start, special = modality.written(value)
    place = text.find(true, start)
    if place < 0:
        return "the chat template writes it otherwise"
    # A special token at the end (it has no place) belongs to a text that is over.
    places = modality.tokenizer.encode(text[:place] + true, special=special)[1]
    over = next(n for n, where in enumerate(reversed(places)) if where != (0, 0))
    texts = [text[:place] + other for other in (true, *others)]
    encoded = modality.tokenizer.backend.encode_batch_fast(texts, add_special_tokens=special)
    rows = [tuple(row.ids[: len(row.ids) - over]) for row in encoded]
    if _shared(rows) == 0:
        return "nothing stands before it"
    if modality.max_length is not None and max(map(len, rows)) > modality.max_length:
        return "it stands beyond max_length"
    return rows


def _shared(rows: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all begin with; each keeps one of its own at least."""
    low, high = min(rows), max(rows)  # what these share, all that lie between them share
    most = min(map(len, rows)) - 1
    return next((n for n, (a, b) in enumerate(zip(low[:most], high[:most], strict=True)) if a != b), most)
