"""ONNX: a protobuf walk over graph, nodes and initializers. Refuses external data, foreign operators and truncation.

Field numbers are those of onnx.proto3 (onnx/onnx, Apache-2.0).
"""

from dataclasses import dataclass, field
from math import prod
from typing import Final

from fleet.domain.formats import ONNX_DOMAINS, Format
from fleet.domain.inspection.files import (
    ByteSource,
    ForbiddenFileError,
    Inspection,
    MalformedFileError,
    TensorInfo,
    text_of,
)
from fleet.domain.inspection.protobuf import Part, Wire, numbers, parts

MAX_DEPTH: Final = 16
MAX_DIMENSIONS: Final = 32
MAX_NODES: Final = 200_000
MAX_METADATA: Final = 64
MAX_IR_VERSION: Final = 64
_EXTERNAL_DATA: Final = 13

# TensorProto.DataType -> name and bits an element.
DTYPES: Final = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4e2m1", 4),
}
# Indices, shapes and strings are no weights: they say nothing of a model's precision.
_WEIGHT_DTYPES: Final = frozenset(
    name for name, _bits in DTYPES.values() if name not in {"int64", "int32", "string", "bool", "uint32", "uint64"}
)


@dataclass
class _Findings:
    """What the walk collects."""

    elements: dict[str, int] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)  # (domain, operator)
    own: set[tuple[str, str]] = field(default_factory=set)  # functions that the model defines itself
    nodes: int = 0


@dataclass(frozen=True)
class _Graph:
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    initializers: set[str]


@dataclass
class _TensorParts:
    """What a TensorProto's fields say, before they are held against each other."""

    name: str = ""
    data_type: int = 0
    raw: int | None = None
    typed_bytes: int = 0
    dimensions: list[int] = field(default_factory=list)

    def take(self, source: ByteSource, part: Part) -> None:
        """Read one field; raises ForbiddenFileError for data that lies in another file."""
        match part.number, part.wire:
            case 1, _:
                self.dimensions += numbers(source, part, MAX_DIMENSIONS)
            case 2, Wire.VARINT:
                self.data_type = part.value
            case 8, Wire.BYTES:
                self.name = _text(source, part)
            case 9, Wire.BYTES:
                self.raw = part.size
            case ((4 | 5 | 6 | 7 | 10 | 11), _):
                self.typed_bytes += part.size
            case (13, _) | (14, Wire.VARINT) if part.number == _EXTERNAL_DATA or part.value:
                raise ForbiddenFileError(f"tensor {self.name or '?'}: expected its data in the file, got external data")
            case _:
                pass


def inspect(source: ByteSource) -> Inspection:
    """Read a whole model; raises MalformedFileError or ForbiddenFileError."""
    findings = _Findings()
    graph: _Graph | None = None
    ir_version = opset = 0
    producer, metadata = "", dict[str, str]()
    for part in parts(source, 0, source.length):
        match part.number, part.wire:
            case 1, Wire.VARINT:
                ir_version = part.value
            case 2, Wire.BYTES:
                producer = _text(source, part)
            case 7, Wire.BYTES:
                if graph is not None:
                    raise MalformedFileError("expected one graph, got a second one")
                graph = _graph(source, part, findings, 0)
            case 8, Wire.BYTES:
                domain, version = _opset(source, part)
                if domain in {"", "ai.onnx"}:
                    opset = version
            case 14, Wire.BYTES if len(metadata) < MAX_METADATA:
                key, value = _pair(source, part)
                metadata[key] = value
            case 25, Wire.BYTES:
                _function(source, part, findings)
            case _:
                pass
    if graph is None:
        raise MalformedFileError("expected an ONNX model with a graph, got none")
    _require_whole(graph, findings, ir_version=ir_version, opset=opset)
    inputs = {name: info for name, info in graph.inputs.items() if name not in graph.initializers}
    return Inspection(
        format=Format.ONNX.value,
        elements=findings.elements,
        inputs=inputs,
        outputs=graph.outputs,
        operators=dict(sorted(findings.operators.items())),
        opset=opset,
        ir_version=ir_version,
        producer=producer,
        metadata=metadata,
    )


def _require_whole(graph: _Graph, findings: _Findings, *, ir_version: int, opset: int) -> None:
    """What every ONNX model has, and nothing that runs code from elsewhere."""
    if not 1 <= ir_version <= MAX_IR_VERSION or not findings.nodes or not graph.outputs:
        raise MalformedFileError("expected an ONNX model with an IR version and a graph with nodes and outputs")
    if not opset:
        raise MalformedFileError("expected an ONNX model that imports the standard operators, got none")
    foreign = sorted(f"{domain}.{name}" for domain, name in findings.used - findings.own if domain not in ONNX_DOMAINS)
    if foreign:
        raise ForbiddenFileError(f"expected operators of {sorted(ONNX_DOMAINS)}, got custom ones: {foreign[:5]}")


def _graph(source: ByteSource, whole: Part, findings: _Findings, depth: int) -> _Graph:
    if depth > MAX_DEPTH:
        raise MalformedFileError(f"expected at most {MAX_DEPTH} nested graphs, got more")
    graph = _Graph({}, {}, set())
    for part in parts(source, whole.start, whole.end):
        if part.wire is not Wire.BYTES:
            continue
        match part.number:
            case 1:
                _node(source, part, findings, depth)
            case 5:
                graph.initializers.add(_tensor(source, part, findings))
            case 11:
                name, info = _value_info(source, part)
                graph.inputs[name] = info
            case 12:
                name, info = _value_info(source, part)
                graph.outputs[name] = info
            case 15:
                _sparse_tensor(source, part, findings)
            case _:
                pass
    return graph


def _node(source: ByteSource, whole: Part, findings: _Findings, depth: int) -> None:
    findings.nodes += 1
    if findings.nodes > MAX_NODES:
        raise MalformedFileError(f"expected at most {MAX_NODES} nodes, got more")
    operator = domain = ""
    for part in parts(source, whole.start, whole.end):
        match part.number, part.wire:
            case 4, Wire.BYTES:
                operator = _text(source, part)
            case 7, Wire.BYTES:
                domain = _text(source, part)
            case 5, Wire.BYTES:
                _attribute(source, part, findings, depth)
            case _:
                pass
    findings.used.add((domain, operator))
    findings.operators[operator] = findings.operators.get(operator, 0) + 1


def _attribute(source: ByteSource, whole: Part, findings: _Findings, depth: int) -> None:
    for part in parts(source, whole.start, whole.end):
        if part.wire is not Wire.BYTES:
            continue
        match part.number:
            case 5 | 10:
                _tensor(source, part, findings)
            case 6 | 11:
                _graph(source, part, findings, depth + 1)
            case 22 | 23:
                _sparse_tensor(source, part, findings)
            case _:
                pass


def _function(source: ByteSource, whole: Part, findings: _Findings) -> None:
    """A function of the model's own is an operator that needs no foreign code; its nodes are looked at like a graph's."""
    name = domain = ""
    for part in parts(source, whole.start, whole.end):
        if part.wire is not Wire.BYTES:
            continue
        match part.number:
            case 1:
                name = _text(source, part)
            case 7:
                _node(source, part, findings, 1)
            case 10:
                domain = _text(source, part)
            case _:
                pass
    findings.own.add((domain, name))


def _sparse_tensor(source: ByteSource, whole: Part, findings: _Findings) -> None:
    for part in parts(source, whole.start, whole.end):
        if part.number in {1, 2} and part.wire is Wire.BYTES:
            _tensor(source, part, findings)


def _tensor(source: ByteSource, whole: Part, findings: _Findings) -> str:
    """Count a tensor's elements; returns its name. Its data must lie in this file and be as long as its shape says."""
    found = _TensorParts()
    for part in parts(source, whole.start, whole.end):
        found.take(source, part)
    shown = found.name or "?"
    if (
        found.data_type not in DTYPES
        or len(found.dimensions) > MAX_DIMENSIONS
        or any(size >= 1 << 48 for size in found.dimensions)
    ):
        raise MalformedFileError(f"tensor {shown}: expected a known type and shape, got type {found.data_type}")
    dtype, bits = DTYPES[found.data_type]
    count = prod(found.dimensions)
    expected = (count * bits + 7) // 8
    if found.raw is not None and bits and found.raw != expected:
        raise MalformedFileError(f"tensor {shown}: expected {expected} bytes of data, got {found.raw}")
    if found.raw is None and count > 0 and found.typed_bytes == 0:
        raise MalformedFileError(f"tensor {shown}: expected {count} elements, got no data")
    if dtype in _WEIGHT_DTYPES:
        findings.elements[dtype] = findings.elements.get(dtype, 0) + count
    return found.name


def _value_info(source: ByteSource, whole: Part) -> tuple[str, TensorInfo]:
    name, info = "", TensorInfo("unknown", ())
    for part in parts(source, whole.start, whole.end):
        if part.wire is not Wire.BYTES:
            continue
        if part.number == 1:
            name = _text(source, part)
        elif part.number == 2:  # noqa: PLR2004 - ValueInfoProto.type
            for kind in parts(source, part.start, part.end):
                if kind.number == 1 and kind.wire is Wire.BYTES:
                    info = _tensor_type(source, kind)
    return name, info


def _tensor_type(source: ByteSource, whole: Part) -> TensorInfo:
    dtype = "unknown"
    shape: list[int | None] = []
    for part in parts(source, whole.start, whole.end):
        if part.number == 1 and part.wire is Wire.VARINT:
            dtype = DTYPES.get(part.value, ("unknown", 0))[0]
        elif part.number == 2 and part.wire is Wire.BYTES:  # noqa: PLR2004 - TypeProto.Tensor.shape
            for dimension in parts(source, part.start, part.end):
                if len(shape) >= MAX_DIMENSIONS or dimension.wire is not Wire.BYTES:
                    raise MalformedFileError(f"expected a shape of at most {MAX_DIMENSIONS} dimensions, got more")
                shape.append(_dimension(source, dimension))
    return TensorInfo(dtype, tuple(shape))


def _dimension(source: ByteSource, whole: Part) -> int | None:
    size: int | None = None
    for part in parts(source, whole.start, whole.end):
        if part.number == 1 and part.wire is Wire.VARINT:
            # -1 is how some exporters write "any size"; a varint has it as 2**64 - 1.
            size = part.value if part.value < 1 << 48 else None
    return size


def _opset(source: ByteSource, whole: Part) -> tuple[str, int]:
    domain, version = "", 0
    for part in parts(source, whole.start, whole.end):
        if part.number == 1 and part.wire is Wire.BYTES:
            domain = _text(source, part)
        elif part.number == 2 and part.wire is Wire.VARINT:  # noqa: PLR2004 - OperatorSetIdProto.version
            version = part.value
    return domain, version


def _pair(source: ByteSource, whole: Part) -> tuple[str, str]:
    key = value = ""
    for part in parts(source, whole.start, whole.end):
        if part.number == 1 and part.wire is Wire.BYTES:
            key = _text(source, part)
        elif part.number == 2 and part.wire is Wire.BYTES:  # noqa: PLR2004 - StringStringEntryProto.value
            value = _text(source, part)
    return key, value


def _text(source: ByteSource, part: Part) -> str:
    return text_of(source.read(part.start, min(part.size, 1024)))
