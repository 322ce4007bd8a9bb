"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from forgetmi.errors import ForgetMIError


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; on success it is flushed to disk and renamed to ``path``.

    The file's mode is 0600. On any error, Ctrl-C included, the temporary file is removed and ``path`` is as it was.

    Raises:
        ForgetMIError: the disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> ForgetMIError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    todo = "free some space" if full else "check the folder and its permissions"
    return ForgetMIError(
        f"cannot write {path.name}: {error.strerror or error}",
        where=str(path.parent),
        fix=f"{todo}, or choose another one; what stood there before is untouched",
    )


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and Infinity are refused, because no other program reads them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
