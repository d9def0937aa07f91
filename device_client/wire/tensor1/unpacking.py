"""Inflates what is long in small steps: the memory that it takes is that of the result, which the caller has.

The libraries' own calls collect what they make and join it in the end, which takes twice the result.
"""

import lzma
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

_STEP_BYTES: Final = 1 << 16


class Unpacker:
    """Raw deflate, or raw LZMA with these filters, into a buffer of a fixed length."""

    def __init__(self, length: int, filters: Sequence[dict[str, int]] | None = None) -> None:
        self._deflated = zlib.decompressobj(-15) if filters is None else None
        self._lzma = None if filters is None else lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=list(filters))
        self.content = bytearray(length)
        self.made = 0

    def fill(self, chunks: Iterable[bytes | memoryview]) -> bool:
        """Whether the chunks make exactly the length, and nothing follows; raises ValueError where they are no such stream."""
        try:
            return all(self._feed(chunk) for chunk in chunks) and self.made == len(self.content) and self._is_at_end()
        except (lzma.LZMAError, zlib.error, EOFError) as error:
            raise ValueError(str(error)) from error

    def _feed(self, chunk: bytes | memoryview) -> bool:
        """Whether there was room for all that came of a chunk."""
        while True:
            # One byte more than there is room for, so that too long a stream is told from one that ends.
            limit = min(_STEP_BYTES, len(self.content) - self.made + 1)
            part, chunk = self._part(chunk, limit)
            if self.made + len(part) > len(self.content):
                return False
            self._put(part)
            self.made += len(part)
            if len(part) < limit and not chunk:
                return True

    def _part(self, chunk: bytes | memoryview, limit: int) -> tuple[bytes, bytes]:
        if self._lzma is not None:
            # It keeps what it has not read yet.
            return self._lzma.decompress(bytes(chunk), max_length=limit), b""
        if self._deflated is None or self._deflated.eof:
            raise EOFError("expected the end, got more")
        return self._deflated.decompress(chunk, limit), self._deflated.unconsumed_tail

    def _is_at_end(self) -> bool:
        # LZMA may be written without a mark at its end.
        return self._deflated is None or (self._deflated.eof and not self._deflated.unused_data)

    def _put(self, part: bytes) -> None:
        self.content[self.made : self.made + len(part)] = part


class PlaneUnpacker(Unpacker):
    """Of words of four bytes: first all lowest bytes, then the next ones; each goes to its place at once."""

    def _put(self, part: bytes) -> None:
        words, at, rest = len(self.content) // 4, self.made, memoryview(part)
        while rest:
            plane, word = divmod(at, words)
            count = min(len(rest), words - word)
            start = 4 * word + plane
            self.content[start : start + 4 * count : 4] = rest[:count]
            at, rest = at + count, rest[count:]
