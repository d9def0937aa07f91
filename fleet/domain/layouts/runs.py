"""Guesses which stretches of an opaque file are arrays of numbers, from how much each byte of a number varies.

Weights of one type have a shape in bytes: signs and exponents take few values, low bits of mantissas take all of them.
A guess is worth having because a difference between numbers is coded in far fewer bits than one between bytes.
"""

from collections import Counter
from collections.abc import Sequence
from math import log2
from typing import Final

from fleet.domain.layouts.layout import Dtype, Layout, RandomAccess, Segment

WINDOW_BYTES: Final = 65_536
SAMPLE_BYTES: Final = 8_192
# More windows than this are made larger, so that a guess costs the same however large the file is.
MAX_WINDOWS: Final = 4_096
# Bits of entropy a byte, measured on weights of trained networks; a byte that varies freely has 8.
_FREE: Final = 7.0
_BFLOAT_HIGH: Final = 4.4
_FLOAT_HIGH: Final = 6.2
_SAME: Final = 0.45
_CONSTANT: Final = 0.3
_COMPRESSED: Final = 7.6
_PERIOD: Final = 8
_TEXT: Final = bytes(range(32, 127)) + b"\t\r\n"


def guess(file: RandomAccess) -> Layout:
    """Runs of numbers found in `file`, each a nameless segment of one dimension; raises nothing."""
    window = max(WINDOW_BYTES, -(-file.size // MAX_WINDOWS // WINDOW_BYTES) * WINDOW_BYTES)
    segments: list[Segment] = []
    start, kind = 0, None
    for offset in range(0, file.size, window):
        found = _kind(file.read_at(offset, min(SAMPLE_BYTES, file.size - offset)))
        if found != kind:
            segments += _run(start, offset, kind)
            start, kind = offset, found
    segments += _run(start, file.size, kind)
    return Layout.of(file.size, None, segments)


def _run(start: int, end: int, kind: tuple[Dtype, int] | None) -> list[Segment]:
    if kind is None:
        return []
    dtype, phase = kind
    width = dtype.bits // 8
    first = start + (phase - start) % width
    count = (end - first) // width
    return [Segment(first, count * width, dtype, (count,), "")] if count > 0 else []


def _kind(sample: bytes) -> tuple[Dtype, int] | None:
    """(element type, offset of an element modulo its size) of bytes that start at a multiple of eight; None for others."""
    if len(sample) < SAMPLE_BYTES // 8 or not sample.translate(None, _TEXT):
        return None
    varied = [_entropy(sample[phase::_PERIOD]) for phase in range(_PERIOD)]
    if max(varied) < _CONSTANT:
        return None
    if max(varied) - min(varied) < _SAME:
        return (Dtype.INT8, 0) if max(varied) < _COMPRESSED else None
    if _repeats(varied, 2):
        high = 0 if varied[0] < varied[1] else 1
        if varied[1 - high] < _FREE - 1:
            return None
        return (Dtype.BFLOAT16 if varied[high] < _BFLOAT_HIGH else Dtype.FLOAT16), (high + 1) % 2
    for width, dtype in ((4, Dtype.FLOAT32), (8, Dtype.FLOAT64)):
        if _repeats(varied, width):
            high = min(range(width), key=lambda phase: varied[phase])
            low = [varied[(high + 1 + step) % width] for step in range(width - 2)]
            return (dtype, (high + 1) % width) if varied[high] < _FLOAT_HIGH and min(low) > _FREE - 1 else None
    return None


def _repeats(varied: Sequence[float], period: int) -> bool:
    return all(abs(varied[phase] - varied[phase % period]) < _SAME for phase in range(_PERIOD))


def _entropy(values: bytes) -> float:
    total = len(values)
    return -sum(count / total * log2(count / total) for count in Counter(values).values())
