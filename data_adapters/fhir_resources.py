"""FHIR R4 resources from bulk-export files, and what their references mean."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from forgetmi.delimited import base_suffix
from forgetmi.errors import DataError

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_REFERENCE = re.compile(
    r"(?:(?P<base>https?://.+)/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]+)?"
)
_CONDITIONAL = re.compile(r"(?:https?://.+/)?Patient\?identifier=(?P<token>[^&]+)")
_TEXT_TYPES = ("text/plain", "text/html", "application/xhtml+xml")
LOINC = "http://loinc.org"
Key = tuple[str, str]


class Resources:
    """The resources of an export, one after the other, and the references between them.

    Args:
        root: a folder with ``*.ndjson`` and ``*.ndjson.gz``, nested ones too, or one such file.
        base_url: the server whose absolute references mean this export's own resources. Needed only where several
            servers are named: both may have a Patient/1.

    Attributes:
        skipped: ``(reason, file:line)`` of what could not be used.
        deletions: how many entries ask for a deletion: they are requests, not data.
        bases: the servers that absolute references and addresses name.
        relative, absolute: whether some references name no server, or one.
    """

    def __init__(self, root: str | os.PathLike[str], base_url: str | None) -> None:
        self.root = Path(root)
        self.base_url = None if base_url is None else base_url.rstrip("/")
        self.skipped: list[tuple[str, str]] = []
        self.deletions = 0
        self.bases: set[str] = set()
        self.relative = self.absolute = False
        self._addresses: dict[str, Key] = {}

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Id, resource and ``file:line`` of every resource with a type and an id, entries of Bundles too."""
        for path in self._files():
            for number, line in _lines(path):
                place = f"{path.name}:{number}"
                value = _parse(line)
                if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
                    self.skipped.append(("line is no FHIR resource", place))
                elif value["resourceType"] == "Bundle":
                    for entry in items(value, "entry"):
                        yield from self._entry(entry, place)
                else:
                    yield from self._resource(value, "", place)

    def _files(self) -> list[Path]:
        if self.root.is_file():
            return [self.root]
        found = [p for p in sorted(self.root.rglob("*")) if base_suffix(p) in (".ndjson", ".jsonl") and p.is_file()]
        if not found:
            raise DataError(
                f"there is no .ndjson file in {self.root.name}",
                where=str(self.root),
                expected="Patient.ndjson, Observation.000.ndjson.gz, ... (the type is read from each line)",
                fix="correct root in the configuration",
            )
        return found

    def _entry(self, entry: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any], str]]:
        if text(entry, "request", "method").upper() == "DELETE":
            self.deletions += 1
            return
        resource = entry.get("resource")
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            self.skipped.append(("entry of a Bundle is no FHIR resource", place))
            return
        yield from self._resource(resource, text(entry, "fullUrl"), place)

    def _resource(
        self, resource: dict[str, Any], address: str, place: str
    ) -> Iterator[tuple[str, dict[str, Any], str]]:
        kind = resource["resourceType"]
        identifier = text(resource, "id")
        found = _REFERENCE.fullmatch(address)
        if not identifier and address.startswith("urn:uuid:"):
            identifier = address.removeprefix("urn:uuid:")
        if not _ID.fullmatch(identifier):
            self.skipped.append(("id is missing or malformed", place))
            return
        if found is not None and found["base"]:
            self.bases.add(found["base"])
            if self.base_url not in (None, found["base"]):
                self.skipped.append(("resource of another server", place))
                return
        if address:
            self._addresses[address] = (kind, identifier)
        yield identifier, resource, place

    def key(self, reference: Any) -> Key | None:
        """Type and id of what a Reference element points at; ``None`` where it is not in this export."""
        written = text(reference, "reference")
        if written in self._addresses:
            return self._addresses[written]
        found = _REFERENCE.fullmatch(written)
        if found is None:
            return None
        if found["base"]:
            self.absolute = True
            self.bases.add(found["base"])
            if self.base_url not in (None, found["base"]):
                return None
        else:
            self.relative = True
        return found["type"], found["id"]

    def binary(self, url: str) -> str | None:
        """The id of the Binary that an attachment's url names."""
        found = _REFERENCE.fullmatch(url)
        if found is None or found["type"] != "Binary" or (found["base"] or self.base_url) != self.base_url:
            return None
        return found["id"]

    def require_one_server(self) -> None:
        """Raise :class:`DataError` where references might mean another server's resources."""
        if self.base_url is not None or len(self.bases) <= 1 - (self.absolute and self.relative):
            return
        raise DataError(
            f"absolute references name {len(self.bases)} server(s), beside "
            f"{'relative ones' if self.relative else 'each other'}: each server may have a Patient/1 of its own",
            where=str(self.root),
            expected="references that all mean this export",
            fix="set base_url to the server of this export; references to others are then counted and not followed",
            private=sorted(self.bases),
        )


def token(reference: Any) -> Key | None:
    """(system, value) of a reference by identifier, or of a conditional one (``Patient?identifier=system|value``)."""
    found = _CONDITIONAL.fullmatch(text(reference, "reference"))
    if found is not None:
        from urllib.parse import unquote

        system, _, value = unquote(found["token"]).rpartition("|")
        return (system, value) if value else None
    value = text(reference, "identifier", "value")
    return (text(reference, "identifier", "system"), value) if value else None


def text(value: Any, *path: str) -> str:
    """The text at a path of objects; blank where anything on the way is missing or of another type."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return clean(value).strip() if isinstance(value, str) else ""


def items(value: Any, name: str) -> list[dict[str, Any]]:
    """The objects of a list."""
    found = value.get(name) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def clean(value: str) -> str:
    """Without lone surrogates, which JSON may hold and no file can."""
    return value.encode("utf-8", "replace").decode("utf-8")


def code_of(concept: Any) -> str:
    """The name of a CodeableConcept: its LOINC code, else ``system|code``, else its text."""
    codings = [coding for coding in items(concept, "coding") if text(coding, "code")]
    for coding in codings:
        if text(coding, "system") == LOINC:
            return text(coding, "code")
    if codings:
        # The same code means something else in another system.
        system = text(codings[0], "system")
        return f"{system}|{text(codings[0], 'code')}" if system else text(codings[0], "code")
    return text(concept, "text")


def value_of(element: dict[str, Any]) -> tuple[Any, str]:
    """The value of an Observation (or component) and its unit; ``None`` where it has none that fits a table."""
    quantity = element.get("valueQuantity")
    if isinstance(quantity, dict):
        return _number(quantity.get("value")), text(quantity, "code") or text(quantity, "unit")
    if (number := _number(element.get("valueInteger"))) is not None:
        return number, ""
    if isinstance(element.get("valueBoolean"), bool):
        return str(element["valueBoolean"]).lower(), ""
    concept = element.get("valueCodeableConcept")
    return code_of(concept) or text(element, "valueString") or None, ""


def attachment_text(attachment: dict[str, Any]) -> tuple[str, str]:
    """The text of an Attachment (or Binary), and why there is none."""
    kind, _, parameters = text(attachment, "contentType").lower().partition(";")
    if kind.strip() not in _TEXT_TYPES:
        return "", f"attachment of type {kind.strip() or 'unknown'} holds no text"
    data = attachment.get("data")
    if not isinstance(data, str):
        return "", "attachment without data"
    charset = re.search(r"charset=\"?([\w\-]+)", parameters)
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
        found = raw.decode(charset[1] if charset else "utf-8-sig")
    except (binascii.Error, UnicodeError, LookupError, ValueError):
        return "", "attachment cannot be decoded"
    found = clean(_without_tags(found) if kind.strip() != "text/plain" else found).strip()
    return found, "" if found else "attachment is blank"


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        if tag in ("p", "div", "li", "tr", "h1", "h2", "h3"):
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def _without_tags(markup: str) -> str:
    parser = _Words()
    parser.feed(markup)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.words).splitlines())
    return "\n".join(line for line in lines if line)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # JSON and Unicode errors are ValueErrors
        return None
