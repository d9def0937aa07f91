"""The writing side of `device_client.wire.tensor1.residuals`: which classes, buckets and coding make a run smallest."""

from __future__ import annotations

import lzma
import math
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from device_client.wire.tensor1 import residuals
from device_client.wire.tensor1.classes import Classes
from device_client.wire.tensor1.elements import Element, Integers, exponents
from device_client.wire.tensor1.format import pack_varint
from device_client.wire.tensor1.residuals import Mode, Plane
from fleet.adapters.delta_tensor import magnitudes

# Level 8 is within 1.3% of the conditional entropy; level 12 gains 0.3% more for eight times the time.
LEVEL: Final = 8
# Most buckets and elements of the smallest one, of numbers of up to 16 bits and of wider ones: their tables are longer, and they gain
# less by being parted finely.
_NARROW: Final = 2
_NARROW_BUCKETS: Final = (24, 512)
_WIDE_BUCKETS: Final = (16, 1024)
# Of many contexts, every so manieth is counted; not a power of two, so that columns of matrices count alike.
_COUNTED: Final = 17
_MIN_THINNED: Final = 1 << 16
# About how many differences it takes to judge classes by.
_JUDGED: Final = 1 << 13
# What is below a float32's sign, exponent and two bits of its fraction.
_SYMBOL_SHIFT: Final = 32 - 11


class Coding(StrEnum):
    """What a device needs to read the differences."""

    PCODEC = "pcodec"
    PORTABLE = "portable"


def encode(
    differences: Integers,
    element: Element,
    guess: Integers | None,
    coding: Coding,
    *,
    shape: tuple[int, int] | None = None,
    level: int = LEVEL,
) -> bytes:
    """One run: what `residuals.decode` reads. Deterministic. `shape` is (columns, phase) of a run that is part of a matrix."""
    if not np.count_nonzero(differences):
        return bytes((Mode.ZERO,))
    raw = differences.nbytes + 1
    scale = exponents(guess, element) if guess is not None else None
    classes = _classes(differences, element, scale, shape)
    values = np.ascontiguousarray(differences if classes is None else classes.gather(differences))
    cuts: NDArray[np.int16] = np.zeros(0, dtype=np.int16)
    sizes = [len(values)]
    if scale is not None and len(values) >= 2 * _buckets(element)[1]:
        contexts = residuals.contexts_of(scale, classes, len(differences))
        step = _COUNTED if len(contexts) >= _MIN_THINNED else 1
        cuts = _cuts(contexts[::step], np.abs(values[::step].astype(np.float32)), len(contexts), element)
        if len(cuts):
            buckets, sizes = residuals.buckets_of(contexts, cuts)
            values = values.take(np.argsort(buckets, kind="stable"))
    mode = Mode.PCODEC if coding is Coding.PCODEC else Mode.PLANES
    head = bytes((mode,)) + (bytes(1) if classes is None else classes.pack())
    head += bytes((len(cuts),)) + cuts.astype("<i2").tobytes()
    body = _pcodec(values, sizes, level) if coding is Coding.PCODEC else _planes(values)
    if len(head) + len(body) < raw:
        return head + body
    return bytes((Mode.RAW,)) + differences.astype(f"<i{element.width}").tobytes()


def _buckets(element: Element) -> tuple[int, int]:
    """How many buckets there are at most, and how many elements are in each at least."""
    return _NARROW_BUCKETS if element.width <= _NARROW else _WIDE_BUCKETS


def _classes(
    differences: Integers, element: Element, scale: NDArray[np.int16] | None, shape: tuple[int, int] | None
) -> Classes | None:
    """The classes by which a run takes least, judged by some of it."""
    found = magnitudes.candidates(differences, scale, shape)
    if scale is None or len(found) == 1:
        return found[0].classes
    step = (len(differences) // _JUDGED) | 1
    some = differences[::step]
    judged = _Judged(
        np.abs(some.astype(np.float32)),
        _symbols(some),
        scale[::step] << 1,
        np.arange(0, len(differences), step),
        len(differences),
        element,
    )
    prices = [item.written_bits + step * _bits(judged, item.classes) for item in found]
    return found[int(np.argmin(prices))].classes


def _symbols(differences: Integers) -> NDArray[np.int64]:
    """What is entropy coded of differences: sign, length in bits and two bits more. What lies below takes as much in any context."""
    seen = (differences.astype(np.float32).view(np.uint32) >> _SYMBOL_SHIFT).astype(np.int64)
    # Numbered without gaps: there are few of the many that there might be.
    return (np.cumsum(np.bincount(seen) > 0) - 1)[seen]


@dataclass(frozen=True, slots=True)
class _Judged:
    """Some differences of a run of `count` elements: how large they are, what is coded of them, contexts without classes, and places."""

    sizes: NDArray[np.float32]
    symbols: NDArray[np.int64]
    scales: NDArray[np.int16]
    places: NDArray[np.int64]
    count: int
    element: Element


def _bits(some: _Judged, classes: Classes | None) -> float:
    """The conditional entropy of the symbols that are not left out, in bits in all."""
    sizes, symbols, contexts = some.sizes, some.symbols, some.scales
    if classes is not None:
        kept, expected = magnitudes.at(classes, some.places)
        contexts = contexts - expected
        if not kept.all():
            sizes, symbols, contexts = sizes[kept], symbols[kept], contexts[kept]
    if not len(sizes):
        return 0.0
    cuts = _cuts(contexts, sizes, some.count * len(symbols) // len(some.places), some.element)
    buckets = residuals.buckets_of(contexts, cuts)[0].astype(np.int64)
    width = int(symbols.max()) + 1
    buckets *= width
    buckets += symbols
    table = np.bincount(buckets, minlength=(len(cuts) + 1) * width)
    totals = table.reshape(-1, width).sum(axis=1)
    cells, totals = table[table > 0], totals[totals > 0]
    plain = float((totals * np.log2(totals)).sum() - (cells * np.log2(cells)).sum())
    # A sample's entropy is too low by about half a symbol's for each that it has (Miller and Madow, 1955).
    return plain + (len(cells) - len(totals)) / (2 * math.log(2))


def _cuts(some: NDArray[np.int16], sizes: NDArray[np.float32], count: int, element: Element) -> NDArray[np.int16]:
    """Where to part `count` contexts so that buckets take about as many bits each and none is too small, judged by some of them."""
    lowest = int(some.min())
    places = some.astype(np.int64)
    places -= lowest
    counts, sums = np.bincount(places), np.bincount(places, sizes)
    # About what a geometric distribution with this mean takes.
    bits = counts * np.log2(1.0 + 4.0 * sums / np.maximum(counts, 1))
    most, least = _buckets(element)
    smallest = least * len(some) // count
    share = float(bits.sum()) / (2 * most)
    cuts: list[int] = []
    size, left = 0, len(some)
    spent, rest = 0.0, float(bits.sum())
    present = np.flatnonzero(counts)
    for index, number, price in zip(present.tolist(), counts[present].tolist(), bits[present].tolist(), strict=True):
        is_enough = size >= smallest and left >= smallest and spent >= share and rest >= share
        if is_enough and len(cuts) < residuals.MAX_CUTS:
            cuts.append(lowest + index)
            size, spent = 0, 0.0
        size, left = size + number, left - number
        spent, rest = spent + price, rest - price
    return np.array(cuts, dtype=np.int16)


def _pcodec(values: Integers, sizes: list[int], level: int) -> bytes:
    config = ChunkConfig(
        compression_level=level,
        mode_spec=ModeSpec.classic(),
        delta_spec=DeltaSpec.no_op(),
        enable_8_bit=values.itemsize == 1,
    )
    out = bytearray()
    start = 0
    for size in sizes:
        bucket = values[start : start + size]
        start += size
        if not size:
            continue
        packed = (
            bytes(standalone.simple_compress(np.ascontiguousarray(bucket), config)) if np.count_nonzero(bucket) else b""
        )
        out += pack_varint(len(packed)) + packed
    return bytes(out)


def _planes(values: Integers) -> bytes:
    width = values.itemsize
    folded = ((values << 1) ^ (values >> (8 * width - 1))).astype(f"<i{width}")
    planes = np.ascontiguousarray(folded.view(np.uint8).reshape(-1, width).T)
    return b"".join(_plane(planes[index].tobytes()) for index in range(width))


def _plane(content: bytes) -> bytes:
    if not any(content):
        return bytes((Plane.ZERO,))
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9)
    best, method = packer.compress(content) + packer.flush(), Plane.DEFLATED
    # LZMA is worth its time only on what shrinks at all.
    if len(best) < 0.9 * len(content):
        packed = lzma.compress(content, lzma.FORMAT_RAW, filters=residuals.LZMA_FILTERS)
        if len(packed) < len(best):
            best, method = packed, Plane.LZMA
    if len(best) >= len(content):
        best, method = content, Plane.STORED
    return bytes((method,)) + pack_varint(len(best)) + best
