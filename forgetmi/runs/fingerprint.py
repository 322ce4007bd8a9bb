"""A dataset's fingerprint: what is in it, what is missing or cannot be read, and what stands in it twice."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forgetmi.data_adapters.dicom_headers import names_may_stand_in
from forgetmi.data_adapters.images import ImageFile
from forgetmi.duplicates import difference_hashes, grid, near_hashes, near_sets, normalised_words, shingles
from forgetmi.errors import DataError
from forgetmi.modalities.tabular import MISSING_WORDS
from forgetmi.partition import PARTS, Partition
from forgetmi.records import SPLITS, RecordDataset
from forgetmi.runs.check import describe
from forgetmi.runs.prepare import Prepared
from forgetmi.training.seeds import numpy_generator

if TYPE_CHECKING:
    from rich.console import RenderableType

logger = logging.getLogger("forgetmi")
_TEXTS = ("text", "dialogue")
_SHOWN = 20  # examples in the file: enough to start looking
_PAIRS = [f"{a}/{b}" for a, b in combinations(PARTS, 2)]


@dataclass
class Fingerprint:
    """What was found.

    Attributes:
        found: JSON-able; ids in it are keyed hashes.
        unreadable: records and files that cannot be read, with ids: for the terminal of the person who asks for them.
        twins: pairs of samples of different parts that are nearly the same, with ids: the same.
    """

    found: dict[str, Any]
    unreadable: list[str]
    twins: list[str]


@dataclass
class _Seen:
    """What is kept of one modality's values while they are read: never the values themselves."""

    kind: str
    indices: list[int] = field(default_factory=list)
    exact: list[str] = field(default_factory=list)
    grids: list[NDArray[np.float64]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    nothing: int = 0  # flat images, texts without a word: nothing to compare
    missing: Counter[str] = field(default_factory=Counter)
    rows: int = 0


def take_fingerprint(prepared: Prepared, *, sample: int | None) -> Fingerprint:
    """Read values, and compare them across forget, retain, validation and test.

    Args:
        prepared: data and request.
        sample: at most so many records are read: those to be forgotten first, the others drawn at random (always the
            same ones). ``None`` reads everything, 0 nothing.
    """
    dataset, partition = prepared.dataset, prepared.partition
    chosen = _choose(partition, sample)
    seen, unreadable = _read(prepared, chosen)
    found = describe(prepared)
    found["identifiers"] = {
        "other_ids": {level: len(pairs) for level, pairs in dataset.aliases.items()},
        "patients_in_several_splits": _leaking(dataset),
    }
    found["attributes"] = _attributes(dataset)
    found["unknown_labels"] = _unknown_labels(dataset)
    found["request"]["notes"] = list(prepared.request.notes)
    found["request"]["remains"] = list(partition.remains())
    found["read"] = {
        "records": len(chosen),
        "of": len(dataset),
        "forget_records": len(set(chosen) & set(partition.forget)),
        "unreadable": dict(Counter(name for _, name, _ in unreadable)),
        "unreadable_samples": [prepared.pseudonym(dataset[i].sample_id) for i, _, _ in unreadable[:_SHOWN]],
        "missing_cells": {name: dict(s.missing.most_common()) for name, s in seen.items() if s.kind == "tabular"},
        "rows": {name: s.rows for name, s in seen.items() if s.kind == "tabular"},
    }
    twins: list[tuple[int, int, str]] = []
    found["headers"] = _headers(dataset, chosen)
    found["duplicates"] = {name: _compare(s, name, partition, twins) for name, s in seen.items()}
    found["duplicate_samples"] = [
        sorted(prepared.pseudonym(dataset[i].sample_id) for i in (a, b)) for a, b, _ in twins[:_SHOWN]
    ]
    return Fingerprint(
        found,
        [f"{dataset[i].sample_id}, {name}: {error}" for i, name, error in unreadable],
        [f"{name}: {dataset[a].sample_id} and {dataset[b].sample_id}" for a, b, name in twins],
    )


def _choose(partition: Partition, sample: int | None) -> list[int]:
    """Positions to be read, in order."""
    every = len(partition.dataset)
    if sample is None or sample >= every:
        return list(range(every))
    draw = numpy_generator(0, "fingerprint")
    forget = set(partition.forget)
    others = [i for i in range(every) if i not in forget]
    ordered = [*draw.permutation(sorted(forget)).tolist(), *draw.permutation(others).tolist()]
    return sorted(ordered[:sample])


def _read(prepared: Prepared, chosen: Sequence[int]) -> tuple[dict[str, _Seen], list[tuple[int, str, DataError]]]:
    """Read every value once, as training would, and keep what can be compared."""
    dataset = prepared.dataset
    seen = {name: _Seen(kind) for name, kind in dataset.modality_kinds.items()}
    unreadable: list[tuple[int, str, DataError]] = []
    for index in chosen:
        for name, kept in seen.items():
            try:
                value = dataset[index].value(name)
                if value is None:
                    continue
                if name in prepared.modalities:
                    prepared.modalities[name].prepare(value)
            except DataError as error:
                unreadable.append((index, name, error))
                continue
            _keep(kept, index, value)
    return seen, unreadable


def _headers(dataset: RecordDataset, chosen: Sequence[int]) -> dict[str, int]:
    """Of the image files that were read: how many are DICOM, and in how many of these names may still stand.

    The adapter ``dicom`` says this of all its files in the notes; this is for films that a table lists.
    """
    values = (value for index in chosen for value in dataset[index].modalities.values())
    paths = {str(value.path) for value in values if isinstance(value, ImageFile)}
    flags = [found for path in sorted(paths) if (found := names_may_stand_in(path)) is not None]
    return {
        "dicom_files": len(flags),
        "identity_not_removed": sum(kept for kept, _ in flags),
        "burned_in_annotation": sum(burned for _, burned in flags),
    }


def _keep(seen: _Seen, index: int, value: Any) -> None:
    if seen.kind == "dialogue" and isinstance(value, Mapping):  # what is learned of it: a question and its answer
        value = f"{value.get('prompt', '')}\n{value.get('answer', '')}"
    if isinstance(value, Mapping):
        seen.rows += 1
        seen.missing.update(str(column) for column, cell in value.items() if _is_missing(cell))
        seen.indices.append(index)
        seen.exact.append(_digest(repr(sorted((str(k), str(v)) for k, v in value.items())).encode()))
    elif isinstance(value, str):
        words = " ".join(normalised_words(value))
        if not words:
            seen.nothing += 1
            return
        seen.indices.append(index)
        seen.exact.append(_digest(words.encode()))
        seen.texts.append(value)
    else:
        array = np.asarray(value)
        if seen.kind == "image":
            cells = grid(array)
            if cells is None:
                seen.nothing += 1
                return
            seen.grids.append(cells)
        seen.indices.append(index)
        seen.exact.append(_digest(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()))


def _is_missing(cell: Any) -> bool:
    return cell is None or cell != cell or str(cell).strip().lower() in MISSING_WORDS


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _compare(seen: _Seen, name: str, partition: Partition, twins: list[tuple[int, int, str]]) -> dict[str, Any]:
    """Records that have a twin in another part: of each pair of parts, how many of the first one."""
    part_of = {index: part for part in PARTS for index in partition.indices(part)}
    result: dict[str, Any] = {
        "kind": seen.kind,
        "compared": len(seen.indices),
        "nothing_to_compare": seen.nothing,
        "exact": _across(seen, seen.exact, {}, part_of, None),
    }
    if seen.kind == "image":
        hashes = difference_hashes(np.array(seen.grids).reshape(-1, 8, 9))
        unique, keys = np.unique(hashes, return_inverse=True)
        pairs = near_hashes(unique).tolist()
    elif seen.kind in _TEXTS:
        sets = [shingles(text) for text in seen.texts]
        numbers = {found: n for n, found in enumerate(dict.fromkeys(sets))}
        keys = np.array([numbers[found] for found in sets])
        pairs = [list(pair) for pair in near_sets(list(numbers))]
    else:
        keys, pairs = np.array(seen.exact), []
    neighbours: dict[Any, set[Any]] = defaultdict(set)
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    found: list[tuple[int, int]] = []
    near = _across(seen, keys.tolist(), neighbours, part_of, found)
    if seen.kind in ("image", *_TEXTS):
        result["near"] = near
    twins += [(a, b, name) for a, b in found]
    return result


def _across(
    seen: _Seen,
    keys: Sequence[Any],
    neighbours: Mapping[Any, set[Any]],
    part_of: Mapping[int, str],
    examples: list[tuple[int, int]] | None,
) -> dict[str, int]:
    """``"forget/test"``: how many forget records have the same or a neighbouring key as some test record."""
    holders: dict[Any, dict[str, int]] = defaultdict(dict)
    for index, key in zip(seen.indices, keys, strict=True):
        if index in part_of:
            holders[key].setdefault(part_of[index], index)
    counts = dict.fromkeys(_PAIRS, 0)
    for index, key in zip(seen.indices, keys, strict=True):
        if index not in part_of:
            continue
        part = part_of[index]
        twins: dict[str, int] = {}
        for other in (key, *sorted(neighbours.get(key, ()))):
            twins = {**holders.get(other, {}), **twins}
        for other_part, twin in twins.items():
            pair = f"{part}/{other_part}"
            if pair in counts:
                counts[pair] += 1
                if examples is not None:
                    examples.append((index, twin))
    return counts


def _leaking(dataset: RecordDataset) -> int:
    splits: dict[str, set[str]] = defaultdict(set)
    for record in dataset:
        splits[record.patient_id].add(record.split)
    return sum(len(found) > 1 for found in splits.values())


def _attributes(dataset: RecordDataset) -> dict[str, dict[str, int]]:
    """What a query can ask for: of how many records it is known, and how many different values it has."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in dataset:
        for name, value in record.attributes.items():
            if value:
                values[name][value] += 1
    return {name: {"known": found.total(), "values": len(found)} for name, found in sorted(values.items())}


def _unknown_labels(dataset: RecordDataset) -> dict[str, dict[str, int]]:
    """Split to label to records without a value: of a multilabel target, label by label."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for record in dataset:
        if isinstance(record.label, tuple):
            names = dataset.classes or tuple(map(str, range(len(record.label))))
            counts[record.split].update(n for n, v in zip(names, record.label, strict=True) if v is None)
        elif record.label is None:
            counts[record.split]["label"] += 1
    return {split: dict(found) for split, found in counts.items()}


def tables(found: Mapping[str, Any]) -> RenderableType:
    """The part of a fingerprint that comes on top of :func:`forgetmi.runs.check.table`, for the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    read = found["read"]
    lines: list[RenderableType] = [
        Text(f"what remains of the same patients: {sentence}") for sentence in found["request"]["remains"]
    ]
    lines += [Text(f"request: {note}") for note in found["request"]["notes"]]
    asked = [
        f"{name} (known of {item['known']}, {item['values']} values)" for name, item in found["attributes"].items()
    ]
    if asked:
        lines.append(Text(f"a query can ask for: {', '.join(asked)}"))
    others = [f"{count} of level {level}" for level, count in found["identifiers"]["other_ids"].items() if count]
    if others:
        lines.append(Text(f"other ids that a request may use: {', '.join(others)}"))
    lines.append(Text(f"patients in several splits: {found['identifiers']['patients_in_several_splits']}"))
    for split, counts in found["unknown_labels"].items():
        if counts:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            lines.append(Text(f"labels not known, {split}: {listed}"))
    if not read["records"]:
        lines.append(Text("no image and no text was read (--sample 0)"))
        return Group(*lines)
    whole = "all" if read["records"] == read["of"] else f"{read['records']} of {read['of']}"
    lines.append(Text(f"read: {whole} records, {read['forget_records']} of them to be forgotten"))
    broken = ", ".join(f"{name} {count}" for name, count in read["unreadable"].items())
    lines.append(Text(f"values that cannot be read or used: {broken or 'none'}"))
    headers = found["headers"]
    if headers["dicom_files"]:
        lines.append(
            Text(
                f"of {headers['dicom_files']} DICOM files, {headers['identity_not_removed']} do not say that names "
                f"were removed, {headers['burned_in_annotation']} say that text is burned into the pixels"
            )
        )
    for name, columns in read["missing_cells"].items():
        gaps = ", ".join(f"{column} {count}" for column, count in columns.items())
        lines.append(Text(f"{name}: cells missing in {read['rows'][name]} rows: {gaps or 'none'}"))
    table = Table(title="records with a twin in another part (of those read)", title_justify="left")
    table.add_column("of / in", no_wrap=True)
    columns = [
        (name, word, counts) for name, item in found["duplicates"].items() for word, counts in item.items()
        if word in ("exact", "near")
    ]  # fmt: skip
    for name, word, _ in columns:
        table.add_column(Text(f"{name}, {'exactly' if word == 'exact' else 'nearly or exactly'}"), justify="right")
    for pair in _PAIRS:
        table.add_row(pair.replace("/", " / "), *(str(counts[pair]) for _, _, counts in columns))
    lines.append(table)
    empty = sum(item["nothing_to_compare"] for item in found["duplicates"].values())
    if empty:
        lines.append(Text(f"not compared, for there is nothing in them: {empty} flat images or texts without words"))
    return Group(*lines)
