"""Blocks of ggml's plain quantisations out of floats, as llama.cpp's reference functions and gguf-py make them.

Structures and formulas are those of ggml/src/ggml-quants.c (ggml-org/llama.cpp, MIT): a block holds 32 numbers, one scale and, for
some, one minimum. Maxima and elementwise float32 arithmetic only, so every machine packs the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import PACKED_ELEMENTS, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Blocks that are packed at a time: bounds the memory of what lies between.
_CHUNK: Final = 2048


class Packing(IntEnum):
    """The kinds of blocks, by the numbers that GGUF gives them."""

    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8


_SCALE: Final = Field(Element.F16, 1)
_HALVES: Final = Field(Element.U8, 16)
_HIGH: Final = Field(Element.U8, 4)
FIELDS: Final[Mapping[Packing, tuple[Field, ...]]] = {
    Packing.Q4_0: (_SCALE, _HALVES),
    Packing.Q4_1: (_SCALE, _SCALE, _HALVES),
    Packing.Q5_0: (_SCALE, _HIGH, _HALVES),
    Packing.Q5_1: (_SCALE, _SCALE, _HIGH, _HALVES),
    Packing.Q8_0: (_SCALE, Field(Element.I8, 32)),
}


def pack(kind: Packing, weights: NDArray[np.float32]) -> list[NDArray[Any]]:
    """The fields of all blocks: an array each, one row a block. `weights` has one row of 32 a block."""
    import numpy as np

    # Numbers that overflow or are not numbers are guesses like any other.
    with np.errstate(all="ignore"):
        parts = [_PACKERS[kind](weights[first : first + _CHUNK]) for first in range(0, len(weights), _CHUNK)]
    return [np.concatenate(field) for field in zip(*parts, strict=True)]


def _inverse(scales: Any) -> Any:
    import numpy as np

    return np.where(scales != 0, np.float32(1) / scales, np.float32(0))


def _levels(values: Any, highest: int) -> Any:
    """Truncated towards zero and clipped; what is not a number is 0."""
    import numpy as np

    return np.clip(np.nan_to_num(values, nan=0.0), 0, highest).astype(np.uint8)


def _nibbles(levels: Any) -> Any:
    half = PACKED_ELEMENTS // 2
    return (levels[:, :half] & 15) | ((levels[:, half:] & 15) << 4)


def _fifth_bits(levels: Any) -> Any:
    import numpy as np

    return np.packbits(levels >> 4, axis=1, bitorder="little")


def _halved(values: Any) -> Any:
    import numpy as np

    return values.astype(np.float16)


def _q8_0(weights: Any) -> tuple[Any, ...]:
    import numpy as np

    scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    scaled = weights * _inverse(scales)
    # C's roundf: halves away from zero.
    whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return _halved(scales), np.clip(np.nan_to_num(whole, nan=0.0), -128, 127).astype(np.int8)


def _extreme(weights: Any) -> Any:
    """The number of the greatest magnitude, with its sign; the first of equals."""
    import numpy as np

    return np.take_along_axis(weights, np.abs(weights).argmax(axis=1)[:, None], axis=1)


def _q4_0(weights: Any) -> tuple[Any, ...]:
    import numpy as np

    scales = _extreme(weights) / np.float32(-8)
    levels = _levels(weights * _inverse(scales) + np.float32(8.5), 15)
    return _halved(scales), _nibbles(levels)


def _q5_0(weights: Any) -> tuple[Any, ...]:
    import numpy as np

    scales = _extreme(weights) / np.float32(-16)
    levels = _levels(weights * _inverse(scales) + np.float32(16.5), 31)
    return _halved(scales), _fifth_bits(levels), _nibbles(levels)


def _from_minimum(weights: Any, highest: int) -> tuple[Any, Any, Any]:
    import numpy as np

    lowest = weights.min(axis=1, keepdims=True)
    scales = (weights.max(axis=1, keepdims=True) - lowest) / np.float32(highest)
    return scales, lowest, _levels((weights - lowest) * _inverse(scales) + np.float32(0.5), highest)


def _q4_1(weights: Any) -> tuple[Any, ...]:
    scales, lowest, levels = _from_minimum(weights, 15)
    return _halved(scales), _halved(lowest), _nibbles(levels)


def _q5_1(weights: Any) -> tuple[Any, ...]:
    scales, lowest, levels = _from_minimum(weights, 31)
    return _halved(scales), _halved(lowest), _fifth_bits(levels), _nibbles(levels)


_PACKERS: Final[Mapping[Packing, Callable[[Any], tuple[Any, ...]]]] = {
    Packing.Q4_0: _q4_0,
    Packing.Q4_1: _q4_1,
    Packing.Q5_0: _q5_0,
    Packing.Q5_1: _q5_1,
    Packing.Q8_0: _q8_0,
}
