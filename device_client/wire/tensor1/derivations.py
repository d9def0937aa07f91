"""Scales and zero points out of the old weights, as quantisers make them: a tensor is read once, a window at a time.

A channel's least and greatest number do not depend on the order in which they are looked for, and what follows is elementwise
IEEE arithmetic: every machine derives the same bits. `lo` and `hi` are those numbers, of a channel that has 0 among them;
`d`, `f` and `b` are divisor, factor and base.

| formula | s: float32 | z: int32 |
|---|---|---|
| SYMMETRIC | max(-lo, hi) / d * f, in float32 | b |
| ASYMMETRIC | (hi - lo) / d, in float64, then float32, * f | rint(b - lo / s), in float64; 0 where s is 0 |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from device_client.wire.tensor1.elements import integers, reals
from device_client.wire.tensor1.format import Derivation, Formula

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW_ELEMENTS: Final = 1 << 17
_CHANNELS_AT_ONCE: Final = 1 << 14
_INT32: Final = (-(1 << 31), (1 << 31) - 1)


def derive(item: Derivation, count: int, length: int, read: Callable[[int, int], bytes]) -> memoryview:
    """`length` bytes of parameters for `count` channels: the scales, then the zero points if there is room for them.

    `read` returns old bytes by offset and length. The result may be written to.
    """
    both = ranges(item, count, read)
    lowest, highest = both
    for start in range(0, count, _CHANNELS_AT_ONCE):
        part = slice(start, start + _CHANNELS_AT_ONCE)
        # In the place of what they are made of: a million channels are 8 MiB.
        lowest[part], highest.view("<i4")[part] = parameters_of(item, lowest[part], highest[part])
    return both.data.cast("B")[:length]


def correct(derived: memoryview, left: bytes | bytearray) -> None:
    """Add the differences to derived parameters, word by word; both may wrap around."""
    import numpy as np

    words = np.frombuffer(derived, dtype="<i4")
    words += np.frombuffer(left, dtype="<i4")


def differences(derived: bytes | memoryview, wanted: bytes) -> bytes:
    """What `correct` adds."""
    import numpy as np

    words: NDArray[np.int32] = np.frombuffer(wanted, dtype="<i4") - np.frombuffer(derived, dtype="<i4")
    return words.tobytes()


def ranges(item: Derivation, count: int, read: Callable[[int, int], bytes]) -> NDArray[np.float32]:
    """The least and, in a second row, the greatest number of each channel, 0 counted in; what is not a number counts for nothing."""
    import numpy as np

    both = np.zeros((2, count), dtype="<f4")
    lowest, highest = both
    for first, values in _windows(item, count, read):
        channels, grid = _by_channel(item, count, first, values)
        np.fmin(lowest[channels], np.fmin.reduce(grid, axis=(0, 2)), out=lowest[channels])
        np.fmax(highest[channels], np.fmax.reduce(grid, axis=(0, 2)), out=highest[channels])
    return both


def _windows(item: Derivation, count: int, read: Callable[[int, int], bytes]) -> Iterator[tuple[int, Any]]:
    """(first element, numbers) of windows that are whole slices, whole channels, or within one channel."""
    width = item.old_element.width
    unit = item.inner * count if item.inner * count <= WINDOW_ELEMENTS else item.inner
    total = item.outer * count * item.inner
    first = 0
    while first < total:
        if unit <= WINDOW_ELEMENTS:
            # No window goes beyond the slice that it starts in, unless it is of whole slices.
            end = total if unit == item.inner * count else first - first % (item.inner * count) + item.inner * count
            size = min(WINDOW_ELEMENTS // unit * unit, end - first)
        else:
            size = min(WINDOW_ELEMENTS, unit - first % unit)
        raw = integers(read(item.old_offset + first * width, size * width), item.old_element)
        yield first, reals(raw, item.old_element)
        first += size


def _by_channel(item: Derivation, count: int, first: int, values: Any) -> tuple[slice, Any]:
    """Which channels a window has, and its numbers by slice, channel and place."""
    if len(values) % (item.inner * count) == 0:
        return slice(None), values.reshape(-1, count, item.inner)
    channel = first // item.inner % count
    channels = max(1, len(values) // item.inner)
    return slice(channel, channel + channels), values.reshape(1, channels, -1)


def parameters_of(
    item: Derivation, lowest: NDArray[np.float32], highest: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scale and zero point of each channel."""
    import numpy as np

    divisor, factor = np.array([item.divisor, item.factor], dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        if item.formula is Formula.SYMMETRIC:
            scales = np.maximum(-lowest, highest) / divisor * factor
            return scales, np.full(len(lowest), item.base, dtype=np.int32)
        wide = ((highest.astype(np.float64) - lowest) / np.float64(divisor)).astype(np.float32) * factor
        zeros = np.rint(item.base - np.where(wide != 0, lowest / wide.astype(np.float64), 0.0))
        return wide, np.clip(np.nan_to_num(zeros, nan=0.0), *_INT32).astype(np.int32)
