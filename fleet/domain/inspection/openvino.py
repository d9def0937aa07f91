"""OpenVINO IR: the XML that describes a network. Its binary weights travel beside it as a plain file.

Parsed without document types or entities: a file that declares either is refused before anything is expanded.
"""

import xml.parsers.expat
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import (
    ByteSource,
    ForbiddenFileError,
    Inspection,
    MalformedFileError,
    StoredTensor,
    TensorInfo,
)

MAX_XML_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 15
MAX_DIMENSIONS: Final = 32
DTYPES: Final = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i4": "int4",
    "u4": "uint4",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}


def is_openvino(source: ByteSource) -> bool:
    """Whether the file is XML whose first element is `net`."""
    head = source.read(0, min(source.length, 512)).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"<net ") or (head.startswith(b"<?xml") and b"<net " in head)


class _Reader:
    """Collects layers, inputs and constants while expat walks the file."""

    def __init__(self) -> None:
        self.depth = 0
        self.root = ""
        self.ir_version = 0
        self.operators: dict[str, int] = {}
        self.elements: dict[str, int] = {}
        self.inputs: dict[str, TensorInfo] = {}
        self.constants: list[StoredTensor] = []
        self._layer: tuple[str, str] = ("", "")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise MalformedFileError(f"expected XML nested at most {MAX_DEPTH} deep, got deeper")
        if self.depth == 1:
            self.root = name
            self.ir_version = _whole(attributes.get("version", "")) or 0
        elif name == "layer":
            self._layer = (attributes.get("type", "")[:64], attributes.get("name", "")[:200])
            kind = self._layer[0]
            self.operators[kind] = self.operators.get(kind, 0) + 1
        elif name == "data":
            self._data(attributes)

    def _data(self, attributes: dict[str, str]) -> None:
        kind, name = self._layer
        dtype = DTYPES.get(attributes.get("element_type", ""), "unknown")
        shape = tuple(_whole(size) for size in attributes.get("shape", "").split(",") if size.strip())
        if len(shape) > MAX_DIMENSIONS:
            raise MalformedFileError(f"layer {name!r}: expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
        if kind == "Parameter":
            self.inputs[name] = TensorInfo(dtype, shape)
        elif kind == "Const":
            stored = StoredTensor(
                name,
                dtype,
                tuple(size or 1 for size in shape),
                _whole(attributes.get("offset", "")) or 0,
                _whole(attributes.get("size", "")) or 0,
            )
            self.constants.append(stored)
            if dtype not in {"unknown", "int32", "int64", "bool"}:
                self.elements[dtype] = self.elements.get(dtype, 0) + stored.count

    def end(self, _name: str) -> None:
        self.depth -= 1


def inspect(source: ByteSource) -> Inspection:
    """Read the description; raises MalformedFileError or ForbiddenFileError."""
    reader = _read(source)
    return Inspection(
        format=Format.OPENVINO.value,
        elements=reader.elements,
        operators=dict(sorted(reader.operators.items())),
        ir_version=reader.ir_version,
        metadata={f"input {name}"[:100]: f"{info.dtype} {list(info.shape)}" for name, info in reader.inputs.items()},
    )


def constants(source: ByteSource) -> list[StoredTensor]:
    """The constants, whose places are in the binary file beside the description; raises what `inspect` raises."""
    return _read(source).constants


def _read(source: ByteSource) -> _Reader:
    if source.length > MAX_XML_BYTES:
        raise MalformedFileError(f"expected XML of at most {MAX_XML_BYTES} bytes, got {source.length}")
    reader = _Reader()
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.EntityDeclHandler = _refuse_doctype
    try:
        parser.Parse(source.read(0, source.length), True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        # A declared encoding that Python does not have, or that is no single-byte one, ends in the last two.
        raise MalformedFileError(f"expected whole XML, got {error}") from error
    if reader.root != "net" or not reader.operators:
        raise MalformedFileError("expected a network with layers, got other XML")
    return reader


def _whole(text: str) -> int | None:
    """A number as IR writes it; None for anything else, however long."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS else None


def _refuse_doctype(*_: object) -> None:
    raise ForbiddenFileError("expected XML without a document type or entities, got one")
