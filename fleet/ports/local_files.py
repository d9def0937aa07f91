"""Blobs as files on this machine, and room to work in, for what reads by offset and must not hold a file in memory."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class LocalFiles(Protocol):
    """Files that live as long as a block of code."""

    def blob(self, sha256: str) -> AbstractContextManager[Path]:
        """A blob's content, verified; not to be written to. Raises BlobMissingError, BlobMismatchError, StorageFullError."""
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """An empty directory that goes with the block. Running out of room inside the block raises StorageFullError."""
        ...
