"""Blobs in a directory of this machine: `<directory>/<first two digits>/<sha256>`, and the spool beside them.

Written to a hidden file, hashed on the way, synced, renamed: a name that exists holds its content. Download addresses
carry a ticket and are relative to the server's own.
"""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from device_client.wire.names import parse_sha256
from fleet.domain import tickets
from fleet.ports.blobs import BlobMismatchError, BlobMissingError, StorageFullError

CHUNK_BYTES: Final = 1 << 20
DOWNLOAD_PATH: Final = "/device/v1/blobs/"


class LocalBlobStore:
    """A `BlobStore` over a directory."""

    def __init__(self, directory: Path, ticket_key: bytes, now: Callable[[], datetime]) -> None:
        self._directory = directory
        self._ticket_key = ticket_key
        self._now = now

    def put(self, sha256: str, reader: BinaryIO, length: int) -> None:
        """Store what `reader` gives, if it is what the name says."""
        path = self.path(sha256)
        if self.length(sha256) == length:
            return
        with told_when_full():
            _make_directory(path.parent)
            partial = path.with_name(f".{sha256}.{secrets.token_hex(4)}")
            try:
                with partial.open("xb") as file:
                    _copy_verified(reader, file, sha256, length)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            _sync_directory(path.parent)

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        """The content from `offset` on."""
        try:
            file = self.path(sha256).open("rb")
        except FileNotFoundError:
            raise BlobMissingError(f"expected a blob {sha256}, got none") from None
        file.seek(offset)
        return file

    def length(self, sha256: str) -> int | None:
        """The blob's size, or None."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def url(self, sha256: str, ttl_s: int) -> str:
        """A path on this server that is good for `ttl_s` seconds."""
        ticket = tickets.issue(self._ticket_key, parse_sha256(sha256), self._now() + timedelta(seconds=ttl_s))
        return f"{DOWNLOAD_PATH}{sha256}?ticket={ticket}"

    def delete(self, sha256: str) -> None:
        """Remove the blob."""
        self.path(sha256).unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob lies, if there is one."""
        return self._directory / parse_sha256(sha256)[:2] / sha256


class LocalUploadSpool:
    """An `UploadSpool` over a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def append(self, sha256: str, offset: int, reader: BinaryIO, limit: int) -> int:
        """Write a chunk at `offset`."""
        path = self._path(sha256)
        with told_when_full():
            _make_directory(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                file.truncate(offset)
                file.seek(offset)
                try:
                    while limit > 0 and (chunk := reader.read(min(CHUNK_BYTES, limit))):
                        file.write(chunk)
                        limit -= len(chunk)
                finally:
                    file.flush()
                    os.fsync(file.fileno())
                return file.tell()

    def size(self, sha256: str) -> int:
        """How many bytes have arrived."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def open(self, sha256: str) -> BinaryIO:
        """What has arrived."""
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise BlobMissingError(f"expected an upload of {sha256}, got none") from None

    def discard(self, sha256: str) -> None:
        """Forget what has arrived."""
        self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{parse_sha256(sha256)}.part"


def _copy_verified(reader: BinaryIO, file: BinaryIO, sha256: str, length: int) -> None:
    digest, copied = hashlib.sha256(), 0
    while chunk := reader.read(CHUNK_BYTES):
        copied += len(chunk)
        if copied > length:
            break
        digest.update(chunk)
        file.write(chunk)
    if copied != length or digest.hexdigest() != sha256:
        raise BlobMismatchError(
            f"expected {length} bytes of sha256 {sha256}, got {'more' if copied > length else copied} "
            f"of {digest.hexdigest()}"
        )


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def told_when_full() -> Iterator[None]:
    """Makes running out of room inside the block a StorageFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageFullError(f"expected room for the bytes, got: {error.strerror}") from error
        raise
