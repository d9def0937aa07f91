"""The writing side of `device_client.wire.tensor1.streams`: one LZMA stream, cut where blocks end."""

import lzma
from collections.abc import Iterator, Sequence
from typing import Final

from device_client.wire.tensor1.io import RandomAccess
from device_client.wire.tensor1.streams import STORED, lzma_filters, lzma_method

_READ: Final = 1 << 18
_PROBE: Final = 16 << 10
_INCOMPRESSIBLE: Final = 0.995
# Above this it is hardly more than its bytes' frequencies that is compressed, which all of LZMA's ways do alike. Numbers are there.
_PATTERNED: Final = 0.8
# Contexts of the byte before, of more of it, and of the place within a word: text, tables and records, programs.
_METHODS: Final = (lzma_method(3, 0, 0), lzma_method(4, 0, 0), lzma_method(3, 0, 2))
_TRIED: Final = 256 << 10
_PLAIN: Final = 6
_EXTREME: Final = 9 | lzma.PRESET_EXTREME


def lzma_ratio(file: RandomAccess, offset: int, length: int, probes: int = 3) -> float:
    """About how much of its size a run keeps when it is compressed, judged by a few probes."""
    if not length:
        return 1.0
    size = min(_PROBE, length)
    starts = sorted({(length - size) * index // (probes - 1) for index in range(probes)})
    runs = [file.read_at(offset + start, size) for start in starts]
    packed = sum(len(lzma.compress(run, lzma.FORMAT_RAW, filters=_fast_filters())) for run in runs)
    return min(1.0, packed / (size * len(runs)))


def method_of(file: RandomAccess, offset: int, length: int) -> int:
    """How a run is coded: stored, or as LZMA with the properties that make least of two parts of it."""
    ratio = lzma_ratio(file, offset, length, probes=16)
    if ratio > _INCOMPRESSIBLE:
        return STORED
    if ratio > _PATTERNED:
        return _METHODS[0]
    parts = _parts(file, offset, length)
    return min(_METHODS, key=lambda method: _packed_bytes(parts, 4, method))


def _preset(file: RandomAccess, offset: int, length: int, method: int) -> int:
    """How hard matches are looked for: as hard as can be only where that finds better ones, as it does in text."""
    if lzma_ratio(file, offset, length) > _PATTERNED:
        return _PLAIN
    parts = _parts(file, offset, length)
    return min(_PLAIN, _EXTREME, key=lambda preset: _packed_bytes(parts, preset, method))


def _parts(file: RandomAccess, offset: int, length: int) -> list[bytes]:
    size = min(_TRIED, length)
    return [file.read_at(offset + start, size) for start in sorted({0, (length - size) // 2})]


def _packed_bytes(parts: Sequence[bytes], preset: int, method: int) -> int:
    filters = [{"preset": preset, **lzma_filters(method)[0], "dict_size": _TRIED}]
    return sum(len(lzma.compress(part, lzma.FORMAT_RAW, filters=filters)) for part in parts)


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
    packed = _compressed(new, offset, total, {"preset": _preset(new, offset, total, method), **filters[0]})
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


def _compressed(new: RandomAccess, offset: int, total: int, how: dict[str, int]) -> Iterator[bytes]:
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[how])
    for start in range(0, total, _READ):
        content = packer.compress(new.read_at(offset + start, min(_READ, total - start)))
        yield from (content[at : at + 4096] for at in range(0, len(content), 4096))
    content = packer.flush()
    yield from (content[at : at + 4096] for at in range(0, len(content), 4096))
