"""A patch that is still on its way, as the decoder wants it: bytes by offset, forwards.

Of what has come, only what may be read again is held: everything since the last checkpoint, in memory. What was kept on disk
before an interruption (the patch's head, and the records of a heavy instruction) is read from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from device_client.adapters.patching.files import File
from device_client.wire.tensor1.errors import PatchTableError

CHUNK_BYTES: Final = 1 << 16


class PatchEndedError(Exception):
    """The stream ended before the patch did. Nothing is wrong with what came."""


@dataclass(frozen=True)
class Kept:
    """Patch bytes from `start` to `end` that lie in a file."""

    file: File
    start: int
    end: int


class StreamedPatch:
    """`RandomAccess` over a stream that begins at `start`. `take` blocks, and returns nothing once the stream has ended."""

    def __init__(self, take: Callable[[int], bytes], size: int, *, start: int = 0, kept: tuple[Kept, ...] = ()) -> None:
        self._take = take
        self._size = size
        self._kept = kept
        self._base = start
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """The length that was announced, whatever has come of it."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Waits for what is not there yet; raises `PatchEndedError`."""
        end = min(offset + length, self._size)
        out = bytearray()
        while offset < end:
            part = self._some(offset, end)
            out += part
            offset += len(part)
        return bytes(out)

    def _some(self, offset: int, end: int) -> bytes:
        for kept in self._kept:
            if kept.start <= offset < kept.end:
                found = kept.file.read_at(offset - kept.start, min(end, kept.end) - offset)
                if not found:
                    raise PatchTableError(f"expected the patch's bytes at {offset} where they were kept, got none")
                return found
        if offset < self._base:
            raise PatchTableError(f"expected a patch that is read forwards, got a read at {offset} after {self._base}")
        while self._base + len(self._buffer) < end:
            chunk = self._take(CHUNK_BYTES)
            if not chunk:
                raise PatchEndedError(f"expected {end} bytes of the patch, got {self._base + len(self._buffer)}")
            self._buffer += chunk
        return bytes(self._buffer[offset - self._base : end - self._base])

    def forget(self, offset: int) -> None:
        """Nothing before `offset` is read again."""
        gone = min(offset - self._base, len(self._buffer))
        if gone > 0:
            del self._buffer[:gone]
            self._base += gone
