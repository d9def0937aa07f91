"""What the numbers in a patch are: their widths, and how floats become integers that keep their order.

Two floats that are near each other have ordered integers that are near each other, so a small difference of weights is
a small integer. The mapping is its own inverse and knows no exceptions: zeros, infinities and NaNs are integers too.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# numpy is imported where it is used: these are its arrays' types in words.
Integers: TypeAlias = "NDArray[np.signedinteger[Any]]"
Reals: TypeAlias = "NDArray[np.float32]"
Content: TypeAlias = bytes | bytearray | memoryview


class Element(IntEnum):
    """The type of one number, little-endian. The values are part of the format."""

    I8 = 1
    U8 = 2
    I16 = 3
    U16 = 4
    I32 = 5
    U32 = 6
    I64 = 7
    U64 = 8
    F16 = 9
    BF16 = 10
    F32 = 11
    F64 = 12

    @property
    def width(self) -> int:
        """Its bytes."""
        return _WIDTHS[self]

    @property
    def is_float(self) -> bool:
        """Whether it has a sign bit and an exponent."""
        return self >= Element.F16


_WIDTHS: Final = {
    Element.I8: 1,
    Element.U8: 1,
    Element.I16: 2,
    Element.U16: 2,
    Element.I32: 4,
    Element.U32: 4,
    Element.I64: 8,
    Element.U64: 8,
    Element.F16: 2,
    Element.BF16: 2,
    Element.F32: 4,
    Element.F64: 8,
}
# Bits of the mantissa, and the mask of the exponent once those are shifted out.
_EXPONENTS: Final = {
    Element.F16: (10, 0x1F),
    Element.BF16: (7, 0xFF),
    Element.F32: (23, 0xFF),
    Element.F64: (52, 0x7FF),
}
# Bits of float16's infinity and least normal number; as float32, the upper bits of that and of what is too large for float16.
_HALF_INFINITY: Final = 0x7C00
_LEAST_HALF: Final = 0x0400
_LEAST_NORMAL_HALF: Final = 0x3880
_NO_HALF: Final = 0x4780


def ordered(raw: Integers, element: Element) -> Integers:
    """Bit patterns (signed, of the element's width) as integers in the order of their values; and back again."""
    if not element.is_float:
        return raw
    bits = element.width * 8
    flipped = raw >> (bits - 1)
    flipped &= (1 << (bits - 1)) - 1
    flipped ^= raw
    return flipped


def exponents(values: Integers, element: Element) -> NDArray[np.int16] | None:
    """The biased exponents of ordered integers, or None for what has no exponent."""
    import numpy as np

    if not element.is_float:
        return None
    shift, mask = _EXPONENTS[element]
    # The ordered integer of a negative float has the bits below its sign inverted.
    found = (values >> shift).astype(np.int16, copy=False)
    found ^= found >> 15
    found &= mask
    return found


def integers(content: bytes | memoryview, element: Element) -> Integers:
    """The bit patterns in `content` as signed integers of the element's width."""
    import numpy as np

    return np.frombuffer(content, dtype=f"<i{element.width}")


def reals(raw: Integers, element: Element) -> Reals:
    """Bit patterns of F16, BF16, F32 or F64 as float32; F64 is rounded, the others are exact."""
    import numpy as np

    if element is Element.F32:
        return raw.view(np.float32)
    if element is Element.BF16:
        return (raw.astype(np.int32) << 16).view(np.float32)
    if element is Element.F16:
        return _halves(raw)
    return raw.view(f"<f{element.width}").astype(np.float32)


def bits_of(values: Reals, element: Element) -> Integers:
    """float32 values rounded to nearest even as bit patterns of F16, BF16, F32 or F64."""
    import numpy as np

    if element is Element.F32:
        return np.ascontiguousarray(values, dtype=np.float32).view(np.int32)
    if element is Element.BF16:
        raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = _shortened(raw, 16)
        nan = np.isnan(values)
        if nan.any():
            rounded[nan] = (raw[nan] | np.uint32(0x400000)) >> np.uint32(16)
        return rounded.view(np.int16)
    if element is Element.F16:
        return _halved(np.ascontiguousarray(values, dtype=np.float32))
    with np.errstate(over="ignore"):
        return values.astype(f"<f{element.width}").view(f"<i{element.width}")


def _shortened(raw: NDArray[np.uint32], bits: int) -> NDArray[np.uint16]:
    """A float32's bits without so many of the lowest, rounded to nearest even; the lower half of what is left."""
    import numpy as np

    rounded = raw >> np.uint32(bits)
    rounded &= np.uint32(1)
    rounded += raw
    rounded += np.uint32((1 << (bits - 1)) - 1)
    rounded >>= np.uint32(bits)
    return rounded.astype(np.uint16)


def _halves(raw: Integers) -> Reals:
    """What `astype` makes of float16, in half of its time: the bits in their places of a float32, and its exponent raised.

    The few that are no normal float16 go its way: what has a least normal number for a factor is zero on some machines.
    """
    import numpy as np

    wide = raw.astype(np.int32)
    wide <<= 13
    # The sign was copied into what is the exponent's top now.
    wide &= ~0x70000000
    wide += 112 << 23
    top = raw.view(np.uint16) << np.uint16(1)
    top -= np.uint16(_LEAST_HALF << 1)
    others = np.flatnonzero(top >= np.uint16((_HALF_INFINITY - _LEAST_HALF) << 1))
    values = wide.view(np.float32)
    values[others] = raw[others].view("<f2").astype(np.float32)
    return values


def _halved(values: Reals) -> Integers:
    """What `astype` makes of float32: its rounding to nearest even, as integers. The few that are no normal float16 go its way."""
    import numpy as np

    raw = values.view(np.uint32)
    # Mantissa and the exponent's low bits, which differ by 112 from a float16's; then the sign.
    found = _shortened(raw, 13)
    found -= np.uint16((112 << 10) & 0xFFFF)
    found &= np.uint16(0x7FFF)
    top = (raw >> np.uint32(16)).astype(np.uint16)
    found |= top & np.uint16(0x8000)
    top <<= np.uint16(1)
    top -= np.uint16(_LEAST_NORMAL_HALF << 1)
    others = np.flatnonzero(top >= np.uint16((_NO_HALF - _LEAST_NORMAL_HALF) << 1))
    with np.errstate(over="ignore"):
        found[others] = values[others].astype("<f2").view(np.uint16)
    return found.view(np.int16)
