"""Tries the known formats in turn, and takes a file that is none of them for opaque."""

from typing import Final

from fleet.domain.errors import InvalidInputError
from fleet.domain.inspection.files import ByteSource
from fleet.domain.inspection.gguf import is_gguf
from fleet.domain.inspection.openvino import is_openvino
from fleet.domain.inspection.safetensors import is_safetensors
from fleet.domain.inspection.tflite import is_tflite
from fleet.domain.layouts import gguf, onnx, openvino, runs, safetensors, tflite
from fleet.domain.layouts.layout import Layout, RandomAccess

# Reading a header takes a few looks for each tensor, node and word of a vocabulary; real models stay far below this.
MAX_LOOKS: Final = 3_000_000


def describe(file: RandomAccess, *, name: str = "", description: RandomAccess | None = None) -> Layout:
    """The layout of `file`. Raises nothing for any bytes.

    `description` is the model file that says what lies in `file`, for weights that say nothing of themselves: the ONNX
    graph of external data, the XML of an OpenVINO binary. `name` is what that model file calls `file`.
    """
    try:
        if description is not None:
            return _described(file, name, _source(description))
        return _self_described(_source(file))
    except InvalidInputError:
        return runs.guess(file)


def _self_described(source: ByteSource) -> Layout:
    if is_gguf(source):
        return gguf.read(source)
    if is_tflite(source):
        return tflite.read(source)
    if is_safetensors(source):
        return safetensors.read(source)
    return onnx.read(source)


def _described(file: RandomAccess, name: str, description: ByteSource) -> Layout:
    if is_openvino(description):
        return openvino.read_binary(file.size, description)
    return onnx.read_external(file.size, name, description)


def _source(file: RandomAccess) -> ByteSource:
    return ByteSource(file.size, file.read_at, max_looks=MAX_LOOKS)
