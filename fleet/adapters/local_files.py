"""`LocalFiles` over the two kinds of store: files of a local store are used where they lie, others are fetched for a while.

Either way the content is hashed before anybody works on it. A process that is killed leaves its scratch directory behind;
later ones clear away what is older than a day.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fleet.adapters.blobs_local import CHUNK_BYTES, LocalBlobStore, told_when_full
from fleet.ports.blobs import BlobMismatchError, BlobStore

LEFT_BEHIND_S: Final = 86_400.0
_PREFIX: Final = "work-"


class ScratchDirectories:
    """Directories to work in, below one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty directory that goes with the block."""
        with told_when_full():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clear_left_behind()
            with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._directory) as name:
                yield Path(name)

    def _clear_left_behind(self) -> None:
        before_s = time.time() - LEFT_BEHIND_S
        for path in self._directory.glob(f"{_PREFIX}*"):
            if path.stat().st_mtime < before_s:
                shutil.rmtree(path, ignore_errors=True)


class StoredFiles(ScratchDirectories):
    """`LocalFiles` of a store that is a directory of this machine."""

    def __init__(self, store: LocalBlobStore, directory: Path) -> None:
        super().__init__(directory)
        self._store = store

    @contextmanager
    def blob(self, sha256: str) -> Iterator[Path]:
        """The store's own file."""
        digest = hashlib.sha256()
        with self._store.open(sha256) as content:
            while piece := content.read(CHUNK_BYTES):
                digest.update(piece)
        _require(sha256, digest.hexdigest())
        yield self._store.path(sha256)


class FetchedFiles(ScratchDirectories):
    """`LocalFiles` of any store: the blob is fetched piece by piece."""

    def __init__(self, store: BlobStore, directory: Path) -> None:
        super().__init__(directory)
        self._store = store

    @contextmanager
    def blob(self, sha256: str) -> Iterator[Path]:
        """A copy that goes with the block."""
        with self.scratch() as directory:
            path, digest = directory / sha256, hashlib.sha256()
            with self._store.open(sha256) as content, path.open("xb") as file:
                while piece := content.read(CHUNK_BYTES):
                    digest.update(piece)
                    file.write(piece)
            _require(sha256, digest.hexdigest())
            yield path


def _require(sha256: str, found: str) -> None:
    if found != sha256:
        raise BlobMismatchError(f"expected the content of {sha256}, got {found} from the store")
