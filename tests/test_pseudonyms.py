"""Keyed hashes and the key file."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from forgetmi.errors import ConfigError
from forgetmi.pseudonyms import load_or_create_key, patient_hasher, request_digest
from forgetmi.requests import ForgetRequest

KEY = bytes(range(32))


def _by_definition(key: bytes, message: bytes) -> str:
    """RFC 2104 with SHA-256 and a key shorter than a block."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).hexdigest()


def test_pseudonyms_are_hmac_sha256_cut_to_16_digits():
    assert patient_hasher(KEY)("0012") == _by_definition(KEY, b"0012")[:16]
    assert patient_hasher(KEY)("0012") != patient_hasher(KEY)("12")
    assert patient_hasher(KEY)("0012") != patient_hasher(KEY[::-1])("0012")


def test_a_short_key_is_refused():
    with pytest.raises(ConfigError, match="guessed"):
        patient_hasher(b"secret")


def test_the_digest_depends_on_what_is_asked_and_on_nothing_else():
    asked = ForgetRequest.of("patient", ["2", "1", "1"], source="a.csv")
    digest = request_digest(asked, KEY)
    assert len(digest) == 64
    assert digest == request_digest(ForgetRequest.of("patient", ["1", "2"], source="b.json"), KEY)
    others = [
        ForgetRequest.of("study", ["1", "2"]),
        ForgetRequest.of("patient", ["12"]),
        ForgetRequest.of("modality", ["1", "2"], ["text"], id_level="patient"),
        ForgetRequest.of("modality", ["1", "2"], ["image"], id_level="patient"),
        ForgetRequest.of("modality", ["1", "2"], ["text"]),
    ]
    assert len({digest, *(request_digest(other, KEY) for other in others)}) == 6
    assert digest != request_digest(asked, KEY[::-1])


def test_a_new_key_is_private_and_read_again(tmp_path):
    path = tmp_path / "site" / "key"
    key = load_or_create_key(path)
    assert len(key) == 32 and load_or_create_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["key"]
    assert load_or_create_key(tmp_path / "other") != key


def test_two_processes_that_race_get_the_same_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_or_create_key(tmp_path / "key"), range(32)))
    assert len(set(keys)) == 1 and os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create_key(path)


@pytest.mark.parametrize("content", [b"", b"abcd\n", b"not hexadecimal", b"\xff\xfe"])
def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no key"):
        load_or_create_key(path)
    assert path.read_bytes() == content


def test_a_key_inside_a_run_folder_is_refused_and_not_written(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="run folder"):
        load_or_create_key(tmp_path / "inner" / "key")
    run = tmp_path.parent / "new_run"
    with pytest.raises(ConfigError, match="run folder"):
        load_or_create_key(run / "key", run_folder=run)
    assert not (tmp_path / "inner").exists() and not run.exists()
