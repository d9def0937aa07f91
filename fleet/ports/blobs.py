"""Where the bytes of models lie: a store of whole, verified blobs, and a spool for those that are still arriving."""

from typing import BinaryIO, Protocol


class BlobMissingError(Exception):
    """The store holds no blob of this name."""


class BlobMismatchError(Exception):
    """The bytes are not those that the name or the stated length promises. Nothing was stored."""


class StorageFullError(Exception):
    """There is no room for the bytes; the same request may succeed later."""


class BlobStore(Protocol):
    """Immutable bytes named by their sha256. A blob is there whole or not at all."""

    def put(self, sha256: str, reader: BinaryIO, length: int) -> None:
        """Store what `reader` gives; raises BlobMismatchError unless it is exactly this content. Twice is no error."""
        ...

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        """The content from `offset` on; raises BlobMissingError. The caller closes it."""
        ...

    def length(self, sha256: str) -> int | None:
        """How many bytes the blob has, or None where there is none."""
        ...

    def url(self, sha256: str, ttl_s: int) -> str:
        """An address from which whoever holds it may download the blob for `ttl_s` seconds.

        Relative addresses belong to the server that the device enrolled with.
        """
        ...

    def delete(self, sha256: str) -> None:
        """Remove the blob; nothing to remove is no error."""
        ...


class UploadSpool(Protocol):
    """Bytes on their way into the store. What is here is neither whole nor verified, and nobody downloads it."""

    def append(self, sha256: str, offset: int, reader: BinaryIO, limit: int) -> int:
        """Write what `reader` gives at `offset` (at most `limit` bytes), durably; returns the new size.

        What stood after `offset` is cut off first, so a chunk that is sent again does no harm. A reader that fails half
        way leaves the bytes that came.
        """
        ...

    def size(self, sha256: str) -> int:
        """How many bytes have arrived; 0 for none."""
        ...

    def open(self, sha256: str) -> BinaryIO:
        """What has arrived; raises BlobMissingError. The caller closes it."""
        ...

    def discard(self, sha256: str) -> None:
        """Forget what has arrived; nothing to forget is no error."""
        ...
