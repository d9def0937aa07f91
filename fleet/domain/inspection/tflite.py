"""TFLite: the few tables of its flatbuffer that say what goes in, what comes out and what the weights are made of.

Table slots are those of tensorflow/lite/schema/schema.fbs (Apache-2.0). Custom operators are refused: they need code
that does not come with the runtime.
"""

import struct
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import (
    ByteSource,
    ForbiddenFileError,
    Inspection,
    MalformedFileError,
    TensorInfo,
    text_of,
)

IDENTIFIER: Final = b"TFL3"
MAX_ITEMS: Final = 100_000
MAX_DIMENSIONS: Final = 32
CUSTOM_OPERATOR: Final = 32
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")
_U64: Final = struct.Struct("<Q")
DTYPES: Final = {
    0: ("float32", 32),
    1: ("float16", 16),
    2: ("int32", 32),
    3: ("uint8", 8),
    4: ("int64", 64),
    5: ("string", 0),
    6: ("bool", 8),
    7: ("int16", 16),
    8: ("complex64", 64),
    9: ("int8", 8),
    10: ("float64", 64),
    12: ("uint64", 64),
    15: ("uint32", 32),
    16: ("uint16", 16),
    17: ("int4", 4),
}
_NOT_WEIGHTS: Final = frozenset({"int32", "int64", "string", "bool", "uint32", "uint64"})


def is_tflite(source: ByteSource) -> bool:
    """Whether the file carries the identifier."""
    return source.length >= 8 and source.read(4, 4) == IDENTIFIER  # noqa: PLR2004 - root offset, identifier


class Table:
    """A flatbuffer table: fields found through its vtable, absent ones None."""

    def __init__(self, source: ByteSource, position: int) -> None:
        self._source = source
        self._position = position
        (back,) = source.unpack(_I32, position)
        self._vtable = position - back
        (self._vtable_bytes,) = source.unpack(_U16, self._vtable)

    def _field(self, slot: int) -> int | None:
        entry = 4 + 2 * slot
        if entry + 2 > self._vtable_bytes:
            return None
        (offset,) = self._source.unpack(_U16, self._vtable + entry)
        return self._position + offset if offset else None

    def number(self, slot: int, layout: struct.Struct, default: int = 0) -> int:
        place = self._field(slot)
        return default if place is None else self._source.unpack(layout, place)[0]

    def byte(self, slot: int, default: int = 0) -> int:
        place = self._field(slot)
        return default if place is None else self._source.read(place, 1)[0]

    def vector(self, slot: int) -> tuple[int, int]:
        """(start, count) of a vector field; (0, 0) for an absent one."""
        place = self._field(slot)
        if place is None:
            return 0, 0
        start = place + self._source.unpack(_U32, place)[0]
        (count,) = self._source.unpack(_U32, start)
        return start + 4, count

    def integers(self, slot: int, limit: int) -> list[int]:
        start, count = self.vector(slot)
        if count > limit:
            raise MalformedFileError(f"expected at most {limit} numbers, got {count}")
        return [self._source.unpack(_I32, start + 4 * index)[0] for index in range(count)]

    def tables(self, slot: int) -> "list[Table]":
        start, count = self.vector(slot)
        if count > MAX_ITEMS:
            raise MalformedFileError(f"expected at most {MAX_ITEMS} tables, got {count}")
        places = [start + 4 * index for index in range(count)]
        return [Table(self._source, place + self._source.unpack(_U32, place)[0]) for place in places]

    def table(self, slot: int) -> "Table | None":
        place = self._field(slot)
        return None if place is None else Table(self._source, place + self._source.unpack(_U32, place)[0])

    def text(self, slot: int) -> str:
        start, count = self.vector(slot)
        return text_of(self._source.read(start, min(count, 1024))) if count else ""


def inspect(source: ByteSource) -> Inspection:
    """Read the model's tables; raises MalformedFileError or ForbiddenFileError."""
    (root,) = source.unpack(_U32, 0)
    model = Table(source, root)
    version = model.number(0, _U32)
    subgraphs = model.tables(2)
    if version != 3 or not subgraphs:  # noqa: PLR2004 - the schema's version
        raise MalformedFileError(f"expected a TFLite model of schema version 3 with a graph, got version {version}")
    operators = _operators(model)
    buffers = [_buffer_bytes(source, buffer) for buffer in model.tables(4)]
    elements: dict[str, int] = {}
    for subgraph in subgraphs:
        for tensor in subgraph.tables(0):
            _count(tensor, buffers, elements)
    tensors = subgraphs[0].tables(0)
    return Inspection(
        format=Format.TFLITE.value,
        elements=elements,
        inputs=_named(tensors, subgraphs[0].integers(1, MAX_ITEMS)),
        outputs=_named(tensors, subgraphs[0].integers(2, MAX_ITEMS)),
        operators=operators,
        metadata={"description": model.text(3)} if model.text(3) else {},
    )


def _operators(model: Table) -> dict[str, int]:
    counts: dict[str, int] = {}
    for code in model.tables(1):
        builtin = code.number(3, _I32) or code.byte(0)
        custom = code.text(1)
        if builtin == CUSTOM_OPERATOR or custom:
            raise ForbiddenFileError(f"expected built-in operators, got a custom one: {custom!r}")
        counts[f"builtin_{builtin}"] = counts.get(f"builtin_{builtin}", 0) + 1
    return counts


def _buffer_bytes(source: ByteSource, buffer: Table) -> int:
    start, count = buffer.vector(0)
    if count:
        if start + count > source.length:
            raise MalformedFileError(f"expected a buffer inside the file, got one that ends at {start + count}")
        return count
    offset, size = buffer.number(1, _U64), buffer.number(2, _U64)
    if offset > 1 and offset + size > source.length:
        raise MalformedFileError(f"expected a buffer inside the file, got one that ends at {offset + size}")
    return size if offset > 1 else 0


def _count(tensor: Table, buffers: list[int], elements: dict[str, int]) -> None:
    index = tensor.number(2, _U32)
    if index >= len(buffers):
        raise MalformedFileError(f"expected a buffer below {len(buffers)}, got {index}")
    dtype, bits = DTYPES.get(tensor.byte(1), ("unknown", 0))
    size = buffers[index]
    if not size or not bits or dtype in _NOT_WEIGHTS:
        return
    elements[dtype] = elements.get(dtype, 0) + size * 8 // bits


def _named(tensors: list[Table], indices: list[int]) -> dict[str, TensorInfo]:
    named: dict[str, TensorInfo] = {}
    for index in indices:
        if not 0 <= index < len(tensors):
            raise MalformedFileError(f"expected a tensor below {len(tensors)}, got {index}")
        tensor = tensors[index]
        signature = tensor.integers(7, MAX_DIMENSIONS) or tensor.integers(0, MAX_DIMENSIONS)
        shape = tuple(None if size < 0 else size for size in signature)
        named[tensor.text(3)] = TensorInfo(DTYPES.get(tensor.byte(1), ("unknown", 0))[0], shape)
    return named
