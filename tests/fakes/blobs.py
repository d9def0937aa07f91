"""A blob store and a spool in memory. They pass the contract tests of the real ones."""

import hashlib
from io import BytesIO
from typing import BinaryIO

from device_client.wire.names import parse_sha256
from fleet.ports.blobs import BlobMismatchError, BlobMissingError


class MemoryBlobStore:
    """A `BlobStore`."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, sha256: str, reader: BinaryIO, length: int) -> None:
        content = reader.read(length + 1)
        if len(content) != length or hashlib.sha256(content).hexdigest() != parse_sha256(sha256):
            raise BlobMismatchError(f"expected {length} bytes of {sha256}, got others")
        self.blobs[sha256] = content

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        try:
            return BytesIO(self.blobs[parse_sha256(sha256)][offset:])
        except KeyError:
            raise BlobMissingError(f"expected a blob {sha256}, got none") from None

    def length(self, sha256: str) -> int | None:
        content = self.blobs.get(parse_sha256(sha256))
        return None if content is None else len(content)

    def url(self, sha256: str, ttl_s: int) -> str:
        return f"memory:{parse_sha256(sha256)}?ttl={ttl_s}"

    def delete(self, sha256: str) -> None:
        self.blobs.pop(parse_sha256(sha256), None)


class MemoryUploadSpool:
    """An `UploadSpool`."""

    def __init__(self) -> None:
        self.parts: dict[str, bytearray] = {}

    def append(self, sha256: str, offset: int, reader: BinaryIO, limit: int) -> int:
        part = self.parts.setdefault(parse_sha256(sha256), bytearray())
        del part[offset:]
        while limit > 0 and (chunk := reader.read(min(limit, 65_536))):
            part += chunk
            limit -= len(chunk)
        return len(part)

    def size(self, sha256: str) -> int:
        return len(self.parts.get(parse_sha256(sha256), b""))

    def open(self, sha256: str) -> BinaryIO:
        try:
            return BytesIO(bytes(self.parts[parse_sha256(sha256)]))
        except KeyError:
            raise BlobMissingError(f"expected an upload of {sha256}, got none") from None

    def discard(self, sha256: str) -> None:
        self.parts.pop(parse_sha256(sha256), None)


class MemoryMetadataFiles:
    """`MetadataFiles` that also keeps the order of writing."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.written: list[str] = []

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self.written.append(name)
