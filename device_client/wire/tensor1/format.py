"""The `tensor1` patch, version 1: its header, its instructions and the blocks that follow from them.

    header (fixed) | prologue (deflated or LZMA: instructions, literals) | records

A record is a block's payload length (varint), its output's CRC-32 (4 bytes, little-endian) and its payload. Blocks follow from
the instructions alone, in the order of the output, each of at most `block_bytes` of output and `MAX_BLOCK_RUNS` runs (see `pieces`). An instruction that needs
parameters (or is a stream) is *heavy*: it shares no block with others, and its parameter record (varint length, then
`pack_parameters`) comes before its first block. Parameters with a `Derivation` are computed from the old file; their record has the
differences to that, or nothing when there are none. A *verbatim* patch has no prologue and no records: the header, then the new file.

Parsing checks every length against a limit before anything is allocated, and the instructions against the announced lengths:
what this module returns is safe to follow. It knows no model format. It reads nothing but the bytes that it is given.
"""

import hashlib
import struct
import zlib
from collections.abc import Collection, Iterable, Sequence
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
from device_client.wire.tensor1.unpacking import PlaneUnpacker

MAGIC: Final = b"tensor1\n"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHIQ32sQ32sQIII8s")
HEADER_BYTES: Final = _HEADER.size

MAX_BLOCK_BYTES: Final = 512 << 10
MIN_BLOCK_BYTES: Final = 4 << 10
MAX_PROLOGUE_BYTES: Final = 2 << 20
MAX_INSTRUCTIONS: Final = 1 << 16
# Output of one LZMA stream: a device keeps all that came of it until it ends, and decodes it again after an interruption.
MAX_STREAM_BYTES: Final = 16 << 20
# Of an old matrix that is read by columns: its rows, and how many of its columns a block has at least.
MAX_OLD_ROWS: Final = 1 << 16
MIN_COLUMNS: Final = 4
MAX_PARAMETER_BYTES: Final = 4 << 20
# Of a plane of parameters' bytes, which may each have statistics of their own.
_PARTS: Final = 4
# Of which derived ones take twice as much while they are computed.
MAX_DERIVED_CHANNELS: Final = 1 << 19
MAX_FIELDS: Final = 8
MAX_RECORD_BYTES: Final = 4096
MAX_SCALARS: Final = 64
# Fields, scalars and numbers of derivations of all instructions: what a table may take in memory besides its instructions.
MAX_NUMBERS: Final = 1 << 18
MAX_RANK: Final = 64
# Derived parameters read tensors more than once: this many times the old file in all.
MAX_DERIVED_READS: Final = 8
# Decay replays multiply every weight once a step.
MAX_MULTIPLIES: Final = 2048
# Parameters of all instructions, for each byte of output. Honest ones have two at most: a bias's scale and zero point.
MAX_PARAMETER_SHARE: Final = 4
MAX_FILE_BYTES: Final = 1 << 44
MAX_BASE: Final = 1 << 16
# Runs of numbers in one block: its pieces, each as often as it has fields, and as often again for so many multiplies of
# each number. A run takes about 500 bytes and 50 us. Blocks of `MIN_BLOCK_BYTES` that are not multiplied have no more.
MAX_BLOCK_RUNS: Final = 4096
MULTIPLIES_PER_RUN: Final = 128
# A payload that is larger than this much more than its output is no honest one.
PAYLOAD_SLACK: Final = 64 << 10


_DERIVATION_NUMBERS: Final = 8


class Flag(IntFlag):
    """What a patch needs, and what it is."""

    VERBATIM = 1
    NEEDS_PCODEC = 2
    LZMA_PROLOGUE = 4


_KNOWN_FLAGS: Final = Flag.VERBATIM | Flag.NEEDS_PCODEC | Flag.LZMA_PROLOGUE


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
    SCALES = 9
    PACK = 10


# Elements of the old file that make one record of `PACK`.
PACKED_ELEMENTS: Final = 32


class Formula(IntEnum):
    """How a quantiser makes scale and zero point of the least and the greatest number of a channel; see `derivations`."""

    SYMMETRIC = 1
    ASYMMETRIC = 2


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
class Derivation:
    """Scales (and zero points) as a function of the old floats at `old_offset`: `outer` times the channels of `inner` each.

    `divisor` and `factor` are float32 as bits; `base` is the zero point of 0, or the lowest integer. See `derivations`.
    """

    formula: Formula
    old_offset: int
    old_element: Element
    outer: int
    inner: int
    divisor: int
    factor: int
    base: int

    def read_bytes(self, count: int) -> int:
        """Bytes of the old file that `count` channels are made of."""
        return self.outer * count * self.inner * self.old_element.width


@dataclass(frozen=True, slots=True)
class Instruction:
    """Makes the next `length` bytes of output.

    STREAM: one scalar, how its bytes are coded (see `streams`). DELTA: records of `fields` (a plain tensor has one field of one element), predicted from records at `old_offset`, of
    the same fields or of one `old_element`. `scalars` and the parameter record mean what the predictor says. With `old_rows`, the
    old numbers are a matrix of so many rows, and the new ones follow from them in the order of its columns.
    """

    kind: Kind
    length: int
    old_offset: int = 0
    predictor: Predictor = Predictor.NOTHING
    fields: tuple[Field, ...] = ()
    old_element: Element | None = None
    scalars: tuple[int, ...] = ()
    parameter_bytes: int = 0
    derivation: Derivation | None = None
    old_rows: int = 0

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
        if self.kind is not Kind.DELTA or self.predictor in {Predictor.NOTHING, Predictor.SCALES}:
            return 0
        if self.old_element is None:
            return self.record_bytes
        return self.old_element.width * (PACKED_ELEMENTS if self.predictor is Predictor.PACK else 1)

    @property
    def old_length(self) -> int:
        """How many bytes of the old file it reads in all."""
        return self.length // self.record_bytes * self.old_record_bytes

    @property
    def numbers(self) -> int:
        """What it counts towards `MAX_NUMBERS`."""
        return len(self.fields) + len(self.scalars) + (_DERIVATION_NUMBERS if self.derivation is not None else 0)

    @property
    def derived_bytes(self) -> int:
        """How many bytes of the old file its parameters are made of."""
        return self.derivation.read_bytes(self.scalars[1]) if self.derivation is not None else 0


@dataclass(frozen=True, slots=True)
class Prologue:
    """The instructions, checked, and the literal bytes that LITERAL instructions take in turn.

    Those of a patch that is read are parsed anew whenever they are asked for: as objects they would take 40 MiB.
    """

    instructions: Collection[Instruction]
    literals: bytes | memoryview


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
    if version != VERSION or flags & ~int(_KNOWN_FLAGS):
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


# ---------------------------------------------------------------------------------------------- parameters


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
    """A parameter record without its length: words of four bytes, first all lowest bytes, and deflated. Zeros are nothing."""
    if raw.count(0) == len(raw):
        return b""
    planes = [raw[index::4] for index in range(4)]
    part = -(-len(planes[0]) // _PARTS)
    parts = [plane[start : start + part] for plane in planes for start in range(0, len(plane), part)]
    return min(_run_lengths([b"".join(planes)]), _run_lengths(parts), key=len)


def _run_lengths(parts: Sequence[bytes]) -> bytes:
    """Deflated, each part with statistics of its own. Rounded numbers have runs of bytes and little else that recurs."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return b"".join(packer.compress(part) + packer.flush(zlib.Z_BLOCK) for part in parts) + packer.flush()


def unpack_parameters(chunks: Iterable[bytes], length: int) -> bytearray:
    """`length` bytes of parameters out of their record, which comes in parts; no bytes stand for zeros."""
    unpacker = PlaneUnpacker(length)
    try:
        is_whole = unpacker.fill(chunks)
    except ValueError as problem:
        raise PatchPayloadError(f"expected deflated parameters, got {problem}") from problem
    if not is_whole:
        raise PatchPayloadError(f"expected {length} bytes of parameters, got another length")
    return unpacker.content
