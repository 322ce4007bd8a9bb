"""Keyed hashes that stand for patient ids wherever something is written; the site keeps the key."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from forgetmi.errors import ConfigError

if TYPE_CHECKING:
    from forgetmi.requests import ForgetRequest

_KEY_BYTES = 32
_SHOWN = 16  # hex digits: 64 bits, so that among a million patients two collide with probability 3e-8


def patient_hasher(key: bytes) -> Callable[[str], str]:
    """A function from an id to its pseudonym: HMAC-SHA256 with the site's key, the first 16 hex digits.

    A plain hash would not do: there are few enough medical record numbers to try them all.

    Raises:
        ConfigError: the key has fewer than 16 bytes.
    """
    _check_key(key)

    def pseudonym(identifier: str) -> str:
        return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:_SHOWN]

    return pseudonym


def request_digest(request: ForgetRequest, key: bytes) -> str:
    """HMAC-SHA256 (64 hex digits) of what a request asks for: level, what its ids name, modalities, sorted ids.

    The order of the ids, the file they came from and its format change nothing.

    Raises:
        ConfigError: the key has fewer than 16 bytes.
    """
    _check_key(key)
    asked = [request.level, request.id_level, sorted(request.modalities or ()), sorted(request.ids)]
    return hmac.new(key, json.dumps(asked).encode(), hashlib.sha256).hexdigest()


def load_or_create_key(path: str | os.PathLike[str], *, run_folder: str | os.PathLike[str] | None = None) -> bytes:
    """The site's key from its file; where there is none, a new one (32 random bytes, written as hex, mode 0600).

    Args:
        path: the key file. Its folder is made (mode 0700) when it is missing.
        run_folder: a folder that is handed on with the results: the key must not lie in it. Folders that hold a
            ``run.json`` are recognised without it.

    Raises:
        ConfigError: the file lies in a run folder, can be read by group or others, is no key, or cannot be written.
    """
    target = Path(path).expanduser().resolve()
    _refuse_run_folder(target, None if run_folder is None else Path(run_folder).expanduser().resolve())
    try:
        if not target.exists():
            _create(target)
        if os.name == "posix" and (mode := stat.S_IMODE(target.stat().st_mode)) & 0o077:
            raise ConfigError(
                [f"the key file {target.name} can be read by others than its owner (mode {mode:04o})"],
                where=str(target),
                fix=f"chmod 600 {target}  (and make a new key if others may have read it)",
            )
        text = target.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError([f"the key file cannot be read or written: {error.strerror}"], where=str(target)) from error
    except ValueError as error:  # not ASCII, or not hexadecimal
        raise ConfigError([_not_a_key(target)], where=str(target)) from error
    if len(key) != _KEY_BYTES:
        raise ConfigError([_not_a_key(target)], where=str(target))
    return key


def _not_a_key(path: Path) -> str:
    return f"{path.name} holds no key: expected {2 * _KEY_BYTES} hexadecimal digits"


def _check_key(key: bytes) -> None:
    if len(key) < 16:
        raise ConfigError([f"a key of {len(key)} bytes can be guessed: at least 16 are needed"])


def _refuse_run_folder(target: Path, run_folder: Path | None) -> None:
    for folder in target.parents:
        if folder == run_folder or (folder / "run.json").exists():
            raise ConfigError(
                ["the key file lies in a run folder: whoever gets the results could undo the pseudonyms"],
                where=str(target),
                fix="name a file outside of it",
            )


def _create(target: Path) -> None:
    """Write the key under a temporary name, then link it: nobody ever sees half a key, and the first writer wins."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return  # another process was faster: its key counts
    finally:
        temporary.unlink()
