"""Weights as files of every format, written from the formats' own descriptions, and casts as converters make them."""

import json
import struct
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.delta.pairs.training import Weights

_ALIGNMENT = 32
_KINDS = {"float32": "F32", "float16": "F16", "int8": "I8", "uint16": "BF16"}


def bfloat16(array: np.ndarray) -> np.ndarray:
    """Rounded to nearest even, as the upper halves of float32: `uint16` stands for bfloat16 here."""
    raw = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((raw + (((raw >> 16) & 1) + 0x7FFF)) >> 16).astype(np.uint16)


def safetensors(weights: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """One file of all tensors in their order."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "np"})}
    position = 0
    for name, array in weights.items():
        end = position + array.nbytes
        header[name] = {
            "dtype": _KINDS[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in weights.values())


def raw(weights: Weights) -> bytes:
    """Tensors one after the other, and nothing that says so."""
    return b"MYFORMAT" + bytes(24) + b"".join(array.tobytes() for array in weights.values())


def gguf(weights: Weights, kind: str) -> bytes:
    """Matrices as float32 or blocks of `q8_0` or `q4_0`, vectors as float32."""
    kinds: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
        "f32": (0, lambda array: array.tobytes()),
        "q8_0": (8, _q8_0),
        "q4_0": (2, _q4_0),
    }
    code, pack = kinds[kind]

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    data = b""
    for name, array in weights.items():
        is_matrix = array.ndim > 1 and array.shape[-1] % 32 == 0
        content = pack(array) if is_matrix else array.tobytes()
        head += text(name) + struct.pack("<I", array.ndim)
        head += b"".join(struct.pack("<Q", size) for size in reversed(array.shape))
        head += struct.pack("<IQ", code if is_matrix else 0, len(data))
        data += content + bytes(-len(content) % _ALIGNMENT)
    return head + bytes(-len(head) % _ALIGNMENT) + data


def _q8_0(array: np.ndarray) -> bytes:
    rows = array.reshape(-1, 32)
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    record = np.zeros(len(rows), np.dtype([("d", "<f2"), ("q", "i1", 32)]))
    record["d"], record["q"] = scale, np.rint(rows * inverse[:, None])
    return record.tobytes()


def _q4_0(array: np.ndarray) -> bytes:
    rows = array.reshape(-1, 32)
    extreme = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    scale = extreme / np.float32(-8)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    quants = np.clip(rows * inverse[:, None] + np.float32(8.5), 0, 15).astype(np.uint8)
    record = np.zeros(len(rows), np.dtype([("d", "<f2"), ("q", "u1", 16)]))
    record["d"], record["q"] = scale, quants[:, :16] | quants[:, 16:] << 4
    return record.tobytes()


def onnx_file(weights: Weights, *, producer: str = "trainer", external: str = "") -> tuple[bytes, bytes]:
    """(model file, external data): a graph with one node a tensor; with `external`, its data lies in that file."""
    tensors, nodes, data = [], [], b""
    for name, array in weights.items():
        tensor = numpy_helper.from_array(array, name)
        if external and array.nbytes > 1_024:
            data += bytes(-len(data) % 4_096)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", external), ("offset", str(len(data))), ("length", str(array.nbytes))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
            data += array.tobytes()
        tensors.append(tensor)
        nodes.append(helper.make_node("Identity", [name], [f"{name}.out"], name=f"node_{name}"))
    return _model(tensors, nodes, producer), data


def onnx_int8(weights: Weights, *, margin: float = 1.0) -> bytes:
    """Matrices quantised to int8 by rows with QDQ nodes, as the common tools do; `margin` widens the calibrated range."""
    tensors, nodes = [], []
    for name, array in weights.items():
        if array.ndim == 1:
            tensors.append(numpy_helper.from_array(array, name))
            nodes.append(helper.make_node("Identity", [name], [f"{name}.out"]))
            continue
        scale = (np.abs(array).max(axis=1) * np.float32(margin) / np.float32(127)).astype(np.float32)
        scale[scale == 0] = 1
        quantised = np.clip(np.rint(array / scale[:, None]), -128, 127).astype(np.int8)
        tensors += [
            numpy_helper.from_array(quantised, f"{name}_quantized"),
            numpy_helper.from_array(scale, f"{name}_scale"),
            numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero_point"),
        ]
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.out"], axis=0))
    return _model(tensors, nodes, "quantiser")


def _model(tensors: list[onnx.TensorProto], nodes: list[onnx.NodeProto], producer: str) -> bytes:
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes, "model", [], [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], tensors
    )
    model = helper.make_model(graph, ir_version=9, producer_name=producer, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString(deterministic=True))
