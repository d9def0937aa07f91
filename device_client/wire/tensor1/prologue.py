"""A patch's instructions and literal bytes: how they are written, and how they are read with every number checked.

Deflated or LZMA, whichever is smaller. What `parse_prologue` returns makes exactly the announced output, reads nothing outside the
old file, stays within the limits of `format`, and has no predictor that cannot be followed. Each instruction is checked as
it is read, and none is kept: a table that breaks a limit costs no more than what came before that, and one that breaks
none costs its bytes.
"""

import lzma
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.errors import PatchLimitError, PatchTableError
from device_client.wire.tensor1.format import (
    MAX_BASE,
    MAX_BLOCK_RUNS,
    MAX_DERIVED_CHANNELS,
    MAX_DERIVED_READS,
    MAX_FIELDS,
    MAX_INSTRUCTIONS,
    MAX_NUMBERS,
    MAX_OLD_ROWS,
    MAX_PARAMETER_BYTES,
    MAX_PARAMETER_SHARE,
    MAX_PROLOGUE_BYTES,
    MAX_RECORD_BYTES,
    MAX_SCALARS,
    MAX_STREAM_BYTES,
    MIN_COLUMNS,
    Cursor,
    Derivation,
    Field,
    Flag,
    Formula,
    Header,
    Instruction,
    Kind,
    Predictor,
    Prologue,
    deflate,
    pack_signed,
    pack_varint,
)
from device_client.wire.tensor1.pieces import BlockRuns
from device_client.wire.tensor1.predictors import ELEMENTWISE, check
from device_client.wire.tensor1.streams import STORED, lzma_filters
from device_client.wire.tensor1.unpacking import Unpacker

_WORDS: Final = struct.Struct("<II")
_LZMA: Final = [{"id": lzma.FILTER_LZMA1, "dict_size": MAX_PROLOGUE_BYTES, "lc": 3, "lp": 0, "pb": 0}]
# In the byte of the old element: a matrix that is read by columns.
_BY_COLUMNS: Final = 0x80
_DERIVED: Final = frozenset({Predictor.QUANTISE, Predictor.SCALES})


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
            old = (item.old_element or 0) | (_BY_COLUMNS if item.old_rows else 0)
            out += bytes((item.predictor, old, len(item.fields), len(item.scalars)))
            for field in item.fields:
                out.append(field.element)
                out += pack_varint(field.count)
            if item.old_record_bytes:
                out += pack_signed(item.old_offset - expected)
            if item.old_rows:
                out += pack_varint(item.old_rows)
            for scalar in item.scalars:
                out += pack_varint(scalar)
            out += pack_varint(item.parameter_bytes)
            if item.parameter_bytes:
                out += _pack_derivation(item.derivation, item.old_offset)
        expected = item.old_offset + item.old_length if item.old_record_bytes else expected + item.length
    return bytes(out) + prologue.literals


def _pack_derivation(item: Derivation | None, expected: int) -> bytes:
    if item is None:
        return bytes(1)
    out = bytearray((item.formula, item.old_element))
    out += pack_signed(item.old_offset - expected) + pack_varint(item.outer) + pack_varint(item.inner)
    return bytes(out) + _WORDS.pack(item.divisor, item.factor) + pack_signed(item.base)


def compress_prologue(raw: bytes) -> tuple[bytes, Flag]:
    """The smaller of both codings, and the flag that says which it is."""
    deflated = deflate(raw)
    packed = lzma.compress(raw, lzma.FORMAT_RAW, filters=[{"preset": 9 | lzma.PRESET_EXTREME, **_LZMA[0]}])
    return (packed, Flag.LZMA_PROLOGUE) if len(packed) < len(deflated) else (deflated, Flag(0))


def _decompress_prologue(header: Header, chunks: Iterable[bytes]) -> bytearray:
    """The prologue's bytes, checked against the header."""
    checksum = 0

    def summed() -> Iterator[bytes]:
        nonlocal checksum
        for chunk in chunks:
            checksum = zlib.crc32(chunk, checksum)
            yield chunk

    unpacker = Unpacker(header.prologue_raw_bytes, _LZMA if Flag.LZMA_PROLOGUE in header.flags else None)
    try:
        is_whole = unpacker.fill(summed())
    except ValueError as problem:
        raise PatchTableError(f"expected a compressed prologue, got {problem}") from problem
    if not is_whole:
        raise PatchTableError(f"expected a prologue of {header.prologue_raw_bytes} bytes, got one of another length")
    if checksum != header.prologue_crc:
        raise PatchTableError("expected a prologue with the header's checksum, got a damaged one")
    return unpacker.content


def parse_prologue(header: Header, chunks: Iterable[bytes]) -> Prologue:
    """The instructions of a patch, checked against the header; raises a `MalformedPatchError`.

    `chunks` are the prologue as it is written, in parts of any size.
    """
    raw = _decompress_prologue(header, chunks)
    cursor = Cursor(memoryview(raw))
    count = cursor.varint()
    if count > MAX_INSTRUCTIONS:
        raise PatchLimitError(f"expected at most {MAX_INSTRUCTIONS} instructions, got {count}")
    spent = _Spent(header)
    for item in _parse_instructions(cursor, count):
        _check(header, item)
        spent.add(item)
    if spent.made != header.new_bytes:
        raise PatchTableError(f"expected instructions that make {header.new_bytes} bytes, got {spent.made}")
    if cursor.left != spent.literal_bytes:
        raise PatchTableError(f"expected {spent.literal_bytes} literal bytes, got {cursor.left}")
    return Prologue(_Parsed(raw, count), cursor.take(spent.literal_bytes))


class _Parsed(Collection[Instruction]):
    """Instructions as they are written, which have been checked."""

    def __init__(self, raw: bytearray, count: int) -> None:
        self._raw, self._count = raw, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Instruction]:
        cursor = Cursor(memoryview(self._raw))
        return _parse_instructions(cursor, cursor.varint())

    def __contains__(self, item: object) -> bool:
        return any(found == item for found in self)


def _parse_instructions(cursor: Cursor, count: int) -> Iterator[Instruction]:
    expected = 0
    for _ in range(count):
        item = _parse_instruction(cursor, expected)
        expected = item.old_offset + item.old_length if item.old_record_bytes else expected + item.length
        yield item


class _Spent:
    """What the instructions so far make and take, of what they may in all."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.made = 0
        self.literal_bytes = 0
        self._derived_bytes = 0
        self._parameter_bytes = 0
        self._numbers = 0
        self._runs = BlockRuns(header.block_bytes)

    def add(self, item: Instruction) -> None:
        """One more; raises `PatchTableError` or `PatchLimitError`."""
        header = self._header
        self.made += item.length
        if self.made > header.new_bytes:
            raise PatchTableError(f"expected instructions that make {header.new_bytes} bytes, got {self.made}")
        self.literal_bytes += item.length if item.kind is Kind.LITERAL else 0
        self._numbers += item.numbers
        if self._numbers > MAX_NUMBERS:
            raise PatchLimitError(f"expected at most {MAX_NUMBERS} fields and scalars, got {self._numbers}")
        self._runs.add(item)
        if self._runs.most > MAX_BLOCK_RUNS:
            raise PatchLimitError(
                f"expected at most {MAX_BLOCK_RUNS} runs of numbers in a block, got {self._runs.most}"
            )
        self._parameter_bytes += item.parameter_bytes
        if self._parameter_bytes > MAX_PARAMETER_SHARE * header.new_bytes:
            raise PatchLimitError(
                f"expected parameters of at most {MAX_PARAMETER_SHARE} times the new file, got {self._parameter_bytes} bytes"
            )
        self._derived_bytes += item.derived_bytes
        if self._derived_bytes > MAX_DERIVED_READS * header.old_bytes:
            raise PatchLimitError(
                f"expected to read {MAX_DERIVED_READS} times the old file, got {self._derived_bytes} bytes"
            )


def _check(header: Header, item: Instruction) -> None:
    """That an instruction reads inside the old file and can be followed."""
    if item.kind is Kind.DELTA:
        check(item)
        if item.record_bytes > header.block_bytes:
            raise PatchTableError(f"expected records that fit a block, got {item.record_bytes} bytes")
        _check_columns(header, item)
    elif item.kind is Kind.STREAM and item.scalars[0] != STORED:
        lzma_filters(item.scalars[0])
        if item.length > MAX_STREAM_BYTES:
            raise PatchLimitError(f"expected streams of at most {MAX_STREAM_BYTES} bytes, got {item.length}")
    if item.derivation is not None and item.scalars[1] > MAX_DERIVED_CHANNELS:
        raise PatchLimitError(f"expected at most {MAX_DERIVED_CHANNELS} derived channels, got {item.scalars[1]}")
    reads = [(item.old_offset, item.old_length)] if item.old_record_bytes else []
    if item.derivation is not None:
        reads.append((item.derivation.old_offset, item.derived_bytes))
    for offset, length in reads:
        if not 0 <= offset <= header.old_bytes - length:
            raise PatchTableError(f"expected old bytes inside {header.old_bytes}, got {length} at {offset}")


def _check_columns(header: Header, item: Instruction) -> None:
    """That a matrix that is read by columns has whole ones, and so short ones that no block costs many more reads than numbers."""
    if not item.old_rows:
        return
    if item.predictor not in ELEMENTWISE or item.length // item.record_bytes % item.old_rows:
        raise PatchTableError(f"expected whole columns of {item.old_rows} numbers, got {item}")
    if item.old_rows * item.record_bytes * MIN_COLUMNS > header.block_bytes:
        raise PatchLimitError(f"expected blocks of {MIN_COLUMNS} columns at least, got columns of {item.old_rows}")


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
    predictor, source, field_count, scalar_count = cursor.take(4)
    old = source & ~_BY_COLUMNS
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
    old_rows = _parse_rows(cursor) if source & _BY_COLUMNS else 0
    scalars = tuple(cursor.varint((1 << 63) - 1) for _ in range(scalar_count))
    parameter_bytes = cursor.varint()
    if parameter_bytes > MAX_PARAMETER_BYTES or parameter_bytes % 4:
        raise PatchLimitError(
            f"expected words of parameters in at most {MAX_PARAMETER_BYTES} bytes, got {parameter_bytes}"
        )
    derivation = _parse_derivation(cursor, old_offset) if parameter_bytes else None
    if derivation is not None and (draft.predictor not in _DERIVED or len(scalars) != 2):  # noqa: PLR2004 - inner, count
        raise PatchTableError(f"expected parameters that can be derived, got {draft.predictor.name} with {scalars}")
    return Instruction(
        kind,
        length,
        old_offset,
        draft.predictor,
        fields,
        draft.old_element,
        scalars,
        parameter_bytes,
        derivation,
        old_rows,
    )


def _parse_derivation(cursor: Cursor, expected: int) -> Derivation | None:
    formula = cursor.take(1)[0]
    if not formula:
        return None
    element = cursor.take(1)[0]
    if formula > max(Formula) or element > max(Element) or not element or not Element(element).is_float:
        raise PatchTableError(f"expected a known formula on floats, got {formula} on {element}")
    old_offset = expected + cursor.signed()
    outer, inner = cursor.varint(), cursor.varint()
    if not outer or not inner:
        raise PatchTableError(f"expected channels with numbers, got {outer} x {inner}")
    divisor, factor = _WORDS.unpack(cursor.take(_WORDS.size))
    base = cursor.signed()
    if not -MAX_BASE <= base <= MAX_BASE:
        raise PatchLimitError(f"expected a zero point of at most {MAX_BASE}, got {base}")
    return Derivation(Formula(formula), old_offset, Element(element), outer, inner, divisor, factor, base)


def _parse_rows(cursor: Cursor) -> int:
    rows = cursor.varint(MAX_OLD_ROWS)
    if not rows:
        raise PatchTableError("expected a matrix with rows, got none")
    return rows


def _parse_field(cursor: Cursor) -> Field:
    code, count = cursor.take(1)[0], cursor.varint(MAX_RECORD_BYTES)
    if not 1 <= code <= max(Element) or not count:
        raise PatchTableError(f"expected a known element, got {code} x {count}")
    return Field(Element(code), count)
