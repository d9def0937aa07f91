"""Walks protocol-buffer messages in a file without building them: tags, numbers and the places of nested parts."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from fleet.domain.inspection.files import ByteSource, MalformedFileError

_MAX_VARINT_BYTES: Final = 10


class Wire(IntEnum):
    """How a field is coded."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


_WIRES: Final = {wire.value: wire for wire in Wire}
_FIXED_BYTES: Final = {Wire.FIXED64: 8, Wire.FIXED32: 4}


class Part(NamedTuple):
    """One field: its number, and its value (`VARINT`) or the place of its bytes in the file."""

    number: int
    wire: Wire
    value: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.end - self.start


def parts(source: ByteSource, start: int, end: int) -> Iterator[Part]:
    """The fields of the message in [start, end); raises MalformedFileError where they do not fill it exactly."""
    position = start
    while position < end:
        # A tag, and the number that most kinds have behind it.
        head = source.read(position, min(2 * _MAX_VARINT_BYTES, end - position))
        tag, used = _varint(head, 0, position)
        number, wire = tag >> 3, _WIRES.get(tag & 7)
        if number == 0 or wire is None:
            raise MalformedFileError(f"expected a protobuf field at offset {position + used}, got tag {tag}")
        value, size = 0, _FIXED_BYTES.get(wire, 0)
        if wire is Wire.BYTES:
            size, used = _varint(head, used, position)
        begin = position + used
        if wire is Wire.VARINT:
            value, used = _varint(head, used, position)
            size = position + used - begin
        position = begin + size
        if position > end:
            raise MalformedFileError(f"expected a field that ends by offset {end}, got one that ends at {position}")
        yield Part(number, wire, value, begin, position)


def numbers(source: ByteSource, part: Part, limit: int) -> list[int]:
    """The integers of a repeated field's part, packed or single; raises MalformedFileError for more than `limit`."""
    if part.wire is Wire.VARINT:
        return [part.value]
    found: list[int] = []
    if part.size <= _MAX_VARINT_BYTES * limit:
        raw = source.read(part.start, part.size)
        if raw.isascii():
            # Each is one byte.
            found += raw
        at = len(found)
        while at < len(raw) and len(found) <= limit:
            value, at = _varint(raw, at, part.start)
            found.append(value)
    if len(found) > limit or part.size > _MAX_VARINT_BYTES * limit:
        raise MalformedFileError(f"expected at most {limit} numbers in a field, got more")
    return found


def _varint(raw: bytes, at: int, place: int) -> tuple[int, int]:
    """The number at `at` of bytes that lie at `place` of the file, and where it ends."""
    if at < len(raw) and raw[at] < 0x80:  # noqa: PLR2004 - most numbers fit one byte
        return raw[at], at + 1
    value = 0
    for index, byte in enumerate(raw[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint
            return value, at + index + 1
    raise MalformedFileError(f"expected a number at offset {place + at}, got none that ends")
