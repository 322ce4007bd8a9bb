"""Broken files: mutations of bytes, columns, types, encodings and sizes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from random import Random
from typing import Any

NASTY = [
    *("", " ", "nan", "NA", "-1", "0", "1", "1.5", "1e400", "-inf", "9" * 60, "0012", "12.0", "true", "None", "\t"),
    *("ä" * 3, "\u202e12", "\u0663", "\x00", "a,b", 'a"b', "a\nb", "../../etc", "/", "[", "['x'", "{'a': 1}", "[1, [2"),
    *("train", "2020-13-45", "x" * 5000, "😀", "Patient/1", "1|2", "http://a b", "(1)", "{}", "''", "\\", "-"),
]
VALUES: list[Any] = [*NASTY, None, True, 3, -1.5, 1e308, 10**40, [], {}, [None], [[]], {"a": {}}, [{"x": 1}], ["a", 1]]
TABLES = (".csv", ".tsv")
LINES = (".ndjson", ".jsonl")


def mutate(path: Path, content: bytes, rng: Random) -> str:
    """Write a broken form of the content; what was done."""
    zipped = path.suffix == ".gz" and rng.random() < 0.8
    if zipped:
        inner = path.with_suffix("").suffix
        plain = gzip.decompress(content)
    else:
        inner, plain = path.suffix, content
    ways = [_bytes, _bytes, _sizes, _encoding]
    if inner in TABLES:
        ways += [_cells] * 6
    elif inner == ".json" or inner in LINES:
        ways += [_json] * 6
    elif inner in (".xml", ".txt", ".hea", ".atr"):
        ways += [_words] * 4
    way = rng.choice(ways)
    try:
        changed = way(plain, inner, rng)
    except (UnicodeDecodeError, ValueError, IndexError, csv.Error):
        way, changed = _bytes, _bytes(plain, inner, rng)
    path.write_bytes(gzip.compress(changed, mtime=0) if zipped else changed)
    return way.__name__


def _bytes(content: bytes, _: str, rng: Random) -> bytes:
    found = bytearray(content)
    for _n in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = rng.randrange(256)
        elif kind == 2:
            found[at:at] = rng.randbytes(rng.choice((1, 3, 40)))
        elif kind == 3:
            del found[at : at + rng.choice((1, 2, 8, 100))]
        else:
            end = at + rng.choice((2, 8, 50))
            found[at:end] = bytes(len(found[at:end]))
    return bytes(found)


def _sizes(content: bytes, _: str, rng: Random) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 2:
        return content * rng.choice((2, 3, 20))
    if kind == 3:
        return content + rng.randbytes(rng.choice((1, 1000)))
    if kind == 4:
        return b"\n" * 300 + content
    return content[rng.randrange(len(content) + 1) :]


def _encoding(content: bytes, _: str, rng: Random) -> bytes:
    text = content.decode("utf-8")
    kind = rng.randrange(7)
    if kind < 3:
        return text.encode(("utf-16", "utf-16-be", "utf-32")[kind])
    if kind == 3:
        return (text + "é").encode("latin-1", "replace")
    if kind == 4:
        return b"\xef\xbb\xbf" + content
    if kind == 5:
        return text.replace("\n", "\r\n").encode()
    return text.replace("\n", "\r").encode()


def _words(content: bytes, _: str, rng: Random) -> bytes:
    parts = content.decode("utf-8").split(" ")
    at = rng.randrange(len(parts))
    kind = rng.randrange(3)
    if kind == 0:
        parts[at] = rng.choice(NASTY)
    elif kind == 1:
        del parts[at]
    else:
        parts[at:at] = [rng.choice(parts)] * rng.choice((1, 2, 50))
    return " ".join(parts).encode()


def _cells(content: bytes, suffix: str, rng: Random) -> bytes:
    mark = "\t" if suffix == ".tsv" else ","
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=mark))
    for _n in range(rng.choice((1, 1, 1, 2, 4))):
        row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
        kind = rng.randrange(10)
        if kind < 3 and column < len(rows[row]):
            rows[row][column] = rng.choice(NASTY)
        elif kind == 3 and column < len(rows[row]):
            rows[row][column] = rng.choice(rng.choice(rows) or [""])
        elif kind == 4:
            for line in rows:
                del line[column : column + 1]
        elif kind == 5:
            for line in rows:
                line.insert(column, line[column] if column < len(line) else "")
        elif kind == 6:
            rows.insert(row, list(rng.choice(rows)))
        elif kind == 7:
            rows[row] = rows[row][:column]
        elif kind == 8:
            value = rng.choice(NASTY)
            for line in rows[1:]:
                line[column : column + 1] = [value]
        else:
            rows = rows[: max(1, row)]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=mark, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def _json(content: bytes, suffix: str, rng: Random) -> bytes:
    if suffix not in LINES and b"}\n{" not in content:  # some sets of JSON lines are called .json
        return json.dumps(_one(json.loads(content), rng)).encode()
    lines = [line for line in content.split(b"\n") if line.strip()]
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind == 0:
        lines.insert(at, rng.choice(lines))
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = b"[" * rng.choice((1, 100_000))
    else:
        lines[at] = json.dumps(_one(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def _one(value: Any, rng: Random) -> Any:
    """The value with one place of it changed."""
    places: list[tuple[Any, Any]] = []
    holder = [value]
    stack: list[tuple[Any, Any]] = [(holder, 0)]
    while stack:
        parent, key = stack.pop()
        places.append((parent, key))
        child = parent[key]
        keys = child.keys() if isinstance(child, dict) else range(len(child)) if isinstance(child, list) else ()
        stack += [(child, k) for k in keys]
    for _n in range(rng.choice((1, 1, 2))):
        parent, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0 and isinstance(parent, dict):
            parent.pop(key, None)
        elif kind == 1 and isinstance(parent, dict) and key in parent:
            parent[str(rng.choice(NASTY))] = parent[key]
        elif isinstance(parent, dict) or key < len(parent):
            parent[key] = rng.choice(VALUES)
    return holder[0]
