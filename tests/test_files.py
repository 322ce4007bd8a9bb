"""A reader sees the old content or the new one, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

from forgetmi.errors import ForgetMIError
from forgetmi.files import atomic_write, sha256_file, write_json, write_text


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    return target


def untouched(path):
    return path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == [path.name]


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "check the folder and its permissions"),
        (errno.EROFS, "check the folder and its permissions"),
    ],
)
def test_what_to_do_fits_what_went_wrong(path, monkeypatch, number, todo):
    def refused(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(ForgetMIError) as caught:
        write_text(path, "new")
    assert caught.value.fix.startswith(todo)
    assert untouched(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(path, monkeypatch, call):
    monkeypatch.setattr(os, call, full)
    with pytest.raises(ForgetMIError, match=r"cannot write report\.json: No space left on device") as caught:
        write_text(path, "new")
    assert caught.value.where == str(path.parent) and "free some space" in caught.value.fix
    assert untouched(path)


def test_a_disk_that_fills_up_while_writing(path):
    def write():
        with atomic_write(path) as file:
            file.write(b"half")
            full()

    with pytest.raises(ForgetMIError, match="No space left"):
        write()
    assert untouched(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_any_other_end_leaves_the_old_content_and_passes_on(path, error):
    def write():
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert untouched(path)


def test_ctrl_c_between_writing_and_renaming(path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert untouched(path)


def test_a_reader_meanwhile_sees_the_old_content_and_then_the_new_one(path):
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and len(list(path.parent.iterdir())) == 1


def test_only_the_owner_may_read_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        for name in ("fresh.txt", "deep/er/fresh.txt"):
            write_text(tmp_path / name, "x")
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        loose = tmp_path / "loose.txt"
        loose.write_text("x")
        loose.chmod(0o666)
        write_text(loose, "y")
        assert stat.S_IMODE(loose.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_folder_that_is_a_file(path):
    with pytest.raises(ForgetMIError, match=r"cannot write x\.txt"):
        write_text(path / "x.txt", "new")
    assert untouched(path)


def test_json_is_utf_8_and_without_nan(path):
    write_json(path, {"umlaut": "ä", "n": 0.1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"umlaut": "ä", "n": 0.1}
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"auc": float("nan")})
    assert untouched(path)


def test_digest_of_a_known_file(path):
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
