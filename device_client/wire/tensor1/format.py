"""The `tensor1` patch, version 1: its header, its instructions and the blocks that follow from them.

    header (fixed) | prologue (deflated: instructions, literals) | records

A record is a block's payload length (varint), its output's CRC-32 (4 bytes, little-endian) and its payload. Blocks follow from
the instructions alone, in the order of the output, each of at most `block_bytes` of output. An instruction that needs
parameters (or is a stream) is *heavy*: it shares no block with others, and its parameter record (varint length, then
`pack_parameters`) comes before its first block. A *verbatim* patch has no prologue and no records: the header, then the new file.

Parsing checks every length against a limit before anything is allocated, and the instructions against the announced lengths:
what this module returns is safe to follow. It knows no model format. It reads nothing but the bytes that it is given.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.errors import (
    PatchHeaderError,
    PatchLimitError,
    PatchPayloadError,
    PatchTableError,
    TruncatedPatchError,
)

MAGIC: Final = b"tensor1\n"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHIQ32sQ32sQIII8s")
HEADER_BYTES: Final = _HEADER.size

MAX_BLOCK_BYTES: Final = 512 << 10
MIN_BLOCK_BYTES: Final = 4 << 10
MAX_PROLOGUE_BYTES: Final = 4 << 20
MAX_INSTRUCTIONS: Final = 1 << 16
MAX_PARAMETER_BYTES: Final = 4 << 20
MAX_FIELDS: Final = 8
MAX_RECORD_BYTES: Final = 4096
MAX_SCALARS: Final = 64
MAX_RANK: Final = 64
# Decay replays multiply every weight once a step.
MAX_MULTIPLIES: Final = 4096
MAX_FILE_BYTES: Final = 1 << 44
# A payload that is larger than this much more than its output is no honest one.
PAYLOAD_SLACK: Final = 64 << 10


class Flag(IntFlag):
    """What a patch needs, and what it is."""

    VERBATIM = 1
    NEEDS_PCODEC = 2


class Kind(IntEnum):
    """Where an instruction's output comes from."""

    COPY = 0
    LITERAL = 1
    STREAM = 2
    DELTA = 3


class Predictor(IntEnum):
    """What a tensor's numbers are guessed to be before the residual is added. See `predictors` for each one's formula."""

    NOTHING = 0
    SAME = 1
    CAST = 2
    DECAY = 3
    PRUNE = 4
    ROW_SCALE = 5
    LOW_RANK = 6
    QUANTISE = 7
    REQUANTISE = 8


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part. `reach_back` is how far behind the place of writing old bytes are still read: what an in-place
    apply must keep aside.
    """

    flags: Flag
    block_bytes: int
    old_bytes: int
    old_sha256: bytes
    new_bytes: int
    new_sha256: bytes
    reach_back: int
    prologue_bytes: int = 0
    prologue_raw_bytes: int = 0
    prologue_crc: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A run of equal elements in every record of a tensor."""

    element: Element
    count: int

    @property
    def length(self) -> int:
        """Its bytes in a record."""
        return self.element.width * self.count


@dataclass(frozen=True, slots=True)
class Instruction:
    """Makes the next `length` bytes of output.

    STREAM: one scalar, how its bytes are coded (see `streams`). DELTA: records of `fields` (a plain tensor has one field of one element), predicted from records at `old_offset`, of
    the same fields or of one `old_element`. `scalars` and the parameter record mean what the predictor says.
    """

    kind: Kind
    length: int
    old_offset: int = 0
    predictor: Predictor = Predictor.NOTHING
    fields: tuple[Field, ...] = ()
    old_element: Element | None = None
    scalars: tuple[int, ...] = ()
    parameter_bytes: int = 0

    @property
    def is_heavy(self) -> bool:
        """Whether it has blocks of its own."""
        return self.kind is Kind.STREAM or self.parameter_bytes > 0

    @property
    def record_bytes(self) -> int:
        """Bytes of one record of the output."""
        return sum(field.length for field in self.fields) if self.kind is Kind.DELTA else 1

    @property
    def old_record_bytes(self) -> int:
        """Bytes of the old file that predict one record."""
        if self.kind is Kind.COPY:
            return 1
        if self.kind is not Kind.DELTA or self.predictor is Predictor.NOTHING:
            return 0
        return self.record_bytes if self.old_element is None else self.old_element.width

    @property
    def old_length(self) -> int:
        """How many bytes of the old file it reads in all."""
        return self.length // self.record_bytes * self.old_record_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an instruction's output: `length` bytes from `start` (relative to the instruction)."""

    instruction: int
    start: int
    length: int
    # Where the instruction's literals stand in the prologue's pool.
    literal_offset: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """One record's output: whole pieces, in order."""

    index: int
    offset: int
    length: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Prologue:
    """The instructions, checked, and the literal bytes that LITERAL instructions take in turn."""

    instructions: tuple[Instruction, ...]
    literals: bytes


# ---------------------------------------------------------------------------------------------- header


def pack_header(header: Header) -> bytes:
    """The fixed header; its last eight bytes guard the others."""
    body = _HEADER.pack(
        MAGIC,
        VERSION,
        header.flags,
        header.block_bytes,
        header.old_bytes,
        header.old_sha256,
        header.new_bytes,
        header.new_sha256,
        header.reach_back,
        header.prologue_bytes,
        header.prologue_raw_bytes,
        header.prologue_crc,
        b"",
    )[:-8]
    return body + hashlib.sha256(body).digest()[:8]


def parse_header(content: bytes) -> Header:
    """The checked header; raises `TruncatedPatchError`, `PatchHeaderError` or `PatchLimitError`."""
    if len(content) < HEADER_BYTES:
        raise TruncatedPatchError(f"expected a header of {HEADER_BYTES} bytes, got {len(content)}")
    body, guard = content[: HEADER_BYTES - 8], content[HEADER_BYTES - 8 : HEADER_BYTES]
    if body[:8] != MAGIC:
        raise PatchHeaderError(f"expected magic {MAGIC!r}, got {body[:8]!r}")
    if hashlib.sha256(body).digest()[:8] != guard:
        raise PatchHeaderError("expected a header with its own checksum, got a damaged one")
    fields = _HEADER.unpack(content[:HEADER_BYTES])
    _, version, flags, block_bytes, old_bytes, old_sha256, new_bytes, new_sha256, reach_back, *prologue, _ = fields
    if version != VERSION or flags & ~int(Flag.VERBATIM | Flag.NEEDS_PCODEC):
        raise PatchHeaderError(f"expected version {VERSION} and known flags, got version {version}, flags {flags:#x}")
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES:
        raise PatchLimitError(f"expected blocks of {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES} bytes, got {block_bytes}")
    if max(old_bytes, new_bytes, reach_back) > MAX_FILE_BYTES:
        raise PatchLimitError(f"expected files of at most {MAX_FILE_BYTES} bytes, got {old_bytes} and {new_bytes}")
    if max(prologue[0], prologue[1]) > MAX_PROLOGUE_BYTES:
        raise PatchLimitError(f"expected a prologue of at most {MAX_PROLOGUE_BYTES} bytes, got {prologue[:2]}")
    return Header(Flag(flags), block_bytes, old_bytes, old_sha256, new_bytes, new_sha256, reach_back, *prologue)


# ---------------------------------------------------------------------------------------------- varints


def pack_varint(value: int) -> bytes:
    """An unsigned integer, seven bits a byte, low bits first."""
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_signed(value: int) -> bytes:
    """A signed integer: its sign in the lowest bit."""
    return pack_varint(value << 1 if value >= 0 else (-value << 1) - 1)


class Cursor:
    """Reads varints and runs of bytes, and refuses to read past the end."""

    def __init__(self, content: bytes | memoryview, error: type[Exception] = PatchTableError) -> None:
        self._content = content
        self._error = error
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._content) - self.position

    def varint(self, limit: int = MAX_FILE_BYTES) -> int:
        """The next unsigned integer, which is at most `limit`."""
        value = shift = 0
        while True:
            if self.position >= len(self._content) or shift > 63:  # noqa: PLR2004 - nine groups of seven bits
                raise self._error(f"expected an integer at byte {self.position}, got none that ends")
            byte = self._content[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte <= 0x7F:  # noqa: PLR2004 - the last group
                break
            shift += 7
        if value > limit:
            raise self._error(f"expected at most {limit} before byte {self.position}, got {value}")
        return value

    def signed(self) -> int:
        """The next signed integer."""
        value = self.varint(MAX_FILE_BYTES << 1)
        return -((value + 1) >> 1) if value & 1 else value >> 1

    def take(self, length: int) -> memoryview:
        """The next `length` bytes."""
        if length > self.left:
            raise self._error(f"expected {length} bytes at byte {self.position}, got {self.left}")
        taken = memoryview(self._content)[self.position : self.position + length]
        self.position += length
        return taken


# ---------------------------------------------------------------------------------------------- prologue


def pack_prologue(prologue: Prologue) -> bytes:
    """Instructions and literals, not yet deflated."""
    out = bytearray(pack_varint(len(prologue.instructions)))
    expected = 0
    for item in prologue.instructions:
        out.append(item.kind)
        out += pack_varint(item.length)
        if item.kind is Kind.COPY:
            out += pack_signed(item.old_offset - expected)
        if item.kind is Kind.STREAM:
            out.append(item.scalars[0])
        if item.kind is Kind.DELTA:
            out += bytes((item.predictor, item.old_element or 0, len(item.fields), len(item.scalars)))
            for field in item.fields:
                out.append(field.element)
                out += pack_varint(field.count)
            if item.old_record_bytes:
                out += pack_signed(item.old_offset - expected)
            for scalar in item.scalars:
                out += pack_varint(scalar)
            out += pack_varint(item.parameter_bytes)
        expected = item.old_offset + item.old_length if item.old_record_bytes else expected + item.length
    return bytes(out) + prologue.literals


def deflate(content: bytes) -> bytes:
    """Raw deflate at its smallest."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return packer.compress(content) + packer.flush()


def inflate(content: bytes | memoryview, length: int, error: type[Exception]) -> bytes:
    """Exactly `length` bytes out of raw deflate; never makes more than one byte too many."""
    unpacker = zlib.decompressobj(-15)
    try:
        out = unpacker.decompress(content, length + 1)
    except zlib.error as problem:
        raise error(f"expected deflated bytes, got {problem}") from problem
    if len(out) != length or not unpacker.eof or unpacker.unused_data:
        raise error(f"expected {length} inflated bytes and no rest, got {len(out)}")
    return out


def pack_parameters(raw: bytes) -> bytes:
    """A parameter record without its length: words of four bytes, first all lowest bytes, and deflated."""
    return deflate(b"".join(raw[index::4] for index in range(4)))


def unpack_parameters(content: bytes | memoryview, length: int) -> bytes:
    """`length` bytes of parameters out of their record."""
    planes = inflate(content, length, PatchPayloadError)
    raw = bytearray(length)
    for index in range(4):
        raw[index::4] = planes[index * length // 4 : (index + 1) * length // 4]
    return bytes(raw)


def parse_prologue(header: Header, content: bytes) -> Prologue:
    """The instructions of a patch, checked against the header; raises a `MalformedPatchError`."""
    if len(content) != header.prologue_bytes:
        raise TruncatedPatchError(f"expected a prologue of {header.prologue_bytes} bytes, got {len(content)}")
    if zlib.crc32(content) != header.prologue_crc:
        raise PatchTableError("expected a prologue with the header's checksum, got a damaged one")
    cursor = Cursor(inflate(content, header.prologue_raw_bytes, PatchTableError))
    count = cursor.varint()
    if count > MAX_INSTRUCTIONS:
        raise PatchLimitError(f"expected at most {MAX_INSTRUCTIONS} instructions, got {count}")
    found: list[Instruction] = []
    expected = made = literal_bytes = 0
    for _ in range(count):
        item = _parse_instruction(cursor, expected)
        expected = item.old_offset + item.old_length if item.old_record_bytes else expected + item.length
        made += item.length
        literal_bytes += item.length if item.kind is Kind.LITERAL else 0
        if item.old_record_bytes and not 0 <= item.old_offset <= header.old_bytes - item.old_length:
            raise PatchTableError(
                f"expected old bytes inside {header.old_bytes}, got {item.old_length} at {item.old_offset}"
            )
        if made > header.new_bytes:
            break
        found.append(item)
    if made != header.new_bytes:
        raise PatchTableError(f"expected instructions that make {header.new_bytes} bytes, got {made}")
    if cursor.left != literal_bytes:
        raise PatchTableError(f"expected {literal_bytes} literal bytes, got {cursor.left}")
    return Prologue(tuple(found), bytes(cursor.take(literal_bytes)))


def _parse_instruction(cursor: Cursor, expected: int) -> Instruction:
    code = cursor.take(1)[0]
    if code > max(Kind):
        raise PatchTableError(f"expected a known instruction, got {code}")
    kind, length = Kind(code), cursor.varint()
    if not length:
        raise PatchTableError("expected an instruction that makes something, got an empty one")
    if kind is Kind.COPY:
        return Instruction(kind, length, expected + cursor.signed())
    if kind is Kind.STREAM:
        return Instruction(kind, length, scalars=(cursor.take(1)[0],))
    if kind is Kind.LITERAL:
        return Instruction(kind, length)
    predictor, old, field_count, scalar_count = cursor.take(4)
    if predictor > max(Predictor) or old > max(Element):
        raise PatchTableError(f"expected a known predictor and element, got {predictor} and {old}")
    if not 1 <= field_count <= MAX_FIELDS or scalar_count > MAX_SCALARS:
        raise PatchLimitError(f"expected at most {MAX_FIELDS} fields, got {field_count} with {scalar_count} scalars")
    fields = tuple(_parse_field(cursor) for _ in range(field_count))
    draft = Instruction(kind, length, 0, Predictor(predictor), fields, Element(old) if old else None)
    if draft.record_bytes > MAX_RECORD_BYTES:
        raise PatchLimitError(f"expected records of at most {MAX_RECORD_BYTES} bytes, got {draft.record_bytes}")
    if length % draft.record_bytes:
        raise PatchTableError(f"expected whole records of {draft.record_bytes} bytes, got {length} bytes")
    old_offset = expected + cursor.signed() if draft.old_record_bytes else 0
    scalars = tuple(cursor.varint((1 << 63) - 1) for _ in range(scalar_count))
    parameter_bytes = cursor.varint()
    if parameter_bytes > MAX_PARAMETER_BYTES or parameter_bytes % 4:
        raise PatchLimitError(
            f"expected words of parameters in at most {MAX_PARAMETER_BYTES} bytes, got {parameter_bytes}"
        )
    return Instruction(kind, length, old_offset, draft.predictor, fields, draft.old_element, scalars, parameter_bytes)


def _parse_field(cursor: Cursor) -> Field:
    code, count = cursor.take(1)[0], cursor.varint(MAX_RECORD_BYTES)
    if not 1 <= code <= max(Element) or not count:
        raise PatchTableError(f"expected a known element, got {code} x {count}")
    return Field(Element(code), count)


# ---------------------------------------------------------------------------------------------- blocks


def blocks(instructions: Sequence[Instruction], block_bytes: int) -> Iterator[Block]:
    """The blocks that these instructions make, in order. Encoder and decoder both follow this and nothing else."""
    index = offset = literal_offset = filled = 0
    pieces: list[Piece] = []

    def finished() -> Block:
        nonlocal index, offset, filled, pieces
        block = Block(index, offset, filled, tuple(pieces))
        index, offset, filled, pieces = index + 1, offset + filled, 0, []
        return block

    for number, item in enumerate(instructions):
        if item.is_heavy and pieces:
            yield finished()
        start = 0
        while start < item.length:
            room = (block_bytes - filled) // item.record_bytes * item.record_bytes
            length = min(room, item.length - start)
            if not length:
                yield finished()
                continue
            pieces.append(Piece(number, start, length, literal_offset))
            start += length
            filled += length
            if filled == block_bytes:
                yield finished()
        if item.kind is Kind.LITERAL:
            literal_offset += item.length
        if item.is_heavy and pieces:
            yield finished()
    if pieces:
        yield finished()
