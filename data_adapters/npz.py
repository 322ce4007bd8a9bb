"""Arrays of an ``.npz`` file, mapped into memory instead of read into it."""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetmi.errors import DataError

_LOCAL_HEADER = 30  # bytes of a zip's local file header before the name (APPNOTE 4.3.7)


class NpzArray:
    """One array of an archive. Its shape is known at once; its values are mapped when they are first used.

    Stored members (``numpy.savez``) are mapped where they lie. Compressed ones are unpacked once a process into a
    temporary file without a name, and that is mapped: so memory holds only the pages that are used. Save large sets
    again with ``numpy.savez`` to spare every worker the unpacking.

    Args:
        path: the ``.npz``.
        name: the array's name.

    Attributes:
        shape, dtype: of the array.

    Raises:
        DataError: no such file or member, no archive, pickled objects, or fewer bytes than the shape needs.
    """

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        self.path, self.name = os.fspath(path), name
        self._values: NDArray[Any] | None = None
        with _readable(self.path, name), zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as member:
                major, _ = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                self.shape, fortran, self.dtype = read(member)
                self._start = member.tell()
            self._order = "F" if fortran else "C"
            if self.dtype.hasobject:
                raise ValueError("it holds pickled objects, which are never opened")
            if math.prod(self.shape) * self.dtype.itemsize != info.file_size - self._start:
                raise ValueError(f"{info.file_size - self._start} bytes do not make an array of shape {self.shape}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": None}  # a worker maps the file itself

    @property
    def values(self) -> NDArray[Any]:
        """The array, read-only.

        Raises:
            DataError: the file cannot be read any more, or there is no room to unpack it.
        """
        if self._values is None:
            with _readable(self.path, self.name):
                self._values = self._map()
        return self._values

    def _map(self) -> NDArray[Any]:
        memmap: Any = np.memmap  # it takes an open file, numpy's types do not say so
        with zipfile.ZipFile(self.path) as archive, open(self.path, "rb") as stream:
            info = archive.getinfo(f"{self.name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                stream.seek(info.header_offset)
                name, extra = struct.unpack("<HH", stream.read(_LOCAL_HEADER)[26:30])
                start = info.header_offset + _LOCAL_HEADER + name + extra + self._start
                return memmap(stream, self.dtype, "r", start, self.shape, self._order)
            with archive.open(info) as member, tempfile.TemporaryFile(prefix="forgetmi-") as unpacked:
                shutil.copyfileobj(member, unpacked)
                unpacked.flush()
                return memmap(unpacked, self.dtype, "r", self._start, self.shape, self._order)


@dataclass(frozen=True, slots=True)
class NpzItem:
    """One entry of an array along its first axis."""

    array: NpzArray
    index: int

    def load(self) -> NDArray[Any]:
        """A copy of the entry.

        Raises:
            DataError: the file cannot be read any more.
        """
        return np.array(self.array.values[self.index])


class _readable:  # noqa: N801 - used like a function
    """Makes whatever a broken archive leads to a :class:`DataError`."""

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        file = os.path.basename(self._path)
        if isinstance(error, KeyError):
            raise DataError(f"{file} has no array {self._name!r}", where=os.path.dirname(self._path)) from error
        # NotImplementedError: an unknown compression; RuntimeError: an encrypted member.
        known = (OSError, ValueError, EOFError, SyntaxError, NotImplementedError, RuntimeError)
        if isinstance(error, (*known, zipfile.BadZipFile, zlib.error, struct.error)):
            raise DataError(
                f"{file}: array {self._name!r} cannot be read ({error})",
                where=os.path.dirname(self._path),
                expected="an .npz archive as published",
                fix="copy it again; the file may be cut short",
            ) from error
