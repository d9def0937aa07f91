"""Bytes that are no numbers: one LZMA stream through all blocks of an instruction, or the bytes as they are.

The instruction's one scalar is 0 for stored bytes, or 1 + (pb * 5 + lp) * 9 + lc. A block's payload is as much of the
stream as brings its output to light; what a payload holds beyond that waits for the next block.
"""

import lzma
from typing import Final

from device_client.wire.tensor1.errors import PatchLimitError, PatchPayloadError, PatchTableError
from device_client.wire.tensor1.format import PAYLOAD_SLACK

DICTIONARY_BYTES: Final = 8 << 20
STORED: Final = 0
# What LZMA is given at once: the library keeps what it has not read, and does not say how much that is.
_FED_BYTES: Final = 4096


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
        # What payloads held beyond what their blocks needed.
        self._waiting = b""

    def read(self, payload: bytes, length: int) -> bytes | bytearray:
        """The next `length` bytes, of which `payload` is the last part that is needed."""
        if self._unpacker is None:
            if len(payload) != length:
                raise PatchPayloadError(f"expected {length} stored bytes, got {len(payload)}")
            return payload
        output = bytearray()
        given, at = self._waiting + payload, 0
        while len(output) < length:
            part = given[at : at + _FED_BYTES] if self._unpacker.needs_input else b""
            at += len(part)
            try:
                made = self._unpacker.decompress(part, max_length=length - len(output))
            except (lzma.LZMAError, EOFError) as error:
                raise PatchPayloadError(f"expected LZMA, got {error}") from error
            output += made
            if not made and at == len(given) and (self._unpacker.needs_input or self._unpacker.eof):
                raise PatchPayloadError(f"expected {length} bytes out of LZMA, got {len(output)}")
        self._waiting = given[at:]
        if len(self._waiting) > PAYLOAD_SLACK:
            raise PatchLimitError(f"expected what {length} bytes of output need, got {len(self._waiting)} bytes more")
        return output
