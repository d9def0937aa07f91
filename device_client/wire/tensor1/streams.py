"""Bytes that are no numbers: one LZMA stream through all blocks of an instruction, or the bytes as they are.

The instruction's one scalar is 0 for stored bytes, or 1 + (pb * 5 + lp) * 9 + lc. A block's payload is as much of the
stream as brings its output to light; what a payload holds beyond that waits for the next block.
"""

import lzma
from typing import Final

from device_client.wire.tensor1.errors import PatchPayloadError, PatchTableError

DICTIONARY_BYTES: Final = 8 << 20
STORED: Final = 0


def lzma_method(lc: int, lp: int, pb: int) -> int:
    """The scalar for LZMA with these literal context, literal position and position bits."""
    return 1 + (pb * 5 + lp) * 9 + lc


def lzma_filters(method: int) -> list[dict[str, int]]:
    """What the lzma module calls the method; raises `PatchTableError`."""
    rest, lc = divmod(method - 1, 9)
    pb, lp = divmod(rest, 5)
    if method < 1 or pb > 4 or lc + lp > 4:  # noqa: PLR2004 - the limits of LZMA as liblzma has them
        raise PatchTableError(f"expected properties of LZMA, got {method}")
    return [{"id": lzma.FILTER_LZMA1, "dict_size": DICTIONARY_BYTES, "lc": lc, "lp": lp, "pb": pb}]


class StreamReader:
    """Follows one stream, block by block."""

    def __init__(self, method: int) -> None:
        self._unpacker = (
            None if method == STORED else lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters(method))
        )

    def read(self, payload: bytes, length: int) -> bytes:
        """The next `length` bytes, of which `payload` is the last part that is needed."""
        if self._unpacker is None:
            if len(payload) != length:
                raise PatchPayloadError(f"expected {length} stored bytes, got {len(payload)}")
            return payload
        parts: list[bytes] = []
        missing = length
        while missing:
            try:
                part = self._unpacker.decompress(payload, max_length=missing)
            except (lzma.LZMAError, EOFError) as error:
                raise PatchPayloadError(f"expected LZMA, got {error}") from error
            payload = b""
            if not part and (self._unpacker.needs_input or self._unpacker.eof):
                raise PatchPayloadError(f"expected {length} bytes out of LZMA, got {length - missing}")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
