"""What the decoder needs of the world: two things to read by offset, and somewhere to put finished blocks."""

from typing import Protocol


class RandomAccess(Protocol):
    """Bytes by offset. `read_at` returns exactly `length` bytes when they exist, fewer only at the end of what exists.

    A patch that is still being downloaded is one too: it blocks, or raises the transport's own error, which passes through
    the decoder untouched. The decoder reads a patch forwards, looking at most ten bytes
    ahead of what it then reads again; only a resume jumps.
    """

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class BlockWriter(Protocol):
    """Takes a block that has been checked. Offsets come in order and leave no gaps."""

    def __call__(self, offset: int, content: bytes | bytearray) -> None: ...
