"""A directory of files for whoever counts on what has reached the disk: nothing is durable before `sync` says so.

Writes of one file may reach the disk in any order and torn, and a name is durable only once its folder was synced.
"""

import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Final, Protocol

from device_client.adapters import durable

_KEEP_SIZE: Final = 1
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class File(Protocol):
    """Bytes by offset that can be changed."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes, fewer at the end."""

    def write_at(self, offset: int, content: bytes | bytearray) -> None:
        """Write all of `content`; raises `OSError`, of which a part may have been written then."""

    def truncate(self, size: int) -> None:
        """Cut or extend to `size`."""

    def reserve(self, size: int) -> None:
        """Make sure that writes up to `size` find room, durably; its length stays. Raises `OSError`, also where that cannot be
        promised. `truncate` gives the room back.
        """

    def sync(self) -> None:
        """Return once everything written so far is on disk."""


class Folder(Protocol):
    """Files by name."""

    def open(self, name: str) -> File:
        """The file, made if missing."""

    def names(self) -> list[str]:
        """What is there."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

    def sync(self) -> None:
        """Return once the names are on disk."""


class DiskFile:
    """`File` on a real file system. Open until it is let go."""

    def __init__(self, path: Path, flags: int = _FLAGS) -> None:
        self._descriptor = os.open(path, flags, durable.PRIVATE_FILE)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def descriptor(self) -> int:
        """For locks."""
        return self._descriptor

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        content = os.pread(self._descriptor, length, offset)
        while len(content) < length and (
            more := os.pread(self._descriptor, length - len(content), offset + len(content))
        ):
            content += more
        return content

    def write_at(self, offset: int, content: bytes | bytearray) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def reserve(self, size: int) -> None:
        if size > 0:
            _allocate(self._descriptor, size)
            os.fsync(self._descriptor)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)


class DiskFolder:
    """`Folder` on a real file system, with this user only; made if missing."""

    def __init__(self, path: Path) -> None:
        self._path = durable.make_directory(path)

    def open(self, name: str) -> DiskFile:
        return DiskFile(self._path / name)

    def names(self) -> list[str]:
        return sorted(path.name for path in self._path.iterdir())

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def sync(self) -> None:
        durable.sync_directory(self._path)


def read_only(path: Path) -> DiskFile:
    """A file that is only read."""
    return DiskFile(path, os.O_RDONLY | os.O_CLOEXEC)


def reservable(path: Path) -> DiskFile:
    """A file that is only read, and for which room can be reserved, although its mode lets nobody write to it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(durable.PRIVATE_FILE)
    try:
        return DiskFile(path, os.O_RDWR | os.O_CLOEXEC)
    finally:
        path.chmod(mode)


def _allocate(descriptor: int, size: int) -> None:
    """fallocate(2) with FALLOC_FL_KEEP_SIZE, for which Python has no name: `os.posix_fallocate` makes the file longer."""
    libc = ctypes.CDLL(None, use_errno=True)
    allocate = getattr(libc, "fallocate64", None) or libc.fallocate
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(_KEEP_SIZE), ctypes.c_int64(0), ctypes.c_int64(size))
    while allocate(*arguments):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
