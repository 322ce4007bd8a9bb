"""Requests as they arrive: a file of ids, an EHR's list of deletions, a clerk's list, or a query."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from forgetmi.delimited import base_suffix, find_file, open_text
from forgetmi.errors import RequestError
from forgetmi.forget_request import ForgetRequest, read_json
from forgetmi.records import RecordDataset
from forgetmi.request_list import read_list
from forgetmi.request_query import Query

# "Patient/123", "https://host/fhir/Patient/123", "Patient/123/_history/2"; FHIR ids have up to 64 of these characters.
_REFERENCE = re.compile(r"^(?:.*/)?([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})(?:/_history/[^/]*)?$")
_MANIFEST_KEYS = {"deleted", "transactionTime", "requiresAccessToken"}


def read_request(
    path: str | os.PathLike[str],
    *,
    level: str | None = None,
    column: str | None = None,
    dataset: RecordDataset | None = None,
) -> ForgetRequest:
    """A request from a file, told apart by its suffix and its content.

    ============================  =================================================================================
    ``.csv``, ``.tsv`` (``.gz``)  ids, exactly as the data has them: :meth:`ForgetRequest.from_csv`
    ``.json``                     ids: :meth:`ForgetRequest.from_json`; a FHIR bulk export's manifest:
                                  :func:`read_fhir_manifest`; or ``{"level": "study", "query": {...}}``:
                                  :class:`~forgetmi.request_query.Query`
    ``.txt``                      ids as a clerk types them: :func:`~forgetmi.request_list.read_list`
    ============================  =================================================================================

    Args:
        path: the file.
        level: the level, where a CSV does not say it; of a list, the level at which its ids are forgotten.
        column: of a CSV, the column that holds the ids.
        dataset: lists and queries are looked up in it.

    Raises:
        RequestError: another suffix, a list or query without a dataset, or what these readers say.
    """
    file = Path(path)
    suffix = base_suffix(file)
    if suffix in (".csv", ".tsv"):
        return ForgetRequest.from_csv(path, level, column)
    if column is not None:
        raise RequestError("column belongs to CSV requests", where=file.name)
    if suffix == ".txt":
        return read_list(file, _needed(dataset, file), level=level)
    if suffix != ".json":
        raise RequestError(f"{file.name} is no request file", expected="a name that ends in .csv, .tsv, .json or .txt")
    if level is not None:
        raise RequestError("level is for CSV requests and lists; a JSON request says its level itself", where=file.name)
    content = read_json(file)
    if isinstance(content, dict) and _MANIFEST_KEYS & set(content):
        return read_fhir_manifest(file)
    if isinstance(content, dict) and "query" in content:
        return Query.from_mapping(content, source=file.name).find(_needed(dataset, file))
    return ForgetRequest.from_json(path)


def _needed(dataset: RecordDataset | None, file: Path) -> RecordDataset:
    if dataset is None:
        raise RequestError(f"{file.name} must be looked up in the data", where=file.name, fix="give dataset=...")
    return dataset


def read_fhir_manifest(path: str | os.PathLike[str]) -> ForgetRequest:
    """A patient request from the ``deleted`` files of a FHIR bulk export's manifest.

    HL7 FHIR Bulk Data Access, "Response - Complete Status", field ``deleted``: each line of such a file is a Bundle of
    type transaction whose entries have ``request.method`` DELETE and ``request.url`` ``Patient/123``. The files are
    looked for beside the manifest, under the last part of their URL; nothing is fetched. Deleted resources of other
    types are counted in the request's notes and otherwise left alone: that an observation was taken back does not say
    that its patient wants to be forgotten. Ids are FHIR ids: the data must be of the same FHIR server, or know them as
    aliases.

    Raises:
        RequestError: unreadable manifest or file, a file that is not there, a line that is no such Bundle (the message
            names file and line), or no patient among what was deleted.
    """
    file = Path(path)
    manifest = read_json(file)
    deleted = manifest.get("deleted", []) if isinstance(manifest, dict) else None
    if not isinstance(deleted, list) or not all(isinstance(item, dict) for item in deleted):
        raise RequestError(
            f"{file.name} is no manifest of a bulk export",
            where=file.name,
            expected='"deleted": [{"type": "Bundle", "url": "https://.../deleted.ndjson"}]',
        )
    ids: list[str] = []
    places: list[str] = []
    others: Counter[str] = Counter()
    for number, item in enumerate(deleted):
        for place, kind, identifier in _deletions(_beside(file, item, number)):
            if kind == "Patient":
                ids.append(identifier)
                places.append(place)
            else:
                others[kind] += 1
    listed = ", ".join(f"{kind} {n}" for kind, n in sorted(others.items()))
    if not ids:
        raise RequestError(
            f"the manifest names no deleted patient among {sum(others.values())} deleted resources",
            where=file.name,
            fix=f"there is nobody to forget in it{f' ({listed})' if listed else ''}",
        )
    notes = [f"deleted resources that are no patients were not used: {listed}"] if others else []
    links = manifest.get("link", []) if isinstance(manifest, dict) else []
    if isinstance(links, list) and any(isinstance(link, dict) and link.get("relation") == "next" for link in links):
        notes.append("the manifest has further pages (link next): each is a request of its own")
    return ForgetRequest.of("patient", ids, places=places, source=file.name, notes=notes, kind="fhir")


def _beside(manifest: Path, item: Mapping[str, Any], number: int) -> Path:
    """The local file of an entry: beside the manifest, whatever folder its URL names."""
    where = f"{manifest.name}:deleted[{number}]"
    if item.get("type", "Bundle") != "Bundle":
        raise RequestError("a file of deletions is not of type Bundle", where=where)
    url = item.get("url")
    try:
        name = PurePosixPath(urlsplit(url).path).name if isinstance(url, str) else ""
        if not name or name == ".." or "\0" in name:
            raise ValueError
        return find_file(manifest.parent / name, error=RequestError)
    except RequestError as error:
        error.where = f"{error.where}, which {where} names"
        raise
    except (ValueError, OSError):
        raise RequestError(
            "an entry of the manifest names no file", where=where, expected='"url": "https://.../deleted.ndjson"'
        ) from None


def _deletions(path: Path) -> Iterator[tuple[str, str, str]]:
    """``(file:line, resource type, id)`` of each entry."""
    with open_text(path, RequestError) as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            place = f"{path.name}:{line}"
            for entry in _entries(text, place):
                asked = entry.get("request") if isinstance(entry, dict) else None
                found = None
                if isinstance(asked, dict) and asked.get("method") == "DELETE" and isinstance(asked.get("url"), str):
                    found = _REFERENCE.match(asked["url"])
                if found is None:
                    raise RequestError(
                        "an entry of the Bundle does not say which resource was deleted",
                        where=place,
                        expected='"request": {"method": "DELETE", "url": "Patient/123"}',
                    )
                yield place, found.group(1), found.group(2)


def _entries(text: str, place: str) -> list[Any]:
    try:
        bundle = json.loads(text)
    except (ValueError, RecursionError):
        bundle = None
    entries = bundle.get("entry", []) if isinstance(bundle, dict) else None
    if not isinstance(entries, list) or bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
        raise RequestError(
            "a line is no Bundle of type transaction",
            where=place,
            expected='{"resourceType": "Bundle", "type": "transaction", "entry": [...]}',
        )
    return entries
