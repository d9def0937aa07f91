"""Walks protocol-buffer messages in a file without building them: tags, numbers and the places of nested parts."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fleet.domain.inspection.files import ByteSource, MalformedFileError

_MAX_VARINT_BYTES: Final = 10


class Wire(IntEnum):
    """How a field is coded."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


_WIRES: Final = {wire.value: wire for wire in Wire}


@dataclass(frozen=True, slots=True)
class Part:
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
        tag, position = _varint(source, position, end)
        number, wire = tag >> 3, _WIRES.get(tag & 7)
        if number == 0 or wire is None:
            raise MalformedFileError(f"expected a protobuf field at offset {position}, got tag {tag}")
        value, begin = 0, position
        match wire:
            case Wire.VARINT:
                value, position = _varint(source, position, end)
            case Wire.FIXED64:
                position += 8
            case Wire.FIXED32:
                position += 4
            case Wire.BYTES:
                size, begin = _varint(source, position, end)
                position = begin + size
        if position > end:
            raise MalformedFileError(f"expected a field that ends by offset {end}, got one that ends at {position}")
        yield Part(number, wire, value, begin, position)


def numbers(source: ByteSource, part: Part, limit: int) -> list[int]:
    """The integers of a repeated field's part, packed or single; raises MalformedFileError for more than `limit`."""
    if part.wire is Wire.VARINT:
        return [part.value]
    found: list[int] = []
    position = part.start
    while position < part.end:
        value, position = _varint(source, position, part.end)
        found.append(value)
        if len(found) > limit:
            raise MalformedFileError(f"expected at most {limit} numbers in a field, got more")
    return found


def _varint(source: ByteSource, position: int, end: int) -> tuple[int, int]:
    raw = source.read(position, min(_MAX_VARINT_BYTES, end - position))
    if raw and raw[0] < 0x80:  # noqa: PLR2004 - most numbers fit one byte
        return raw[0], position + 1
    value = 0
    for index, byte in enumerate(raw):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint
            return value, position + index + 1
    raise MalformedFileError(f"expected a number at offset {position}, got none that ends")
