"""Other ids of a person or a study: kept where they can mean one thing only."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def unambiguous(pairs: Iterable[tuple[str, str]], canonical: Collection[str]) -> tuple[dict[str, str], int]:
    """Aliases that mean one thing, for :class:`~forgetmi.records.RecordDataset`.

    Args:
        pairs: (other id, canonical id); blanks and ids that are their own canonical one are passed over.
        canonical: every canonical id of the source, those without a record too.

    Returns:
        Other id to canonical id, and how many other ids were left out because they lead to several canonical ids or
        are themselves the canonical id of somebody else.
    """
    targets: dict[str, set[str]] = {}
    for other, target in pairs:
        if other and target:
            targets.setdefault(other, set()).add(target)
    known = set(canonical).union(*targets.values()) if targets else set(canonical)
    kept: dict[str, str] = {}
    dropped = 0
    for other, found in targets.items():
        if found == {other}:
            continue
        if len(found) > 1 or other in known:
            dropped += 1
        else:
            kept[other] = next(iter(found))
    return kept, dropped
