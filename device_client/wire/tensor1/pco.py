"""Reads pcodec files of the one kind that `tensor1` has: every chunk of plain numbers, none coded as differences or multiples.

A chunk's first byte says how it is coded. Other ways than ours make a reader allocate what the file claims (a look back over
2**32 numbers is 16 GiB), so a chunk is refused by that byte, and by its count, before pcodec sees it.

    "pco!" | version u8, type u8 | bits of the hint - 1 (6 bits), hint | wrapped version u8 u8
    for each chunk: type u8, count - 1 u24, mode and differences u8 ..., page | 0 u8
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from device_client.wire.tensor1.errors import CodecUnavailableError, PatchPayloadError

if TYPE_CHECKING:
    from device_client.wire.tensor1.elements import Integers

_MAGIC: Final = b"pco!\x03"
_HINT_AT: Final = 6
_WRAPPED_MAJOR: Final = 4
_WRAPPED_BYTES: Final = 2
_CHUNK_HEAD_BYTES: Final = 4
# Mode "classic" in the low bits, no differences in the high ones.
_PLAIN: Final = 0
_MIN_BYTES: Final = 10
# The library writes chunks of 2**18 numbers, and a block has no more than 2**19. Each is read from a copy of all that follows.
MAX_CHUNKS: Final = 16


def read(content: bytes, target: Integers) -> None:
    """Fill `target` with the numbers of a pcodec file; raises `PatchPayloadError` unless it has exactly as many."""
    try:
        from pcodec import wrapped
    except ImportError as error:
        raise CodecUnavailableError("expected pcodec to read this patch, got none") from error
    try:
        _read(wrapped, content, target)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise PatchPayloadError(f"expected a pcodec file, got {error}") from error
    except BaseException as error:
        # What pcodec's own code panics with is not an Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise PatchPayloadError(f"expected a pcodec file, got {error}") from error


def _read(wrapped: Any, content: bytes, target: Integers) -> None:
    if not content.startswith(_MAGIC) or len(content) < _MIN_BYTES:
        raise PatchPayloadError(f"expected a pcodec file, got {content[:8].hex()}")
    hint_bits = 1 + (content[_HINT_AT] & 0x3F)
    at = _HINT_AT + (6 + hint_bits + 7) // 8
    if content[at] != _WRAPPED_MAJOR:
        raise PatchPayloadError(f"expected pcodec's format {_WRAPPED_MAJOR}, got {content[at]}")
    file, used = wrapped.FileDecompressor.new(content[at : at + _WRAPPED_BYTES])
    at += used
    done = chunks = 0
    dtype = f"i{8 * target.itemsize}"
    while content[at]:
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise PatchPayloadError(f"expected at most {MAX_CHUNKS} chunks of a pcodec file, got more")
        count = 1 + int.from_bytes(content[at + 1 : at + _CHUNK_HEAD_BYTES], "little")
        at += _CHUNK_HEAD_BYTES
        if count > len(target) - done:
            raise PatchPayloadError(f"expected {len(target) - done} differences more, got a chunk of {count}")
        if content[at] != _PLAIN:
            raise PatchPayloadError(f"expected a pcodec chunk of plain numbers, got one of kind {content[at]:#04x}")
        chunk, used = file.chunk_decompressor(content[at:], dtype)
        at += used
        progress, used = chunk.read_page_into(content[at:], count, target[done : done + count])
        at += used
        if progress.n_processed != count or not progress.finished:
            raise PatchPayloadError(f"expected {count} differences, got {progress.n_processed}")
        done += count
    if done != len(target) or at + 1 != len(content):
        raise PatchPayloadError(f"expected {len(target)} differences and the end, got {done} by {at} of {len(content)}")
