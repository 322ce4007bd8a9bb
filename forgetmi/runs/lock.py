"""One run at a time in a run folder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from forgetmi.errors import ConfigError
from forgetmi.runs.folder import make_folder

logger = logging.getLogger("forgetmi")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder, which is made where it is missing, to this process for the length of the block.

    The lock is on the folder itself and leaves no file; the system frees it when the process ends, however it ends.
    Where the system or the file system has no locks the run goes on, and the log says so.

    Raises:
        ConfigError: another process is at work in it.
        ForgetMIError: it cannot be made.
    """
    make_folder(folder)
    try:
        import fcntl
    except ImportError:
        logger.info("this system has no file locks: see to it that no other run writes to the folder")
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ConfigError(
                    ["run.folder: another run is at work in it"],
                    where=str(folder),
                    fix="wait until it ends, or choose another run.folder",
                ) from error
            logger.info("the file system has no locks: see to it that no other run writes to the folder")
        yield
    finally:
        os.close(descriptor)
