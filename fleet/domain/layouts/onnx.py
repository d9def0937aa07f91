"""ONNX: tensors of all graphs, nodes and functions, wherever their bytes lie: raw, in typed fields or in another file.

Unlike inspection this refuses nothing: what may be released is decided there. Field numbers are those of onnx.proto3.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import ByteSource, MalformedFileError
from fleet.domain.inspection.onnx import DTYPES, MAX_DEPTH, MAX_DIMENSIONS
from fleet.domain.inspection.protobuf import Part, Wire, numbers, parts
from fleet.domain.layouts.layout import Dtype, Layout, Quantisation, Segment

MAX_NAME_BYTES: Final = 1_024
MAX_DIGITS: Final = 15
# Shapes, axes and zero points are worth knowing; longer whole-number tensors are read by nobody.
MAX_INTEGERS: Final = 65_536
# Typed fields whose numbers lie in the file as they do in memory: floats, and doubles. All others are varints.
_FLAT_FIELDS: Final = {4: frozenset({Dtype.FLOAT32, Dtype.COMPLEX64}), 10: frozenset({Dtype.FLOAT64, Dtype.COMPLEX128})}
_VARINT_FIELDS: Final = frozenset({5, 7, 11})
_WHOLE: Final = {
    Dtype.INT8: "b",
    Dtype.UINT8: "B",
    Dtype.INT16: "h",
    Dtype.UINT16: "H",
    Dtype.INT32: "i",
    Dtype.UINT32: "I",
    Dtype.INT64: "q",
    Dtype.UINT64: "Q",
}
# Operator -> for each quantised operand the inputs (integers, scale, zero point) and the axis when none is stated.
_QUANTISED_OPERANDS: Final[Mapping[str, tuple[tuple[int, int, int, int], ...]]] = {
    "DequantizeLinear": ((0, 1, 2, 1),),
    "QLinearConv": ((3, 4, 5, 0),),
    "QLinearMatMul": ((3, 4, 5, 1), (0, 1, 2, 0)),
    "QGemm": ((3, 4, 5, 1),),
}
# Operators of dynamic quantisation multiply by scales that only their names connect to the weights.
_QUANTISED_SUFFIX: Final = "_quantized"


@dataclass(frozen=True)
class _Tensor:
    """One TensorProto: where its bytes are, in this file or in another one."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int = -1
    length: int = 0
    location: str | None = None
    integers: tuple[int, ...] = ()

    @property
    def segment(self) -> Segment:
        return Segment(self.offset, self.length, self.dtype, self.shape, self.name)


@dataclass
class _Walk:
    """What the walk collects."""

    source: ByteSource
    tensors: list[_Tensor] = field(default_factory=list)
    # Integers' name -> (scale's name, zero point's name, axis).
    operands: dict[str, tuple[str, str, int]] = field(default_factory=dict)


def read(source: ByteSource) -> Layout:
    """The layout of a model file; raises MalformedFileError for what is no ONNX model."""
    walk = _walk(source)
    own = {item.name: item for item in walk.tensors if item.location is None}
    segments = (
        replace(item.segment, quantisation=_quantisation(source, walk, own, item))
        for item in walk.tensors
        if item.location is None and item.offset >= 0
    )
    integers = {name: item.integers for name, item in own.items() if item.integers}
    return Layout.of(source.length, Format.ONNX.value, segments, integers)


def read_external(size: int, name: str, description: ByteSource) -> Layout:
    """The layout of an external data file of `size` bytes, as the model file describes it; raises MalformedFileError.

    Of a model with several data files the one called `name` is meant.
    """
    stored = [item for item in _walk(description).tensors if item.location is not None]
    if not stored:
        raise MalformedFileError("expected a model with external data, got one without")
    locations = {item.location for item in stored}
    meant = [item for item in stored if len(locations) == 1 or (item.location or "").rpartition("/")[2] == name]
    return Layout.of(size, Format.ONNX.value, (item.segment for item in meant))


def _walk(source: ByteSource) -> _Walk:
    walk = _Walk(source)
    graphs = ir_version = 0
    for part in parts(source, 0, source.length):
        match part.number, part.wire:
            case 1, Wire.VARINT:
                ir_version = part.value
            case 7, Wire.BYTES:
                graphs += 1
                _graph(walk, part, 0)
            case 25, Wire.BYTES:
                for inner in _nested(source, part, {7}):
                    _node(walk, inner, 1)
            case _:
                pass
    if graphs != 1 or not ir_version:
        raise MalformedFileError(f"expected an ONNX model with an IR version and one graph, got {graphs} graphs")
    return walk


def _nested(source: ByteSource, whole: Part, wanted: set[int]) -> Iterator[Part]:
    for part in parts(source, whole.start, whole.end):
        if part.number in wanted and part.wire is Wire.BYTES:
            yield part


def _graph(walk: _Walk, whole: Part, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedFileError(f"expected at most {MAX_DEPTH} nested graphs, got more")
    for part in _nested(walk.source, whole, {1, 5, 15}):
        match part.number:
            case 1:
                _node(walk, part, depth)
            case 5:
                _tensor(walk, part)
            case _:
                _sparse(walk, part)


def _node(walk: _Walk, whole: Part, depth: int) -> None:
    inputs: list[str] = []
    operator, axis, output = "", None, ""
    for part in _nested(walk.source, whole, {1, 2, 4, 5}):
        match part.number:
            case 1:
                inputs.append(_text(walk.source, part))
            case 2:
                output = output or _text(walk.source, part)
            case 4:
                operator = _text(walk.source, part)
            case _:
                found = _attribute(walk, part, depth, output)
                axis = found if found is not None else axis
    for integers, scale, zero, default in _QUANTISED_OPERANDS.get(operator, ()):
        if scale < len(inputs) and inputs[integers]:
            zero_point = inputs[zero] if zero < len(inputs) else ""
            walk.operands[inputs[integers]] = (inputs[scale], zero_point, default if axis is None else axis)


def _attribute(walk: _Walk, whole: Part, depth: int, output: str) -> int | None:
    """Walk an attribute's tensors and graphs; returns the axis if it says one. `output` names a nameless constant."""
    name, number = "", None
    for part in parts(walk.source, whole.start, whole.end):
        match part.number, part.wire:
            case 1, Wire.BYTES:
                name = _text(walk.source, part)
            case 3, Wire.VARINT:
                number = _signed(part.value)
            case ((5 | 10), Wire.BYTES):
                _tensor(walk, part, output)
            case ((6 | 11), Wire.BYTES):
                _graph(walk, part, depth + 1)
            case ((22 | 23), Wire.BYTES):
                _sparse(walk, part)
            case _:
                pass
    return number if name == "axis" else None


def _sparse(walk: _Walk, whole: Part) -> None:
    for part in _nested(walk.source, whole, {1, 2}):
        _tensor(walk, part)


def _tensor(walk: _Walk, whole: Part, default_name: str = "") -> None:
    """Note a tensor whose bytes have a place; others are ordinary bytes of the file."""
    source = walk.source
    name, data_type, raw = "", 0, None
    shape: list[int] = []
    typed: list[Part] = []
    external: dict[str, str] = {}
    for part in parts(source, whole.start, whole.end):
        match part.number, part.wire:
            case 1, _:
                shape += numbers(source, part, MAX_DIMENSIONS)
            case 2, Wire.VARINT:
                data_type = part.value
            case 8, Wire.BYTES:
                name = _text(source, part)
            case 9, Wire.BYTES:
                raw = part
            case ((4 | 5 | 7 | 10 | 11), Wire.BYTES):
                typed.append(part)
            case 13, Wire.BYTES if len(external) < 16:  # noqa: PLR2004 - five keys are known
                external.update(_entry(source, part))
            case _:
                pass
    dtype = Dtype.named(DTYPES.get(data_type, ("", 0))[0])
    if dtype is None or len(shape) > MAX_DIMENSIONS or any(size >= 1 << 48 for size in shape):
        return
    walk.tensors.append(_placed(source, _Tensor(name or default_name, dtype, tuple(shape)), raw, typed, external))


def _placed(
    source: ByteSource, tensor: _Tensor, raw: Part | None, typed: list[Part], external: Mapping[str, str]
) -> _Tensor:
    expected = (prod(tensor.shape) * tensor.dtype.bits + 7) // 8
    if "location" in external:
        offset, length = _number(external.get("offset", "0")), _number(external.get("length", str(expected)))
        return replace(tensor, offset=offset, length=length, location=external["location"])
    if raw is not None:
        placed = replace(tensor, offset=raw.start, length=raw.size)
        kind = _WHOLE.get(tensor.dtype)
        if kind is None or raw.size != expected or prod(tensor.shape) > MAX_INTEGERS:
            return placed
        values = struct.unpack(f"<{prod(tensor.shape)}{kind}", source.read(raw.start, raw.size))
        return replace(placed, integers=tuple(values))
    if len(typed) != 1:
        return tensor
    (part,) = typed
    if tensor.dtype in _FLAT_FIELDS.get(part.number, ()):
        return replace(tensor, offset=part.start, length=part.size)
    if part.number in _VARINT_FIELDS and tensor.dtype in _WHOLE and prod(tensor.shape) <= MAX_INTEGERS:
        signed = tuple(_signed(value) for value in numbers(source, part, MAX_INTEGERS))
        return replace(tensor, integers=signed) if len(signed) == prod(tensor.shape) else tensor
    return tensor


def _quantisation(source: ByteSource, walk: _Walk, own: Mapping[str, _Tensor], tensor: _Tensor) -> Quantisation | None:
    """How the integers of `tensor` are read, if an operator of the graph or its name says so."""
    base = tensor.name.removesuffix(_QUANTISED_SUFFIX)
    named = (f"{base}_scale", f"{base}_zero_point", -1) if base != tensor.name else ("", "", 0)
    scale_name, zero_name, axis = walk.operands.get(tensor.name, named)
    scale = own.get(scale_name)
    if scale is None or scale.dtype is not Dtype.FLOAT32 or scale.offset < 0:
        return None
    count = prod(scale.shape)
    if scale.length != 4 * count or scale.offset + scale.length > source.length:
        return None
    zeros = own[zero_name].integers if zero_name in own else ()
    if zero_name and not zeros:
        return None
    # Operators whose weights may lie transposed, and names, do not say for certain which axis is meant.
    likely = [axis + len(tensor.shape) if axis < 0 else axis, *reversed(range(len(tensor.shape)))]
    fitting = [place for place in likely if 0 <= place < len(tensor.shape) and tensor.shape[place] == count]
    if count > 1 and not fitting:
        return None
    return Quantisation(scale.offset, count, zeros if any(zeros) else (), fitting[0] if count > 1 else None)


def _entry(source: ByteSource, whole: Part) -> dict[str, str]:
    texts = {part.number: _text(source, part) for part in _nested(source, whole, {1, 2})}
    return {texts.get(1, ""): texts.get(2, "")}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise MalformedFileError(f"expected a place in external data, got {text[:40]!r}")
    return int(text)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(source: ByteSource, part: Part) -> str:
    return source.read(part.start, min(part.size, MAX_NAME_BYTES)).decode("utf-8", "replace")
