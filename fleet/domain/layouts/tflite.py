"""TFLite: tensors of all graphs that have a buffer, with their quantisation. Slots are those of the schema."""

import struct
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import ByteSource, MalformedFileError
from fleet.domain.inspection.tflite import DTYPES, MAX_DIMENSIONS, Table
from fleet.domain.layouts.layout import Dtype, Layout, Quantisation, Segment

# Per-channel zero points beyond this many are not read: quantised weights are symmetric in practice.
MAX_ZERO_POINTS: Final = 65_536
_SUBGRAPHS, _BUFFERS = 2, 4
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTISATION = 0, 1, 2, 3, 4
_SCALE, _ZERO_POINT, _AXIS = 2, 3, 6
_I32: Final = struct.Struct("<i")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


def read(source: ByteSource) -> Layout:
    """The layout; raises MalformedFileError."""
    (root,) = source.unpack(_U32, 0)
    model = Table(source, root)
    places = [_place(buffer) for buffer in model.tables(_BUFFERS)]
    segments: list[Segment] = []
    for graph in model.tables(_SUBGRAPHS):
        for tensor in graph.tables(0):
            segment = _segment(source, tensor, places)
            if segment is not None:
                segments += [segment, *_scales(segment)]
    return Layout.of(source.length, Format.TFLITE.value, segments)


def _scales(segment: Segment) -> list[Segment]:
    """The vector of a tensor's scales, which lies among the tables; one scale is too little to name."""
    scales = segment.quantisation
    if scales is None or scales.scale_count == 1:
        return []
    length = 4 * scales.scale_count
    return [Segment(scales.scale_offset, length, Dtype.FLOAT32, (scales.scale_count,), f"{segment.name}_scale")]


def _place(buffer: Table) -> tuple[int, int]:
    """(offset, length) of a buffer's bytes: in its vector, or behind all tables for large models."""
    start, count = buffer.vector(0)
    return (start, count) if count else (buffer.number(1, _U64), buffer.number(2, _U64))


def _segment(source: ByteSource, tensor: Table, places: list[tuple[int, int]]) -> Segment | None:
    index = tensor.number(_BUFFER, _U32)
    dtype = Dtype.named(DTYPES.get(tensor.byte(_TYPE), ("unknown", 0))[0])
    if dtype is None or not 0 < index < len(places) or not places[index][1]:
        return None
    shape = tuple(tensor.integers(_SHAPE, MAX_DIMENSIONS))
    if any(size < 0 for size in shape):
        return None
    offset, length = places[index]
    return Segment(offset, length, dtype, shape, tensor.text(_NAME), quantisation=_quantisation(source, tensor, shape))


def _quantisation(source: ByteSource, tensor: Table, shape: tuple[int, ...]) -> Quantisation | None:
    details = tensor.table(_QUANTISATION)
    if details is None:
        return None
    scales, scale_count = details.vector(_SCALE)
    if not scale_count:
        return None
    zeros, zero_count = details.vector(_ZERO_POINT)
    if zero_count > MAX_ZERO_POINTS:
        raise MalformedFileError(f"expected at most {MAX_ZERO_POINTS} zero points, got {zero_count}")
    points = struct.unpack(f"<{zero_count}q", source.read(zeros, 8 * zero_count))
    axis = details.number(_AXIS, _I32) if scale_count > 1 else None
    if axis is not None and (not 0 <= axis < len(shape) or shape[axis] != scale_count):
        return None
    return Quantisation(scales, scale_count, points if any(points) else (), axis)
