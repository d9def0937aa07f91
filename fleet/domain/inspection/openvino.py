"""OpenVINO IR: the XML that describes a network. Its binary weights travel beside it as a plain file.

Parsed without document types or entities: a file that declares either is refused before anything is expanded.
"""

import xml.parsers.expat
from typing import Final

from fleet.domain.formats import Format
from fleet.domain.inspection.files import ByteSource, ForbiddenFileError, Inspection, MalformedFileError, TensorInfo

MAX_XML_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 64
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
        self._layer: tuple[str, str] = ("", "")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise MalformedFileError(f"expected XML nested at most {MAX_DEPTH} deep, got deeper")
        if self.depth == 1:
            self.root = name
            self.ir_version = int(attributes["version"]) if attributes.get("version", "").isdigit() else 0
        elif name == "layer":
            self._layer = (attributes.get("type", "")[:64], attributes.get("name", "")[:200])
            kind = self._layer[0]
            self.operators[kind] = self.operators.get(kind, 0) + 1
        elif name == "data":
            self._data(attributes)

    def _data(self, attributes: dict[str, str]) -> None:
        kind, name = self._layer
        dtype = DTYPES.get(attributes.get("element_type", ""), "unknown")
        shape = tuple(
            int(size) if size.strip().isdigit() else None
            for size in attributes.get("shape", "").split(",")
            if size.strip()
        )
        if kind == "Parameter":
            self.inputs[name] = TensorInfo(dtype, shape)
        elif kind == "Const" and dtype not in {"unknown", "int32", "int64", "bool"}:
            count = 1
            for size in shape:
                count *= size or 1
            self.elements[dtype] = self.elements.get(dtype, 0) + count

    def end(self, _name: str) -> None:
        self.depth -= 1


def inspect(source: ByteSource) -> Inspection:
    """Read the description; raises MalformedFileError or ForbiddenFileError."""
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
    except xml.parsers.expat.ExpatError as error:
        raise MalformedFileError(f"expected whole XML, got {error}") from error
    if reader.root != "net" or not reader.operators:
        raise MalformedFileError("expected a network with layers, got other XML")
    return Inspection(
        format=Format.OPENVINO.value,
        elements=reader.elements,
        operators=dict(sorted(reader.operators.items())),
        ir_version=reader.ir_version,
        metadata={f"input {name}"[:100]: f"{info.dtype} {list(info.shape)}" for name, info in reader.inputs.items()},
    )


def _refuse_doctype(*_: object) -> None:
    raise ForbiddenFileError("expected XML without a document type or entities, got one")
