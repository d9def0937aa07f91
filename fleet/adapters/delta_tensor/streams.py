"""The writing side of `device_client.wire.tensor1.streams`: one LZMA stream, cut where blocks end."""

import lzma
from collections.abc import Iterator
from typing import Final

from device_client.wire.tensor1.io import RandomAccess
from device_client.wire.tensor1.streams import STORED, lzma_filters

_READ: Final = 1 << 18
_PROBE: Final = 16 << 10


def lzma_ratio(file: RandomAccess, offset: int, length: int, probes: int = 3) -> float:
    """About how much of its size a run keeps when it is compressed, judged by a few probes."""
    if not length:
        return 1.0
    size = min(_PROBE, length)
    starts = sorted({(length - size) * index // (probes - 1) for index in range(probes)})
    runs = [file.read_at(offset + start, size) for start in starts]
    packed = sum(len(lzma.compress(run, lzma.FORMAT_RAW, filters=_fast_filters())) for run in runs)
    return min(1.0, packed / (size * len(runs)))


def _fast_filters() -> list[dict[str, int]]:
    return [{"id": lzma.FILTER_LZMA1, "preset": 1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 0}]


def payloads(new: RandomAccess, offset: int, lengths: Iterator[int], total: int, method: int) -> Iterator[bytes]:
    """One payload for each block of these lengths, of the `total` bytes at `offset`."""
    if method == STORED:
        for length in lengths:
            yield new.read_at(offset, length)
            offset += length
        return
    filters = lzma_filters(method)
    packed = _compressed(new, offset, total, filters)
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    for length in lengths:
        payload = bytearray()
        missing = length
        while missing:
            # What the decoder will have been given when it needs this block's last byte, and not a chunk more.
            chunk = next(packed, b"") if unpacker.needs_input else b""
            payload += chunk
            missing -= len(unpacker.decompress(chunk, max_length=missing))
        if length == total:
            payload += b"".join(packed)
        total -= length
        yield bytes(payload)


def _compressed(new: RandomAccess, offset: int, total: int, filters: list[dict[str, int]]) -> Iterator[bytes]:
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"preset": 6, **filters[0]}])
    for start in range(0, total, _READ):
        content = packer.compress(new.read_at(offset + start, min(_READ, total - start)))
        yield from (content[at : at + 4096] for at in range(0, len(content), 4096))
    content = packer.flush()
    yield from (content[at : at + 4096] for at in range(0, len(content), 4096))
