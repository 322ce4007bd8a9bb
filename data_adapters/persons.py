"""Who is the same person in several sources: ids of one id space, compared as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from forgetmi.delimited import first_places
from forgetmi.errors import DataError
from forgetmi.records import RecordDataset

Normal = Literal["blanks", "case", "zeros"]
Which = Literal["own", "other", "any"]
_Node = tuple[str, str]  # source, patient id


def normal_form(identifier: str, rules: Sequence[Normal]) -> str:
    """An id without what the rules say may differ.

    >>> normal_form("00 12a", ("blanks", "zeros")), normal_form("0012", ())
    ('12a', '0012')
    """
    if "blanks" in rules:
        identifier = "".join(identifier.split())
    if "case" in rules:
        identifier = identifier.casefold()
    if "zeros" in rules:
        identifier = identifier.lstrip("0") or "0"
    return identifier


class Persons:
    """The people of several sources, numbered.

    Args:
        number: (source, patient id) to the number of the person.
        keys: (id of the common space as written, number).
    """

    def __init__(self, number: Mapping[_Node, int], keys: Sequence[tuple[str, int]]) -> None:
        self._number, self._keys = dict(number), tuple(keys)

    def of(self, source: str, patient: str) -> int:
        """The number of the person whom a source calls so."""
        return self._number[source, patient]

    def written(self) -> Iterator[tuple[str, int]]:
        """Each id of the common space, as written, and its person."""
        return iter(self._keys)

    def canonical(self, base: str) -> dict[int, str]:
        """Person to the id that the joined records carry: the base's; of two of the base's ids the first."""
        found: dict[int, str] = {}
        for (source, patient), number in sorted(self._number.items()):
            if source == base:
                found.setdefault(number, patient)
        return found

    def notes(self, base: str) -> list[str]:
        """How many people have two ids in the base."""
        ids: dict[int, int] = defaultdict(int)
        for (source, _), number in self._number.items():
            ids[number] += source == base
        merged = sum(n > 1 for n in ids.values())
        return [f"{merged} people have several patient ids in {base}, as another source says"] if merged else []


def issued(identifier: str) -> tuple[str, str]:
    """Issuer and value of an id that names its issuer, as FHIR or as HL7 v2 and DICOM sources here write it.

    >>> issued("urn:mrn|12"), issued("12^^^North"), issued("12")
    (('urn:mrn', '12'), ('North', '12'), ('', '12'))
    """
    value, mark, issuer = identifier.rpartition("^^^")
    if mark:
        return issuer, value
    system, mark, value = identifier.partition("|")
    return (system, value) if mark else ("", identifier)


def find_persons(
    data: Mapping[str, RecordDataset],
    which: Mapping[str, tuple[Which, str | None]],
    rules: Sequence[Normal],
    id_space: str,
) -> Persons:
    """Put together the patients that share an id of the common space.

    Args:
        data: source to records.
        which: source to which of its ids are of that space: ``own``, ``other`` (aliases) or ``any``; and their issuer
            (:func:`issued`), where only the values of one issuer are meant.
        rules: see :func:`normal_form`.
        id_space: its name, for messages.

    Raises:
        DataError: within one source, ids of different patients are the same under the rules; a source has no id of that
            space, or other ids of several issuers of which none is stated.
    """
    parent: dict[_Node, _Node] = {}
    by_key: dict[str, list[_Node]] = defaultdict(list)
    written: list[tuple[str, _Node]] = []
    for source, found in data.items():
        aliases = found.aliases.get("patient", {})
        patients = found.patients() | set(aliases.values())
        parent |= {(source, patient): (source, patient) for patient in patients}
        pairs = _ids_of_the_space(source, sorted(patients), sorted(aliases.items()), *which[source], id_space)
        owners: dict[str, set[str]] = defaultdict(set)
        for identifier, patient in pairs:
            owners[normal_form(identifier, rules)].add(patient)
            written.append((identifier, (source, patient)))
        wrong = [f"{key}: {', '.join(sorted(names))}" for key, names in owners.items() if len(names) > 1]
        if wrong:
            raise DataError(
                f"{len(wrong)} ids of source {source!r} could mean two patients once {', '.join(rules) or 'nothing'} "
                "is disregarded",
                fix="take away from `normalise` what tells them apart, or correct the ids",
                private=first_places(sorted(wrong)),
            )
        for key, names in owners.items():
            by_key[key].append((source, next(iter(names))))

    def root(node: _Node) -> _Node:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for nodes in by_key.values():
        for node in nodes[1:]:
            parent[root(node)] = root(nodes[0])
    numbers = {node: n for n, node in enumerate(sorted({root(node) for node in parent}))}
    number = {node: numbers[root(node)] for node in parent}
    return Persons(number, [(identifier, number[node]) for identifier, node in written])


def _ids_of_the_space(
    source: str, own: Sequence[str], others: Sequence[tuple[str, str]], which: Which, issuer: str | None, id_space: str
) -> list[tuple[str, str]]:
    """(id of the common space, patient) of one source.

    Of other ids that name their issuer the value counts, and those without one do not: they may be of any kind, such as
    the ids of merged FHIR patients.
    """
    mine = [] if which == "other" else [(patient, patient) for patient in own]
    named = [(*issued(i), patient) for i, patient in (mine if which == "own" else [*mine, *others])]
    issuers = sorted({system for system, _, _ in named if system})
    if issuer is None and which != "own":
        if len(issuers) > 1:
            raise DataError(
                f"the ids of source {source!r} come from {len(issuers)} issuers: {', '.join(issuers)}",
                expected=f"the issuer of {id_space}",
                fix=f"state it: sources.{source}.issuer; numbers of different issuers are different people's",
            )
        issuer = next(iter(issuers), None)
        mine = [pair for pair in mine if not issued(pair[0])[0]]
    elif issuer is not None:
        mine = []
    pairs = mine if issuer is None else [*mine, *((v, patient) for system, v, patient in named if system == issuer)]
    pairs += others if issuer is None and which != "own" else []
    if not pairs:
        raise DataError(
            f"source {source!r} has no {f'id of issuer {issuer!r}' if issuer else 'other ids of its patients'}",
            expected=f"its {id_space}",
            fix="correct the issuer, or choose ids: own, if its own patient ids are of that space",
        )
    return pairs


def study_keys(data: RecordDataset) -> list[frozenset[str]]:
    """The ids of each record's study: its own and its aliases."""
    others: dict[str, set[str]] = defaultdict(set)
    for alias, study in data.aliases.get("study", {}).items():
        others[study].add(alias)
    return [frozenset({record.study_id} | others.get(record.study_id, set())) for record in data]
