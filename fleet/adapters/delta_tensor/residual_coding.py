"""The writing side of `device_client.wire.tensor1.residuals`: which classes, buckets and coding make a run smallest."""

from __future__ import annotations

import lzma
import math
import zlib
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from device_client.wire.tensor1 import residuals
from device_client.wire.tensor1.elements import Element, Integers, exponents
from device_client.wire.tensor1.format import deflate, pack_varint
from device_client.wire.tensor1.residuals import Mode, Plane

# Level 8 is within 1.3% of the conditional entropy; level 12 gains 0.3% more for eight times the time.
LEVEL: Final = 8
# Buckets smaller than this lose more to their own tables than they gain.
_MIN_BUCKET: Final = 1536
_MIN_GROUPED: Final = 1024
_MAX_BUCKETS: Final = 24
# Sizes of groups that are tried: for a mask of zeros, and for magnitudes, where 64 beat 128 by 1-2% on float16 and
# bfloat16. How many groups tell anything.
MASK_SHIFTS: Final = (7, 5)
CLASS_SHIFTS: Final = (6,)
_MIN_CLASSED: Final = 16
# Bits an element that magnitude classes must promise, beyond what writing them takes.
_MIN_CLASS_GAIN: Final = 0.012
# Classes are half octaves, centred so that a mean difference of one unit at exponent 0 is class 24 of 1 to 255.
_CLASS_CENTRE: Final = 96


class Coding(StrEnum):
    """What a device needs to read the differences."""

    PCODEC = "pcodec"
    PORTABLE = "portable"


def encode(
    differences: Integers, element: Element, guess: Integers | None, coding: Coding, level: int = LEVEL
) -> bytes:
    """One run: what `residuals.decode` reads. Deterministic."""
    if not differences.any():
        return bytes((Mode.ZERO,))
    raw = differences.nbytes + 1
    shift, classes = _classes_of(differences, element, guess)
    values = _kept(differences, classes, shift)
    cuts: NDArray[np.int16] = np.zeros(0, dtype=np.int16)
    sizes = [len(values)]
    if element.is_float and guess is not None and len(values) >= 2 * _MIN_BUCKET:
        contexts = residuals.contexts_of(guess, element, classes, shift, len(differences))
        cuts = _cuts(contexts)
        if len(cuts):
            buckets = residuals.buckets_of(contexts, cuts)
            values = values[np.argsort(buckets, kind="stable")]
            sizes = np.bincount(buckets, minlength=len(cuts) + 1).tolist()
    mode = Mode.PCODEC if coding is Coding.PCODEC else Mode.PLANES
    head = bytearray((mode, shift if classes is not None else 0))
    if classes is not None:
        packed = deflate(classes.tobytes())
        head += pack_varint(len(packed)) + packed
    head.append(len(cuts))
    head += cuts.astype("<i2").tobytes()
    body = _pcodec(values, sizes, level) if coding is Coding.PCODEC else _planes(values)
    if len(head) + len(body) < raw:
        return bytes(head) + body
    return bytes((Mode.RAW,)) + differences.astype(f"<i{element.width}").tobytes()


def _classes_of(
    differences: Integers, element: Element, guess: Integers | None
) -> tuple[int, NDArray[np.uint8] | None]:
    """The class of each group, or None where neither zeros nor magnitudes pay."""
    if len(differences) < _MIN_GROUPED:
        return 0, None
    scale = exponents(guess, element) if guess is not None else None
    if scale is not None:
        shift, classes = _magnitudes(differences, scale)
        if classes is not None:
            return shift, classes
    return _mask(differences)


def _mask(differences: Integers) -> tuple[int, NDArray[np.uint8] | None]:
    """Which groups have anything but zeros, in groups of the size that saves most."""
    changed = int(np.count_nonzero(differences))
    plain = len(differences) * _entropy(changed / len(differences))
    best, mask, cheapest = 0, None, 0.98 * plain - 64
    for shift in MASK_SHIFTS:
        group = _padded(differences, shift).reshape(-1, 1 << shift).any(axis=1)
        kept = int(np.count_nonzero(group)) << shift
        price = len(group) * _entropy(kept / (len(group) << shift)) + kept * _entropy(changed / kept)
        if price < cheapest:
            best, mask, cheapest = shift, group.astype(np.uint8), price
    return best, mask


def _entropy(share: float) -> float:
    """Bits that it takes to say which of two things happened."""
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share) if 0 < share < 1 else 0.0


def _magnitudes(differences: Integers, scale: NDArray[np.int16]) -> tuple[int, NDArray[np.uint8] | None]:
    """Half-octave classes of the groups' mean differences as real numbers, if that tells enough to be worth its bytes."""
    top = int(scale.max())
    units = np.ldexp(np.float32(1.0), np.maximum(scale - top, -40).astype(np.int32))
    sizes = np.abs(differences.astype(np.float32)) * units
    # Where most differences are zero, knowing the magnitude saves less than the gap.
    density = min(1.0, 2.0 * float(np.count_nonzero(differences)) / len(differences))
    best, found, most = 0, None, _MIN_CLASS_GAIN
    for shift in CLASS_SHIFTS:
        means = np.asarray(_padded(sizes, shift).reshape(-1, 1 << shift).mean(axis=1), dtype=np.float64)
        some = means > 0
        if np.count_nonzero(some) < _MIN_CLASSED:
            continue
        logs = np.log2(means[some])
        # By how much groups differ: Jensen's gap, less what the scatter of a mean of this many makes of it alone.
        gap = float(np.log2(means[some].mean()) - logs.mean()) - 1.0 / (1 << shift)
        halves = np.rint(2.0 * logs)
        classes = np.zeros(len(some), dtype=np.uint8)
        classes[some] = np.clip(halves - halves.max() + _CLASS_CENTRE, 1, 255).astype(np.uint8)
        shares = np.bincount(classes) / len(classes)
        shares = shares[shares > 0]
        gain = gap * density + float((shares * np.log2(shares)).sum()) / (1 << shift)
        if gain > most:
            best, found, most = shift, classes, gain
    return best, found


def _padded(values: Any, shift: int) -> Any:
    rest = -len(values) % (1 << shift)
    return np.concatenate([values, np.zeros(rest, dtype=values.dtype)]) if rest else values


def _kept(differences: Integers, classes: NDArray[np.uint8] | None, shift: int) -> Integers:
    if classes is None:
        return np.ascontiguousarray(differences)
    grouped: Integers = _padded(differences, shift).reshape(-1, 1 << shift)[classes > 0]
    return grouped.reshape(-1)


def _cuts(contexts: NDArray[np.int16]) -> NDArray[np.int16]:
    """Where to part the contexts so that no bucket is too small."""
    lowest = int(contexts.min())
    counts = np.bincount(contexts - lowest)
    smallest = max(_MIN_BUCKET, len(contexts) // (2 * _MAX_BUCKETS))
    cuts: list[int] = []
    held, left = 0, len(contexts)
    for index, count in enumerate(counts.tolist()):
        if held >= smallest and left >= smallest and count:
            cuts.append(lowest + index)
            held = 0
        held += count
        left -= count
    return np.array(cuts[: residuals.MAX_CUTS], dtype=np.int16)


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
        packed = bytes(standalone.simple_compress(np.ascontiguousarray(bucket), config)) if bucket.any() else b""
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
