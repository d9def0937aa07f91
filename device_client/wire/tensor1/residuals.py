"""How differences between guesses and numbers are written: nearly no bytes where the guess was right.

A run of n differences (signed, as wide as the numbers) is coded as

    mode u8
    [classes: see there]
    [cut count u8, cuts i16 each]
    values

What has class 0 is all zero and left out. The guess's exponent e and the class c of where it stands say how large a difference
to expect: the context t = 2 e - c puts elements that expect alike into one bucket (`cuts`, in rising order, are the first t of each next bucket). Values come bucket by bucket. ZERO has nothing but its mode, RAW has the
differences; PCODEC has for each bucket that is not empty a varint length (0: all zeros) and a pcodec file;
PLANES has the byte planes of all values, zigzagged: each a method u8, a varint length and the plane.
"""

from __future__ import annotations

import lzma
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, cast

from device_client.wire.tensor1 import pco
from device_client.wire.tensor1.classes import Classes
from device_client.wire.tensor1.classes import read as read_classes
from device_client.wire.tensor1.elements import Element, Integers, exponents
from device_client.wire.tensor1.errors import PatchPayloadError
from device_client.wire.tensor1.format import Cursor, inflate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CUTS: Final = 64
LZMA_FILTERS: Final = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]


class Mode(IntEnum):
    """How a run of differences is written."""

    ZERO = 0
    PCODEC = 1
    PLANES = 2
    RAW = 3


class Plane(IntEnum):
    """How a plane of bytes is written."""

    ZERO = 0
    STORED = 1
    DEFLATED = 2
    LZMA = 3


def buckets_of(contexts: NDArray[np.int16], cuts: NDArray[np.int16]) -> tuple[NDArray[np.uint8], list[int]]:
    """Which bucket each context falls into by rising cuts, and how many do. Comparing with each is faster than a table."""
    import numpy as np

    buckets = np.zeros(len(contexts), dtype=np.uint8)
    above = np.empty(len(contexts), dtype=np.bool_)
    reached = [len(contexts)]
    for cut in cuts:
        np.greater_equal(contexts, cut, out=above)
        buckets += above.view(np.uint8)
        reached.append(int(np.count_nonzero(above)))
    return buckets, [here - beyond for here, beyond in zip(reached, [*reached[1:], 0], strict=True)]


def contexts_of(scale: NDArray[np.int16] | None, classes: Classes | None, count: int) -> NDArray[np.int16]:
    """The context of every element that is not left out, by the guesses' exponents."""
    import numpy as np

    contexts = np.zeros(count, dtype=np.int16) if scale is None else scale << 1
    return contexts if classes is None else classes.lowered(contexts)


def decode(cursor: Cursor, count: int, element: Element, guess: Integers | None) -> Integers | None:
    """The next run of `count` differences, or None when all are zero. `guess` is what they are added to."""
    import numpy as np

    mode = cursor.take(1)[0]
    if mode == Mode.ZERO:
        return None
    if mode == Mode.RAW:
        return np.frombuffer(cursor.take(count * element.width), dtype=f"<i{element.width}")
    if mode > Mode.RAW:
        raise PatchPayloadError(f"expected a known mode of differences, got {mode}")
    classes = read_classes(cursor, count)
    cut_count = cursor.take(1)[0]
    if cut_count > MAX_CUTS:
        raise PatchPayloadError(f"expected at most {MAX_CUTS} cuts, got {cut_count}")
    cuts = np.frombuffer(cursor.take(2 * cut_count), dtype="<i2")
    if np.any(cuts[1:] <= cuts[:-1]):
        raise PatchPayloadError(f"expected cuts in rising order, got {cuts.tolist()}")
    order = None
    sizes = [count if classes is None else classes.kept]
    if cut_count:
        scale = exponents(guess, element) if guess is not None else None
        buckets, sizes = buckets_of(contexts_of(scale, classes, count), cuts)
        order = np.argsort(buckets, kind="stable")
    read = _read_pcodec if mode == Mode.PCODEC else _read_planes
    values = read(cursor, sizes, element)
    if order is not None:
        sorted_values, values = values, np.empty_like(values)
        values[order] = sorted_values
    return cast(Integers, values if classes is None else classes.spread(values))


def _read_pcodec(cursor: Cursor, sizes: list[int], element: Element) -> Any:
    import numpy as np

    values = np.zeros(sum(sizes), dtype=f"<i{element.width}")
    position = 0
    for size in sizes:
        length = cursor.varint() if size else 0
        if length:
            pco.read(bytes(cursor.take(length)), values[position : position + size])
        position += size
    return values


def _read_planes(cursor: Cursor, sizes: list[int], element: Element) -> Any:
    import numpy as np

    count = sum(sizes)
    planes = np.zeros((count, element.width), dtype=np.uint8)
    for index in range(element.width):
        method = cursor.take(1)[0]
        if method == Plane.ZERO:
            continue
        content = cursor.take(cursor.varint())
        planes[:, index] = np.frombuffer(_read_plane(method, content, count), dtype=np.uint8)
    folded = planes.reshape(-1).view(f"<u{element.width}")
    one = folded.dtype.type(1)
    return ((folded >> one) ^ (~(folded & one) + one)).view(f"<i{element.width}")


def _read_plane(method: int, content: memoryview, count: int) -> bytes | memoryview:
    if method == Plane.DEFLATED:
        return inflate(content, count, PatchPayloadError)
    if method == Plane.LZMA:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS)
        try:
            plane = unpacker.decompress(content, max_length=count)
        except (lzma.LZMAError, EOFError) as error:
            raise PatchPayloadError(f"expected LZMA, got {error}") from error
        if len(plane) != count:
            raise PatchPayloadError(f"expected a plane of {count} bytes, got {len(plane)}")
        return plane
    if method != Plane.STORED or len(content) != count:
        raise PatchPayloadError(f"expected a plane of {count} bytes, got method {method} with {len(content)}")
    return content
