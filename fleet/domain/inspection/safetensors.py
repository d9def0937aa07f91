"""safetensors: a JSON header of bounded size, then tensors that fill the rest of the file without gaps or overlaps."""

import struct
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import (
    WINDOW_BYTES,
    ByteSource,
    Inspection,
    MalformedFileError,
    StoredTensor,
    text_of,
)
from fleet.domain.inspection.json_stream import JsonStream

# As the format has it, and what is read of it: room for 70,000 tensors with long names, which takes up to 60 MiB.
FORMAT_HEADER_BYTES: Final = 100_000_000
MAX_HEADER_BYTES: Final = 8 << 20
MAX_TENSORS: Final = 200_000
MAX_DIMENSIONS: Final = 32
MAX_DIMENSIONS_IN_ALL: Final = 800_000
MAX_METADATA: Final = 64
_LENGTH: Final = struct.Struct("<Q")
_DTYPES: Final = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8e4m3fn", 8),
    "F8_E5M2": ("float8e5m2", 8),
    "F8_E4M3FNUZ": ("float8e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8e5m2fnuz", 8),
    "F8_E8M0": ("float8e8m0", 8),
    "F6_E2M3": ("float6e2m3", 6),
    "F6_E3M2": ("float6e3m2", 6),
    "F4": ("float4e2m1", 4),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}


def is_safetensors(source: ByteSource) -> bool:
    """Whether the file starts with the length of a JSON object that fits."""
    if source.length <= _LENGTH.size + 1:
        return False
    (size,) = source.unpack(_LENGTH, 0)
    return 1 < size <= min(FORMAT_HEADER_BYTES, source.length - _LENGTH.size) and source.read(_LENGTH.size, 1) == b"{"


def inspect(source: ByteSource) -> Inspection:
    """Read the header; raises MalformedFileError."""
    stored, metadata = read(source)
    elements: dict[str, int] = {}
    for tensor in stored:
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.count
    return Inspection(format=Format.SAFETENSORS.value, elements=elements, metadata=metadata)


def read(source: ByteSource) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors in the order of their places, and the metadata; raises MalformedFileError."""
    (size,) = source.unpack(_LENGTH, 0)
    if size > MAX_HEADER_BYTES:
        raise MalformedFileError(f"expected a safetensors header of at most {MAX_HEADER_BYTES} bytes, got {size}")
    start = _LENGTH.size + size
    places = range(_LENGTH.size, start, WINDOW_BYTES)
    stream = JsonStream(source.read(place, min(WINDOW_BYTES, start - place)) for place in places)
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    dimensions = 0
    for name in stream.members():
        if name == "__metadata__":
            metadata = _metadata(stream)
            continue
        tensor = _tensor(name, stream.value(), start)
        dimensions += len(tensor.shape)
        if name in tensors or len(tensors) >= MAX_TENSORS or dimensions > MAX_DIMENSIONS_IN_ALL:
            raise MalformedFileError(
                f"tensor {name[:80]!r}: expected at most {MAX_TENSORS} tensors, each with a name of its own, "
                f"of {MAX_DIMENSIONS_IN_ALL} dimensions in all"
            )
        tensors[name] = tensor
    if stream.peek():
        raise MalformedFileError(f"expected the end of a JSON header, got {stream.peek()!r}")
    stored = sorted(tensors.values(), key=lambda item: (item.offset, item.size))
    _require_filled(stored, start, source.length)
    return stored, metadata


def _metadata(stream: JsonStream) -> dict[str, str]:
    """The first of it, cut to what is shown; anything else than an object is none."""
    found: dict[str, str] = {}
    if stream.peek() != "{":
        stream.value()
        return found
    for name in stream.members():
        value = stream.value()
        if len(found) < MAX_METADATA:
            found[_plain(name)[:100]] = _plain(value)[:200]
    return found


def _plain(value: object) -> str:
    """Text that every database takes: escapes may hold NUL and halves of characters."""
    return text_of(str(value).encode("utf-8", "replace"))


def _tensor(name: str, entry: object, data_start: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]} if dtype in _DTYPES:
            if all(type(size) is int and 0 <= size < 1 << 48 for size in shape) and 0 <= start <= end:
                known, bits = _DTYPES[dtype]
                found = StoredTensor(name, known, tuple(shape), data_start + start, end - start)
                if len(shape) <= MAX_DIMENSIONS and (found.count * bits + 7) // 8 == found.size:
                    return found
        case _:
            pass
    raise MalformedFileError(f"tensor {name[:80]!r}: expected dtype, shape and matching offsets, got {entry!r:.120}")


def _require_filled(stored: list[StoredTensor], start: int, end: int) -> None:
    position = start
    for tensor in stored:
        if tensor.offset != position:
            raise MalformedFileError(
                f"expected tensors without gaps or overlaps, got one at {tensor.offset} after {position}"
            )
        position += tensor.size
    if position != end:
        raise MalformedFileError(f"expected {position} bytes with tensors, got {end}")
