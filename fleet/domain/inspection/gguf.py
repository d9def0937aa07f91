"""GGUF (llama.cpp), versions 2 and 3: key/values, then tensor descriptions, then aligned tensor data."""

import struct
from dataclasses import replace
from math import prod
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import ByteSource, Inspection, MalformedFileError, StoredTensor, text_of

MAGIC: Final = b"GGUF"
MAX_TENSORS: Final = 100_000
MAX_PAIRS: Final = 100_000
MAX_ARRAY: Final = 4_000_000
MAX_DIMENSIONS: Final = 8
DEFAULT_ALIGNMENT: Final = 32
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_STRING, _ARRAY, _UINT32 = 8, 9, 4
# Value type -> size in bytes.
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# ggml type -> name, elements a block, bytes a block.
TYPES: Final = {
    0: ("float32", 1, 4),
    1: ("float16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("int8", 1, 1),
    25: ("int16", 1, 2),
    26: ("int32", 1, 4),
    27: ("int64", 1, 8),
    28: ("float64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bfloat16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}
_ALIGNMENT_KEY: Final = "general.alignment"


def is_gguf(source: ByteSource) -> bool:
    """Whether the file starts with the magic."""
    return source.length >= len(MAGIC) and source.read(0, len(MAGIC)) == MAGIC


class _Cursor:
    """Reads one thing after the other."""

    def __init__(self, source: ByteSource, position: int) -> None:
        self._source = source
        self.position = position

    def number(self, layout: struct.Struct) -> int:
        (value,) = self._source.unpack(layout, self.position)
        self.position += layout.size
        return value

    def text(self) -> str:
        size = self.number(_U64)
        raw = self._source.read(self.position, min(size, 1024))
        self.skip(size)
        return text_of(raw)

    def skip(self, size: int) -> None:
        if self.position + size > self._source.length:
            raise MalformedFileError(f"expected {size} bytes at offset {self.position}, got the file's end")
        self.position += size


def inspect(source: ByteSource) -> Inspection:
    """Read key/values and tensor descriptions; raises MalformedFileError."""
    stored, metadata = read(source)
    elements: dict[str, int] = {}
    for tensor in stored:
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.count
    return Inspection(format=Format.GGUF.value, elements=elements, metadata=metadata)


def read(source: ByteSource) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors as they are described, and what metadata is short enough to show; raises MalformedFileError.

    Shapes are row-major, so reversed: the file has the fastest dimension first. Of a type that is not known the size
    is 0.
    """
    cursor = _Cursor(source, len(MAGIC))
    version = cursor.number(_U32)
    tensors, pairs = cursor.number(_U64), cursor.number(_U64)
    if version not in {2, 3} or tensors > MAX_TENSORS or pairs > MAX_PAIRS:
        raise MalformedFileError(
            f"expected GGUF version 2 or 3, got version {version}, {tensors} tensors, {pairs} pairs"
        )
    metadata: dict[str, str] = {}
    alignment = DEFAULT_ALIGNMENT
    for _ in range(pairs):
        key, kind, value = _pair(cursor)
        if key == _ALIGNMENT_KEY and kind == _UINT32 and value is not None:
            alignment = int(value)
        if value is not None and len(metadata) < 64:  # noqa: PLR2004 - enough to show
            metadata[key] = value
    described = [_tensor(cursor) for _ in range(tensors)]
    if alignment < 1:
        raise MalformedFileError("expected an alignment of at least 1, got 0")
    start = (cursor.position + alignment - 1) // alignment * alignment
    end = start + max((item.offset + item.size for item in described), default=0)
    if described and end > source.length:
        raise MalformedFileError(f"expected {end} bytes, got a file of {source.length}")
    return [replace(item, offset=start + item.offset) for item in described], metadata


def _pair(cursor: _Cursor) -> tuple[str, int, str | None]:
    key, kind = cursor.text(), cursor.number(_U32)
    if kind == _STRING:
        return key, kind, cursor.text()
    if kind == _ARRAY:
        _skip_array(cursor)
        return key, kind, None
    if kind == _UINT32:
        return key, kind, str(cursor.number(_U32))
    if kind not in _SIZES:
        raise MalformedFileError(f"key {key!r}: expected a known value type, got {kind}")
    cursor.skip(_SIZES[kind])
    return key, kind, None


def _skip_array(cursor: _Cursor) -> None:
    kind, count = cursor.number(_U32), cursor.number(_U64)
    if count > MAX_ARRAY:
        raise MalformedFileError(f"expected an array of at most {MAX_ARRAY} values, got {count}")
    if kind == _STRING:
        for _ in range(count):
            cursor.skip(cursor.number(_U64))
    elif kind in _SIZES:
        cursor.skip(_SIZES[kind] * count)
    else:
        raise MalformedFileError(f"expected an array of a known type, got {kind}")


def _tensor(cursor: _Cursor) -> StoredTensor:
    """A tensor's description; its offset is relative to the start of the data."""
    name, dimensions = cursor.text(), cursor.number(_U32)
    if dimensions > MAX_DIMENSIONS:
        raise MalformedFileError(f"tensor {name!r}: expected at most {MAX_DIMENSIONS} dimensions, got {dimensions}")
    shape = tuple(cursor.number(_U64) for _ in range(dimensions))[::-1]
    kind, offset = cursor.number(_U32), cursor.number(_U64)
    if kind not in TYPES:
        # Newer quantisations appear often; their size is unknown here, so only their place is checked.
        return StoredTensor(name, f"ggml_type_{kind}", shape, offset, 0)
    dtype, block, block_bytes = TYPES[kind]
    count = prod(shape)
    if count % block:
        raise MalformedFileError(f"tensor {name!r}: expected a multiple of {block} elements, got {count}")
    return StoredTensor(name, dtype, shape, offset, count // block * block_bytes)
